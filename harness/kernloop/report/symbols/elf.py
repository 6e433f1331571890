# SPDX-License-Identifier: Apache-2.0
"""A vmlinux or a module as an ELF file: its symbols by name and by address, its bytes, its build-id.

Symbols are read with `struct`, for a distribution's vmlinux has 200,000 of them and a library's object for each costs
seconds. The kernel prints no ELF size behind the `/` of `function+0x10/0x80` but the distance to the next symbol
(`get_symbol_pos()` in kernel/kallsyms.c, `find_kallsyms_symbol()` in kernel/module/kallsyms.c): padding counts. So
does `Symbol.size` here.
"""

from __future__ import annotations

import mmap
import re
import struct
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from pathlib import Path
from typing import Any

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

__all__ = ["Image", "NotAnImage", "Reference", "Section", "Symbol"]

# A name's offset in the string table, address, ELF size, section.
_Entry = tuple[int, int, int, int]
_SYMBOL = struct.Struct("<IBBHQQ")
_RELA = struct.Struct("<QQq")
_UNDEFINED, _FIRST_RESERVED = 0, 0xFF00
_SECTION_SYMBOL, _FILE_SYMBOL, _TLS_SYMBOL = 3, 4, 6
_ALLOC, _EXEC = 0x2, 0x4
_NOBITS = 8
# What scripts/mksysmap keeps out of kallsyms, so that the symbol before it reaches beyond it.
_HIDDEN = re.compile(
    rb"\$|\.L|__efistub_|__kcfi_typeid_|__crc_|__kstrtab|__mod_device_table__|__UNIQUE_ID_modinfo_\d+$"
)
_PREFIXES = (b"$", b".L", b"__")
# Modules' sections get addresses of their own; these are where x86 has modules, and no vmlinux.
_MODULES_FROM, _GAP = 0xFFFFFFFFC0000000, 0x1000


class NotAnImage(Exception):
    """The file is no vmlinux and no module of a 64-bit little-endian kernel; the text says what it is."""


@dataclass(frozen=True)
class Section:
    name: str
    address: int
    size: int
    offset: int
    executable: bool
    stored: bool
    index: int


@dataclass(frozen=True)
class Symbol:
    """`size` is the distance to the next symbol; `last` that nothing follows in its section, so that nobody knows."""

    name: str
    address: int
    size: int
    elf_size: int
    last: bool
    section: Section


@dataclass(frozen=True)
class Reference:
    """What an operand refers to: `offset` bytes behind `name`, whose address is None when it is another file's."""

    name: str
    offset: int
    address: int | None


