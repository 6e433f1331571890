# SPDX-License-Identifier: Apache-2.0
"""QEMU's command line for a micro-VM, made from a specification alone: no process, file or clock is touched here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["Channels", "MachineSpec", "VirtualTime", "attachments", "command_line", "qemu_argv"]

# A panic waits for the debugger (panic=0 is for ever; QEMU pauses on pvpanic's event). SysRq is let through. nokaslr
# keeps addresses equal over runs; crypto self-tests and DAMON's statistics would only take CPU time from the boot.
_COMMAND_LINE = (
    "console=ttyS0 panic=0 nokaslr sysrq_always_enabled cryptomgr.notests damon_stat.enabled=0 "
    "unknown_nmi_panic=1 rdinit=/init"
)


@dataclass(frozen=True)
class VirtualTime:
    """icount: the guest's clock follows its instructions, 2**shift ns each, and jumps over idle time.

    Another `seed` is another interleaving, as repeatable as the first. It travels as a word of the kernel command line,
    where its bytes shift what follows: QEMU's own -seed feeds rdrand only, which virtual time must leave out.
    """

    shift: int = 4
    seed: int = 1


@dataclass(frozen=True)
class MachineSpec:
    """What machine to make; `memory` in MiB, `accelerator` "kvm" or "tcg", `append` more kernel arguments."""

    cpus: int = 2
    memory: int = 512
    accelerator: str = "tcg"
    virtual_time: VirtualTime | None = None
    append: tuple[str, ...] = ()


@dataclass(frozen=True)
class Channels:
    """How QEMU is reached, by inherited descriptors: pipes (for its output, for its input) for console and agent, a
    connected socket for QMP; and the file that keeps all console output."""

    console: tuple[int, int]
    agent: tuple[int, int]
    qmp: int
    console_log: Path


def qemu_argv(qemu: Path, spec: MachineSpec, kernel: Path, initramfs: Path, channels: Channels) -> list[str]:
    """The argv. Descriptors are inherited: nothing in the file system names them, nothing is left when QEMU dies."""
    return [
        str(qemu),
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-no-reboot",
        "-machine",
        "q35",
        *_timing(spec),
        "-smp",
        str(spec.cpus),
        "-m",
        f"{spec.memory}M",
        "-kernel",
        str(kernel),
        "-initrd",
        str(initramfs),
        "-append",
        " ".join(command_line(spec)),
        *attachments(channels),
    ]


def command_line(spec: MachineSpec) -> list[str]:
    """The words for the kernel."""
    return [*_COMMAND_LINE.split(), *_seed(spec), *spec.append]


def attachments(channels: Channels) -> list[str]:
    """What makes any machine one that can be watched: console, agent, QMP, and a panic that is seen and pauses it."""
    return [
        "-action",
        "panic=pause",
        "-device",
        "pvpanic-pci",
        "-device",
        "vmcoreinfo",
        "-chardev",
        f"{_pipes('console', channels.console)},logfile={_escape(channels.console_log)}",
        "-serial",
        "chardev:console",
        "-chardev",
        _pipes("agent", channels.agent),
        # ioeventfd would hand the guest's kicks to another thread: in virtual time that makes their timing random.
        "-device",
        "virtio-serial-pci,ioeventfd=off",
        "-device",
        "virtserialport,chardev=agent,name=kernloop",
        "-chardev",
        f"socket,id=qmp,fd={channels.qmp}",
        "-mon",
        "chardev=qmp,mode=control",
    ]


def _seed(spec: MachineSpec) -> list[str]:
    return [f"kernloop.seed={spec.virtual_time.seed}"] if spec.virtual_time is not None else []


# Multi-threaded TCG corrupts static keys in every QEMU up to 11.1 (Oops: int3), hence thread=single.
def _timing(spec: MachineSpec) -> list[str]:
    if spec.virtual_time is not None:
        return [
            "-accel",
            "tcg,thread=single",
            "-cpu",
            "max,-rdrand,-rdseed",
            "-icount",
            f"shift={spec.virtual_time.shift},sleep=off,align=off",
            "-rtc",
            "base=2020-01-01,clock=vm",
        ]
    if spec.accelerator == "kvm":
        return ["-accel", "kvm", "-cpu", "host"]
    return ["-accel", "tcg,thread=single", "-cpu", "max"]


# The file chardev opens what it is given; append keeps it from truncating, which a pipe would refuse.
def _pipes(name: str, ends: tuple[int, int]) -> str:
    out, into = ends
    return f"file,id={name},path=/dev/fd/{out},append=on,input-path=/dev/fd/{into}"


def _escape(path: Path) -> str:
    return str(path).replace(",", ",,")
