# SPDX-License-Identifier: Apache-2.0
"""A guest's memory for drgn, read out of QEMU's: one pread for a value.

drgn's own QMP target (Program.set_qemu_qmp) wants a monitor of its own with a name, and the host's leave to read QEMU's
memory; without that each KiB is a monitor command. What drgn does with the memory is the same: it walks the kernel's
page tables. That takes four reads a value, so the kernel's image and the direct map, which is where nearly all lies,
are segments of their own: their addresses and the physical ones differ by a constant.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator

from drgn import Program

from kernloop.errors import HarnessError
from kernloop.vm.answers import GuestMemory
from kernloop.vm.ram import Ram, note_in

__all__ = ["add_direct_map", "add_image", "add_memory", "find_vmcoreinfo"]

# arch/x86/include/asm/page_64_types.h: __START_KERNEL_map, and KERNEL_IMAGE_SIZE with KASLR.
_KERNEL_MAP = 0xFFFFFFFF80000000
_KERNEL_MAP_SIZE = 1 << 30
_SYMBOL = re.compile(rb"^SYMBOL\(\w+\)=([0-9a-f]+)$", re.MULTILINE)
_PHYS_BASE = re.compile(rb"^NUMBER\(phys_base\)=(-?\d+)$", re.MULTILINE)
_PIECE = 1 << 20
_OVERLAP = 1 << 16


def add_memory(prog: Program, memory: GuestMemory) -> None:
    """Physical memory."""
    for one in memory.ram:
        prog.add_memory_segment(one.start, one.size, _reader(memory.file, one), True)


def add_image(prog: Program, memory: GuestMemory, vmcoreinfo: bytes) -> None:
    """The kernel's image by its virtual addresses, as far as `vmcoreinfo` tells where it is."""
    base = _PHYS_BASE.search(vmcoreinfo)
    known = [int(address, 16) for address in _SYMBOL.findall(vmcoreinfo)]
    known = [address for address in known if _KERNEL_MAP <= address < _KERNEL_MAP + _KERNEL_MAP_SIZE]
    if base is None or not known:
        return
    shift = int(base[1]) - _KERNEL_MAP
    _add_mapped(prog, memory, min(known), max(known) & ~0xFFF, shift)


def add_direct_map(prog: Program, memory: GuestMemory, base: int) -> None:
    """All memory by its addresses in the direct map, which begins at `base` (page_offset_base)."""
    for one in memory.ram:
        _add_mapped(prog, memory, base + one.start, base + one.start + one.size, -base)


def find_vmcoreinfo(memory: GuestMemory) -> bytes:
    """VMCOREINFO from the memory itself, for a kernel that has not told QEMU (no qemu_fw_cfg). Raises HarnessError."""
    for one in memory.ram:
        for piece in _pieces(memory.file, one):
            if found := note_in(piece):
                return found
    raise HarnessError(
        "no kernel that says where its tables are (VMCOREINFO) is in this guest's memory",
        hint="has it booted? its kernel needs CONFIG_VMCORE_INFO (CRASH_DUMP, KEXEC)",
    )


def _pieces(file: int, one: Ram) -> Iterator[bytes]:
    read = _reader(file, one)
    for at in range(0, one.size, _PIECE):
        yield bytes(read(one.start + at, min(_PIECE + _OVERLAP, one.size - at), at, True))


def _add_mapped(prog: Program, memory: GuestMemory, begin: int, end: int, shift: int) -> None:
    for one in memory.ram:
        first, last = max(begin, one.start - shift), min(end, one.start + one.size - shift)
        if first < last:
            prog.add_memory_segment(first, last - first, _reader(memory.file, one, first + shift - one.start), False)


def _reader(file: int, one: Ram, into: int = 0) -> Callable[[int, int, int, bool], bytes]:
    host = one.host + into
    pread = os.pread

    def read(address: int, count: int, offset: int, physical: bool) -> bytes:
        try:
            data = pread(file, count, host + offset)
        except OSError:
            data = b""
        if len(data) != count:
            data += _rest(file, host + offset + len(data), count - len(data))
        return data

    return read


# A read ends early where QEMU has mapped memory in pieces; it gives nothing at all once QEMU has ended.
def _rest(file: int, at: int, count: int) -> bytes:
    data = b""
    while len(data) < count:
        try:
            piece = os.pread(file, count - len(data), at + len(data))
        except OSError:
            piece = b""
        if not piece:
            raise HarnessError("the guest's memory is gone: its QEMU has ended", hint="kernloop vm list")
        data += piece
    return data
