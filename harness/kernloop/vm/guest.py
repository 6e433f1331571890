# SPDX-License-Identifier: Apache-2.0
"""What a machine is made of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kernloop.kernel.kernel import Kernel
from kernloop.vm import snapshots
from kernloop.vm.argv import Channels, MachineSpec, Start, qemu_argv

__all__ = ["Guest"]


@dataclass(frozen=True)
class Guest:
    """What a machine is made of; equal guests can be restored from one snapshot.

    `toolset` and `qemu_version` name the very build of QEMU.
    """

    qemu: Path
    toolset: str
    qemu_version: str
    spec: MachineSpec
    kernel: Kernel
    initramfs: Path

    def argv(self, start: Start, channels: Channels) -> list[str]:
        return qemu_argv(self.qemu, self.spec, self.bootable, start, channels)

    @property
    def bootable(self) -> Path:
        """What QEMU starts. KASLR is done by what unpacks the kernel (arch/x86/boot/compressed/kaslr.c)."""
        return self.kernel.image if self.spec.kaslr else self.kernel.bootable

    def key(self) -> str:
        """The name of the snapshot of its boot."""
        nowhere = Path("/")
        channels = Channels((0, 0), (0, 0), 0, nowhere, 0 if self.spec.kgdb else None)
        words = qemu_argv(nowhere, self.spec, nowhere, Start(freeze=True), channels)
        cpu = Path("/proc/cpuinfo").read_text().split("\n\n")[0] if self.spec.accelerator == "kvm" else ""
        initramfs = self.initramfs.parent.name
        made_of = [self.toolset, self.qemu_version, self.kernel.digest, self.bootable.name, initramfs, cpu]
        return snapshots.key([*made_of, *words])
