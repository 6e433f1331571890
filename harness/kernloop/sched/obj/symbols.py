# SPDX-License-Identifier: Apache-2.0
"""The symbols of an object, and what its relocations name: an object has thousands, so they are read as one array."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from elftools.elf.elffile import ELFFile
from elftools.elf.sections import Section, SymbolTableSection

__all__ = ["Symbol", "relocations", "symbols"]

# Elf64_Sym and Elf64_Rel of elf(5), little-endian: all objects of clang -target bpf.
_SYMBOL = struct.Struct("<IBBHQQ")
_RELOCATION = struct.Struct("<QQ")
_KINDS = {1: "object", 2: "func", 3: "section"}
_BINDS = {0: "local", 2: "weak"}
_FIRST_RESERVED = 0xFF00


class Symbol(NamedTuple):
    """`kind`: object, func, section or other; `bind`: local, weak or global; `section` is None for undefined ones."""

    name: str
    value: int
    size: int
    kind: str
    bind: str
    section: int | None


def symbols(elf: ELFFile) -> list[Symbol]:
    """All of .symtab, in order. Raises what a damaged file makes struct and bytes raise."""
    part = elf.get_section_by_name(".symtab")
    if not isinstance(part, SymbolTableSection):
        return []
    names: bytes = part.stringtable.data()
    raw = part.data()
    found = []
    for name, info, _, section, value, size in _SYMBOL.iter_unpack(raw[: len(raw) // _SYMBOL.size * _SYMBOL.size]):
        where = section if 0 < section < _FIRST_RESERVED else None
        kind, bind = _KINDS.get(info & 15, "other"), _BINDS.get(info >> 4, "global")
        text = names[name : names.index(b"\0", name)].decode("utf-8", "replace")
        found.append(Symbol(text, value, size, kind, bind, where))
    return found


def relocations(part: Section) -> Iterator[tuple[int, int]]:
    """Of a section of SHT_REL: the byte that each is about, and the number of its symbol."""
    raw = part.data()
    for offset, info in _RELOCATION.iter_unpack(raw[: len(raw) // _RELOCATION.size * _RELOCATION.size]):
        yield offset, info >> 32
