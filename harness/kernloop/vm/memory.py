# SPDX-License-Identifier: Apache-2.0
"""Where a guest's memory lies in its QEMU, so that whoever has /proc/PID/mem of that can read it past the guest.

A restored guest's memory is mapped privately from its snapshot, others' is anonymous: no file has it. /proc/PID/mem has
it in each case. It is opened by the supervisor, QEMU's parent, for who else may is the host's affair (Yama).
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from kernloop.errors import HarnessError
from kernloop.vm.machine import Machine
from kernloop.vm.ram import Ram, note_in, regions

__all__ = ["memory_file", "ram", "registers", "vmcoreinfo"]

_SECONDS = 30.0
# Enough of memory for QEMU to write a dump that carries VMCOREINFO.
_LITTLE = 4096
_HOST = re.compile(r"Host virtual address for \S+ \(.*\) is (0x[0-9a-f]+)")


async def ram(machine: Machine) -> tuple[Ram, ...]:
    """All of a guest's memory. Raises HarnessError when QEMU does not tell."""
    found = []
    for start, size in regions(await _monitor(machine, "info mtree -f")):
        told = _HOST.match(await _monitor(machine, f"gpa2hva {start:#x}"))
        if told:
            found.append(Ram(start, size, int(told[1], 16)))
    if not found:
        raise HarnessError("QEMU does not say where the guest's memory lies", hint="is it another QEMU than doctor's?")
    return tuple(found)


async def registers(machine: Machine) -> str:
    """The registers of all CPUs as QEMU's monitor prints them; those of a guest that runs are of one moment each."""
    return await _monitor(machine, "info registers -a")


async def vmcoreinfo(machine: Machine, folder: Path) -> bytes:
    """What the kernel has told QEMU of itself (-device vmcoreinfo), b"" when nothing; `folder` is for a file.

    QEMU gives it away in dumps only. Raises HarnessError.
    """
    dump = folder / "note"
    arguments = {"paging": False, "protocol": f"file:{dump}", "begin": 0, "length": _LITTLE, "format": "elf"}
    try:
        await machine.qmp("dump-guest-memory", arguments, seconds=_SECONDS)
        return note_in(dump.read_bytes())
    finally:
        dump.unlink(missing_ok=True)


def memory_file(machine: Machine) -> int:
    """A descriptor of QEMU's own memory; reads give nothing once it has ended. Raises HarnessError."""
    try:
        return os.open(f"/proc/{machine.pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise HarnessError(
            f"QEMU's memory cannot be read: {error.strerror}", hint="has QEMU ended? kernloop vm list"
        ) from None


async def _monitor(machine: Machine, command: str) -> str:
    return str(await machine.qmp("human-monitor-command", {"command-line": command}))