class Image:
    """One ELF file, mapped. A module's sections get addresses of their own from `base` on."""

    def __init__(self, path: Path, base: int = _MODULES_FROM) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self._elf = ELFFile(file)
                header = self._elf.header
                if self._elf.elfclass != 64 or not self._elf.little_endian:
                    raise NotAnImage(f"{path} is no 64-bit little-endian ELF file")
                self.is_module = header["e_type"] == "ET_REL"
                self.machine = str(header["e_machine"])
                self.sections = tuple(self._sections(base))
                loads = [s["p_vaddr"] for s in self._elf.iter_segments() if s["p_type"] == "PT_LOAD"]
                first = min(section.address for section in self.sections)
                # vmlinux: the first segment, for that is what drgn counts from (x86's per-CPU one lies at 0, later).
                self.start = int(loads[0]) if loads and not self.is_module else first
                self.build_id = _build_id(self._elf)
                # Debugging information can lie in the file, compressed or not.
                self.has_dwarf = any(s.name in (".debug_info", ".zdebug_info") for s in self._elf.iter_sections())
                table = self._elf.get_section_by_name(".symtab")
                self._table: tuple[Any, Any] | None = None
                if table is not None:
                    names = self._elf.get_section(table["sh_link"])
                    self._table = (_extent(table), _extent(names))
                self._relocations = {
                    int(s["sh_info"]): _extent(s) for s in self._elf.iter_sections() if s["sh_type"] == "SHT_RELA"
                }
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                if any(offset + size > len(self._map) for offset, size in self._extents()):
                    raise NotAnImage(f"{path} is cut off")
        except (OSError, ValueError) as error:
            raise NotAnImage(f"{path} cannot be read: {error}") from None
        except ELFError:
            raise NotAnImage(f"{path} is no ELF file") from None
        self._by_index = {section.index: section for section in self.sections}

    @property
    def module(self) -> str | None:
        """The module's name as the kernel prints it; None for vmlinux."""
        return self.path.name.partition(".ko")[0].replace("-", "_") if self.is_module else None

    @property
    def end(self) -> int:
        return max(section.address + section.size for section in self.sections)

    @property
    def has_symbols(self) -> bool:
        return self._table is not None

    def find(self, name: str) -> list[Symbol]:
        """All code that has this name: static functions of several files may."""
        return self._found(name, self._code)

    def named(self, name: str) -> list[Symbol]:
        """All code and data that has this name."""
        return self.find(name) + self._found(name, self._data)

    def at(self, address: int) -> Symbol | None:
        """The symbol that `address` is in, code or data."""
        section = next((s for s in self.sections if s.address <= address < s.address + s.size), None)
        if section is None:
            return None
        table = self._code if section.executable else self._data
        index = bisect_right(table.addresses, address) - 1
        return self._symbol(table, table.entries[index]) if index >= 0 else None

    def read(self, address: int, size: int) -> bytes:
        """Bytes as they are in the file; fewer, or none, where it has none."""
        for section in self.sections:
            if section.address <= address < section.address + section.size and section.stored:
                begin = section.offset + address - section.address
                return bytes(self._map[begin : min(begin + size, section.offset + section.size)])
        return b""

    def contains(self, text: bytes) -> bool:
        return self._map.find(text) >= 0

    def relocated(self, begin: int, end: int) -> dict[int, Reference]:
        """Of a module's code from `begin` to `end`: the address of each operand that awaits a symbol, and which."""
        section = next((s for s in self.sections if s.address <= begin < s.address + s.size), None)
        if section is None or section.index not in self._relocations or self._table is None:
            return {}
        offset, size = self._relocations[section.index]
        low, high = begin - section.address, end - section.address
        found = {}
        for where, info, addend in _RELA.iter_unpack(self._map[offset : offset + size]):
            if low <= where < high:
                found[section.address + where] = self._reference(info >> 32, addend)
        return found

    # A symbol by its number in the table, and what is added to it; a section's own symbol stands for what lies there.
    def _reference(self, number: int, addend: int) -> Reference:
        assert self._table is not None
        (offset, _), _ = self._table
        name, info, _, index, value, _ = _SYMBOL.unpack_from(self._map, offset + number * _SYMBOL.size)
        section = self._by_index.get(index)
        if info & 15 != _SECTION_SYMBOL:
            return Reference(self._name(name), addend, section.address + value if section else None)
        # The addend of a relative x86 operand is counted from the operand's end, 4 bytes on.
        held = self.at(section.address + value + addend + 4) if section else None
        if section is None or held is None:
            return Reference(section.name if section else "?", addend, None)
        return Reference(held.name, section.address + value + addend - held.address, held.address)

    def _extents(self) -> Iterator[tuple[int, int]]:
        yield from self._table or ()
        yield from self._relocations.values()
        yield from ((section.offset, section.size) for section in self.sections if section.stored)

    def _sections(self, base: int) -> list[Section]:
        found, free = [], base
        for index, section in enumerate(self._elf.iter_sections()):
            flags, size = section["sh_flags"], section["sh_size"]
            if not flags & _ALLOC or not size:
                continue
            address = section["sh_addr"]
            if self.is_module:
                address, free = free, (free + size + _GAP) & -_GAP
            elif not address:
                continue  # x86's per-CPU section of kernels before 6.15 begins at 0
            stored = section["sh_type"] not in ("SHT_NOBITS", _NOBITS)
            found.append(Section(section.name, address, size, section["sh_offset"], bool(flags & _EXEC), stored, index))
        if not found:
            raise NotAnImage(f"{self.path} has nothing that is loaded")
        return found

    def _name(self, offset: int) -> str:
        return self._names[offset : self._names.index(b"\0", offset)].decode(errors="replace")

    def _found(self, name: str, table: _Table) -> list[Symbol]:
        names, wanted = self._names, name.encode() + b"\0"
        found = []
        at = names.find(wanted)
        while at >= 0:
            found += [self._symbol(table, entry) for entry in table.by_name.get(at, ())]
            at = names.find(wanted, at + 1)
        return found

    def _symbol(self, table: _Table, entry: _Entry) -> Symbol:
        name, address, elf_size, section = entry
        held = self._by_index[section]
        index = bisect_right(table.ends, address)
        following = table.ends[index] if index < len(table.ends) else 0
        last = not held.address <= following < held.address + held.size
        size = (held.address + held.size if last else following) - address
        return Symbol(self._name(name), address, size, elf_size, last, held)

    @cached_property
    def _names(self) -> bytes:
        if self._table is None:
            return b"\0"
        _, (offset, size) = self._table
        return bytes(self._map[offset : offset + size])

    @cached_property
    def _code(self) -> _Table:
        return self._symbols(executable=True)

    @cached_property
    def _data(self) -> _Table:
        return self._symbols(executable=False)

    def _symbols(self, executable: bool) -> _Table:
        if self._table is None:
            return _Table([], b"")
        (offset, size), _ = self._table
        moved = {s.index: s.address if self.is_module else 0 for s in self.sections if s.executable is executable}
        found = [
            (name, value + moved[section], length, section)
            for name, info, _, section, value, length in _SYMBOL.iter_unpack(self._map[offset : offset + size])
            if section in moved and name and info & 15 not in (_SECTION_SYMBOL, _FILE_SYMBOL, _TLS_SYMBOL)
        ]
        found.sort(key=itemgetter(1))
        return _Table(found, self._names)


class _Table:
    """Symbols sorted by address; `ends` are the addresses at which kallsyms has one begin."""

    def __init__(self, entries: list[_Entry], names: bytes) -> None:
        self.entries = entries
        self.addresses = [entry[1] for entry in entries]
        self.ends = sorted(
            {
                address
                for name, address, _, _ in entries
                if not (names.startswith(_PREFIXES, name) and _HIDDEN.match(names, name, names.index(b"\0", name)))
            }
        )

    @cached_property
    def by_name(self) -> dict[int, list[_Entry]]:
        found = defaultdict(list)
        for entry in self.entries:
            found[entry[0]].append(entry)
        return found


def _extent(section: Any) -> tuple[int, int]:
    return section["sh_offset"], section["sh_size"]


# The note lies in a section of its own, or, in vmlinux, among others.
def _build_id(elf: Any) -> str:
    for name in (".note.gnu.build-id", ".notes"):
        section = elf.get_section_by_name(name)
        for note in section.iter_notes() if section is not None else ():
            if note["n_type"] == "NT_GNU_BUILD_ID":
                return str(note["n_desc"])
    return ""
