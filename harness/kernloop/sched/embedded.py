# SPDX-License-Identifier: Apache-2.0
"""The BPF objects inside a program: skeletons of bpftool and of libbpf-cargo keep the whole ELF file in .rodata.

So a scheduler's loader is known from any other program without being run, and its object can be looked at.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

from elftools.elf.elffile import ELFFile

from kernloop.host.elf import DAMAGE

__all__ = ["is_scheduler", "objects", "schedulers"]

# ELFCLASS64, little-endian, version 1.
_MAGIC = b"\x7fELF\x02\x01\x01"
_EM_BPF = 247
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SHT_NOBITS = 8


def objects(program: Path) -> list[bytes]:
    """The BPF objects in the file `program`, in their order, each once; none when it cannot be read."""
    try:
        data = program.read_bytes()
    except OSError:
        return []
    return list(dict.fromkeys(_found(data)))


def is_scheduler(data: bytes) -> bool:
    """Whether the BPF object `data` defines a sched_ext scheduler."""
    try:
        elf = ELFFile(BytesIO(data))
        types = elf.get_section_by_name(".BTF")
        ops = [section for section in elf.iter_sections() if section.name.startswith(".struct_ops")]
        return bool(ops) and types is not None and b"\0sched_ext_ops" in types.data()
    except DAMAGE:
        return False


def schedulers(program: Path) -> list[bytes]:
    """The objects in `program` that are schedulers."""
    return [data for data in objects(program) if is_scheduler(data)]


def _found(data: bytes) -> Iterator[bytes]:
    at = data.find(_MAGIC, 1)
    while at >= 0:
        if (size := _size(data, at)) and at + size <= len(data):
            yield data[at : at + size]
        at = data.find(_MAGIC, at + 1)


# Where the last of the header, the sections and their table ends; 0 for what is no BPF object.
def _size(data: bytes, at: int) -> int:
    if len(data) < at + _HEADER.size:
        return 0
    _, _, machine, _, _, _, table, _, _, _, _, entry, count, _ = _HEADER.unpack_from(data, at)
    if machine != _EM_BPF or entry != _SECTION.size or at + table + entry * count > len(data):
        return 0
    end = int(table + entry * count)
    for number in range(count):
        _, kind, _, _, offset, size, *_ = _SECTION.unpack_from(data, at + table + number * entry)
        if kind != _SHT_NOBITS:
            end = max(end, offset + size)
    return end
