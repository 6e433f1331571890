# SPDX-License-Identifier: Apache-2.0
"""The two kinds of guests, started alike: a micro-VM of its own initramfs, or the host's user space as its root."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from kernloop.errors import UsageError
from kernloop.host import toolset
from kernloop.kernel.kernel import Kernel
from kernloop.runs import Run
from kernloop.vm import accel, guests, pstore
from kernloop.vm.argv import MachineSpec, VirtualTime
from kernloop.vm.guest import Guest
from kernloop.vm.session import GUEST_ENV, Session
from kernloop.vm.share import HOSTED_ENV, Share
from kernloop.vm.topology import Topology
from kernloop.vm.watch import attend, hosted

__all__ = ["BACKENDS", "KGDB_HINT", "Backend", "backend", "missing_kgdb"]

BACKENDS = ("micro", "vng")


@dataclass(frozen=True)
class Backend:
    """A guest of one kind, what its commands find in their environment, and where they start."""

    guest: Guest
    env: Mapping[str, str]
    cwd: str
    share: Share | None

    @contextlib.asynccontextmanager
    async def attend(self, payload: bytes, run: Run, *, cold: bool = False) -> AsyncIterator[Session]:
        """The guest, handed `payload`; a micro-VM is restored from the snapshot of its boot unless `cold`."""
        if self.share is None:
            async with attend(self.guest, payload, run, cold=cold) as session:
                yield session
            return
        from kernloop.vm import vng  # with what reads ELF files, which a micro-VM does not need

        with (
            run.scratch("payload") as handed,
            vng.host_root(
                self.guest.qemu, self.guest.spec, self.guest.kernel, self.share, run.path, payload=handed
            ) as root,
        ):
            handed.write_bytes(payload)
            async with hosted(self.guest, root, run) as session:
                yield session


def backend(
    name: str,
    kernel: Kernel,
    topology: Topology,
    memory: int,
    *,
    append: tuple[str, ...] = (),
    virtual: VirtualTime | None = None,
    share: Share | None = None,
    kgdb: bool = False,
) -> Backend:
    """The guest of backend `name` with `memory` MiB, ready for `kgdb` if asked.

    Raises UsageError for what a backend or the kernel cannot do.
    """
    if kgdb:
        _must_have_kgdb(kernel)
        if virtual is not None:
            raise UsageError("virtual time and KGDB do not go together: who debugs is no part of it", hint="no --seed")
    if name not in BACKENDS:
        raise UsageError(f"there is no backend {name!r}", hint=" or ".join(BACKENDS))
    if name == "micro":
        return Backend(
            guests.micro(kernel, topology, memory, append=append, virtual=virtual, kgdb=kgdb), GUEST_ENV, "/root", None
        )
    if virtual is not None:
        raise UsageError(
            "virtual time cannot be had with the host's files: when they are read is the host's affair",
            hint="use --backend micro",
        )
    tools = toolset.get()
    spec = MachineSpec(
        topology, memory, accel.prove(kernel).name, None, (*pstore.words(kernel, memory, append), *append), kgdb
    )
    guest = Guest(tools.qemu, tools.id, tools.qemu_version, spec, kernel, Path())
    shared = share or Share(Path.cwd())
    return Backend(guest, HOSTED_ENV, str(shared.folder), shared)


# What the kernel must have built in: the port is named on its command line.
_NEEDS_OF_KGDB = ("KGDB", "KGDB_SERIAL_CONSOLE", "MAGIC_SYSRQ_SERIAL")
KGDB_HINT = "kernloop kernel build DIR --fragment kgdb, then --kernel tree:DIR; without KGDB: kernloop debug gdb"


def missing_kgdb(kernel: Kernel) -> str:
    """The symbol that keeps `kernel` from being debugged by its own debugger, "" for none that is known."""
    config = kernel.config
    return next((one for one in _NEEDS_OF_KGDB if config is not None and config.get(one) != "y"), "")


def _must_have_kgdb(kernel: Kernel) -> None:
    if missing := missing_kgdb(kernel):
        assert kernel.config is not None
        value = kernel.config.get(missing, "not set")
        raise UsageError(f"{kernel.ref} cannot be debugged by KGDB: CONFIG_{missing} is {value}", hint=KGDB_HINT)
