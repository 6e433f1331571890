# SPDX-License-Identifier: Apache-2.0
"""From what users ask for to the guest that is started."""

from __future__ import annotations

from collections.abc import Sequence

from kernloop.host import toolset
from kernloop.kernel.kernel import Kernel
from kernloop.vm import accel, initramfs, order, pstore
from kernloop.vm.argv import MachineSpec, VirtualTime
from kernloop.vm.guest import Guest
from kernloop.vm.initramfs import Payload
from kernloop.vm.topology import Topology

__all__ = ["micro"]


def micro(
    kernel: Kernel,
    topology: Topology,
    memory: int,
    *,
    append: tuple[str, ...] = (),
    virtual: VirtualTime | None = None,
    files: Sequence[Payload] = (),
    kgdb: bool = False,
) -> Guest:
    """A micro-VM of `kernel` with `memory` MiB and `files` in its initramfs, on the best accelerator that works."""
    tools = toolset.get()
    accelerator = "tcg" if virtual else accel.prove(kernel).name
    spec = MachineSpec(topology, memory, accelerator, virtual, (*pstore.words(kernel, memory, append), *append), kgdb)
    qemu = order.qemu() if virtual else tools.qemu
    made_by = f"{tools.id} {qemu.parent.name}"
    return Guest(qemu, made_by, tools.qemu_version, spec, kernel, initramfs.image(kernel, files))
