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
from kernloop.vm.session import GUEST_ENV, Session, attend, hosted
from kernloop.vm.share import HOSTED_ENV, Share
from kernloop.vm.topology import Topology

__all__ = ["BACKENDS", "Backend", "backend"]

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
) -> Backend:
    """The guest of backend `name` with `memory` MiB. Raises UsageError for what a backend cannot do."""
    if name not in BACKENDS:
        raise UsageError(f"there is no backend {name!r}", hint=" or ".join(BACKENDS))
    if name == "micro":
        return Backend(guests.micro(kernel, topology, memory, append=append, virtual=virtual), GUEST_ENV, "/root", None)
    if virtual is not None:
        raise UsageError(
            "virtual time cannot be had with the host's files: when they are read is the host's affair",
            hint="use --backend micro",
        )
    tools = toolset.get()
    spec = MachineSpec(
        topology, memory, accel.prove(kernel).name, None, (*pstore.words(kernel, memory, append), *append)
    )
    guest = Guest(tools.qemu, tools.id, tools.qemu_version, spec, kernel, Path())
    shared = share or Share(Path.cwd())
    return Backend(guest, HOSTED_ENV, str(shared.folder), shared)
