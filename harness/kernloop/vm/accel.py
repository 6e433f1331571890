# SPDX-License-Identifier: Apache-2.0
"""Whether KVM really runs guests here: proved by booting one, remembered until the host or QEMU changes.

/dev/kvm can exist, open and create a VM and still not run an ordinary guest: QEMU then dies before the first console
line, or nothing ever happens.
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kernloop.errors import HarnessError
from kernloop.host import owned, toolset
from kernloop.host.paths import cache_dir
from kernloop.kernel.kernel import Kernel
from kernloop.vm import initramfs
from kernloop.vm.argv import Channels, MachineSpec, Start, qemu_argv
from kernloop.vm.qemu import start
from kernloop.vm.topology import Topology

__all__ = ["Accelerator", "prove", "remembered"]

_SECONDS = 20.0


@dataclass(frozen=True)
class Accelerator:
    """`name` is "kvm" or "tcg"; `why` says how that is known."""

    name: str
    why: str


def remembered() -> Accelerator | None:
    """What an earlier proof on this boot of the host, with this QEMU, found."""
    try:
        return Accelerator(**json.loads(_memo().read_text()))
    except (OSError, ValueError, TypeError):
        return None


def prove(kernel: Kernel) -> Accelerator:
    """The best accelerator that boots `kernel` to our init within 20 s."""
    if (known := remembered()) is not None:
        return known
    if not Path("/dev/kvm").exists():
        found = Accelerator("tcg", "there is no /dev/kvm")
    elif not os.access("/dev/kvm", os.R_OK | os.W_OK):
        found = Accelerator("tcg", "/dev/kvm may not be opened by this user (is it in the group kvm?)")
    else:
        found = _proved(kernel)
        if found.name == "tcg" and not kernel.ref.startswith("debian:"):
            return found  # it may be the kernel under test that does not boot: ask again with another
    memo = _memo()
    memo.parent.mkdir(parents=True, exist_ok=True)
    staged = memo.with_suffix(f".{os.getpid()}")
    staged.write_text(json.dumps(asdict(found)))
    staged.rename(memo)
    return found


def _proved(kernel: Kernel) -> Accelerator:
    try:
        return asyncio.run(_try_kvm(kernel))
    except HarnessError as error:
        return Accelerator("tcg", f"KVM opens but QEMU cannot use it: {error.message}")


async def _try_kvm(kernel: Kernel) -> Accelerator:
    lines: list[str] = []
    with tempfile.TemporaryDirectory(prefix="kernloop-kvm-") as name, owned.folder(Path(name)):
        spec = MachineSpec(Topology(1), accelerator="kvm")
        begin = Start(initramfs=initramfs.image(kernel))

        def argv(channels: Channels) -> list[str]:
            return qemu_argv(toolset.get().qemu, spec, kernel.bootable, begin, channels)

        async with start(argv, Path(name), lines.append) as machine:
            signs: set[asyncio.Future[Any]] = {machine.hello, machine.ended}
            await asyncio.wait(signs, timeout=_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if machine.hello.done():
                return Accelerator("kvm", "booted a guest")
            if machine.ended.done():
                said = machine.ended.result().stderr.splitlines()
                return Accelerator("tcg", f"KVM opens but runs no guest: {said[0] if said else 'QEMU just ended'}")
            state = await machine.qmp("query-status")
    seen = "its last console line: " + lines[-1] if lines else "it printed nothing"
    return Accelerator(
        "tcg", f"KVM opens but a guest was not up after {_SECONDS:g} s (QEMU says {state['status']}); {seen}"
    )


def _memo() -> Path:
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return cache_dir() / "accel" / f"{boot_id}-{toolset.get().version('qemu-system-x86').replace(':', '_')}.json"
