# SPDX-License-Identifier: Apache-2.0
"""From DWARF: at which line a function was called that the compiler has put into another.

Only the calls are wanted, and an object has tens of thousands of entries for types: all forms that clang writes for
those have a fixed size, so an entry is stepped over in one addition. (DWARF 5, section 7.5; clang -g -target bpf.)
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path

from elftools.elf.elffile import ELFFile

from kernloop.host.elf import DAMAGE
from kernloop.sched.obj.symbols import Symbol, relocations, symbols

__all__ = ["Calls", "inlined_calls"]

_SUBPROGRAM, _INLINED = 0x2E, 0x1D
_NAME, _LOW, _HIGH, _RANGES, _ABSTRACT, _FILE, _LINE = 0x03, 0x11, 0x12, 0x55, 0x31, 0x58, 0x59
_ADDR_BASE, _STR_BASE, _LISTS_BASE = 0x73, 0x72, 0x74
# Form -> size in bytes; 0: it depends on the bytes.
_SIZES = {
    0x01: 8,
    0x0B: 1,
    0x05: 2,
    0x06: 4,
    0x07: 8,
    0x0C: 1,
    0x0E: 4,
    0x11: 1,
    0x12: 2,
    0x13: 4,
    0x14: 8,
    0x17: 4,
    0x19: 0,
    0x1F: 4,
    0x1E: 16,
    0x20: 8,
    0x21: 0,
    0x25: 1,
    0x26: 2,
    0x27: 3,
    0x28: 4,
    0x29: 1,
    0x2A: 2,
    0x2B: 3,
    0x2C: 4,
    0x10: 4,
}
_LEB = frozenset([0x0D, 0x0F, 0x15, 0x1A, 0x1B, 0x22, 0x23])
_BLOCKS = frozenset([0x09, 0x18])


@dataclass
class Calls:
    """`spans` of a function: first and last slot of inlined code, how deep it lies, and the line of the call."""

    spans: dict[str, list[tuple[int, int, int, str, int]]] = field(default_factory=dict)

    def around(self, function: str, slot: int) -> list[tuple[str, int]]:
        """File and line of the calls by which code at `slot` came into `function`, the innermost first."""
        found = [one for one in self.spans.get(function, ()) if one[0] <= slot < one[1]]
        return [(file, line) for _, _, _, file, line in sorted(found, key=lambda one: -one[2])]

    def pieces(self, function: str, slot: int) -> list[tuple[int, int]]:
        """All of the code of the innermost of these calls: first slot, and the one behind the last."""
        all_spans = self.spans.get(function, [])
        inside = [one for one in all_spans if one[0] <= slot < one[1]]
        if not inside:
            return []
        innermost = max(inside, key=lambda one: one[2])
        return sorted((a, b) for a, b, *call in all_spans if tuple(call) == innermost[2:])


def inlined_calls(path: Path) -> Calls:
    """The inlined calls of the object at `path`; none where it has no DWARF 5."""
    try:
        with path.open("rb") as file:
            return _Reader(ELFFile(file)).calls()
    except (OSError, *DAMAGE):
        return Calls()


class _Reader:
    def __init__(self, elf: ELFFile) -> None:
        self._elf = elf
        self._data = {
            name: (section.data() if (section := elf.get_section_by_name(name)) else b"")
            for name in (
                *(".debug_info", ".debug_abbrev", ".debug_addr", ".debug_rnglists", ".debug_line"),
                ".debug_line_str",
            )
        }
        named = symbols(elf)
        self._sections = self._address_sections(named)
        self._functions = {(one.section, one.value): one.name for one in named if one.kind == "func"}

    # The section that each slot of .debug_addr lies in: the addend is in place, the section in the relocation.
    def _address_sections(self, named: list[Symbol]) -> dict[int, int]:
        part = self._elf.get_section_by_name(".rel.debug_addr")
        found = ((at, named[number].section) for at, number in (relocations(part) if part is not None else ()))
        return {at: section for at, section in found if section is not None}

    def calls(self) -> Calls:
        info = self._data[".debug_info"]
        calls = Calls()
        if len(info) < 12 or struct.unpack_from("<H", info, 4)[0] != 5:
            return calls
        abbrevs = self._abbrevs(struct.unpack_from("<I", info, 8)[0])
        end = 4 + struct.unpack_from("<I", info, 0)[0]
        at = 12
        depth = 0
        function: tuple[str, int] | None = None
        function_depth = 0
        files = self._files()
        while at < end:
            code, at = _uleb(info, at)
            if code == 0:
                depth -= 1
                if function is not None and depth <= function_depth:
                    function = None
                continue
            tag, children, size, forms = abbrevs[code]
            if tag not in (_SUBPROGRAM, _INLINED) and size is not None and depth:
                at += size
            else:
                values, at = self._values(info, at, forms)
                if depth == 0:
                    self._base = values.get(_ADDR_BASE, 8), values.get(_LISTS_BASE, 12)
                elif tag == _SUBPROGRAM and _LOW in values:
                    section, low = self._address(values[_LOW])
                    name = self._functions.get((section, low))
                    if name is not None:
                        function, function_depth = (name, low), depth
                        calls.spans.setdefault(name, [])
                elif tag == _INLINED and function is not None and _LINE in values:
                    for first, last in self._spans(values, function[1]):
                        place = files[values[_FILE]] if values.get(_FILE, 0) < len(files) else ""
                        spans = calls.spans[function[0]]
                        low = function[1]
                        spans.append(((first - low) // 8, (last - low) // 8, depth, place, values[_LINE]))
            depth += children
        return calls

    def _address(self, index: int) -> tuple[int, int]:
        at = self._base[0] + 8 * index
        return self._sections[at], struct.unpack_from("<Q", self._data[".debug_addr"], at)[0]

    def _spans(self, values: dict[int, int], low_of_function: int) -> list[tuple[int, int]]:
        if _LOW in values:
            low = self._address(values[_LOW])[1]
            return [(low, low + values.get(_HIGH, 0))]
        if _RANGES not in values:
            return []
        lists = self._data[".debug_rnglists"]
        base = self._base[1]
        at = base + struct.unpack_from("<I", lists, base + 4 * values[_RANGES])[0]
        found: list[tuple[int, int]] = []
        start = low_of_function
        while True:
            kind = lists[at]
            at += 1
            if kind == 0:
                return found
            if kind == 1:
                index, at = _uleb(lists, at)
                start = self._address(index)[1]
            elif kind == 3:
                index, at = _uleb(lists, at)
                length, at = _uleb(lists, at)
                begin = self._address(index)[1]
                found.append((begin, begin + length))
            elif kind == 4:
                first, at = _uleb(lists, at)
                last, at = _uleb(lists, at)
                found.append((start + first, start + last))
            else:
                return found

    # code -> tag, whether it has children, its size if that is fixed, its attributes and forms
    def _abbrevs(self, at: int) -> dict[int, tuple[int, int, int | None, list[tuple[int, int, int]]]]:
        data = self._data[".debug_abbrev"]
        found: dict[int, tuple[int, int, int | None, list[tuple[int, int, int]]]] = {}
        while True:
            code, at = _uleb(data, at)
            if code == 0:
                return found
            tag, at = _uleb(data, at)
            children = data[at]
            at += 1
            forms: list[tuple[int, int, int]] = []
            size: int | None = 0
            while True:
                name, at = _uleb(data, at)
                form, at = _uleb(data, at)
                constant = 0
                if form == 0x21:
                    constant, at = _uleb(data, at)
                if name == 0 and form == 0:
                    break
                forms.append((name, form, constant))
                if form in _LEB or form in _BLOCKS or form == 0x0A or form == 0x08:
                    size = None
                elif size is not None:
                    size += _SIZES[form]
            found[code] = tag, children, size, forms

    def _values(self, info: bytes, at: int, forms: list[tuple[int, int, int]]) -> tuple[dict[int, int], int]:
        values: dict[int, int] = {}
        for name, form, constant in forms:
            if form == 0x21:
                values[name] = constant
            elif form == 0x19:
                values[name] = 1
            elif form in _LEB:
                values[name], at = _uleb(info, at)
            elif form in _BLOCKS:
                length, at = _uleb(info, at)
                at += length
            elif form == 0x0A:
                at += 1 + info[at]
            elif form == 0x08:
                at = info.index(b"\0", at) + 1
            else:
                size = _SIZES[form]
                values[name] = int.from_bytes(info[at : at + size], "little")
                at += size
        return values, at

    # The table of files of the line program's header: directory and name are offsets into .debug_line_str.
    def _files(self) -> list[str]:
        data = self._data[".debug_line"]
        at = 4 + 2 + 1 + 1 + 4
        opcode_base = data[at + 5]
        at += 6 + opcode_base - 1
        folders, at = self._entries(data, at)
        files, at = self._entries(data, at)
        return [
            name
            if name.startswith("/") or not folder or folders[folder][0] in ("", ".")
            else f"{folders[folder][0]}/{name}"
            for name, folder in files
        ]

    def _entries(self, data: bytes, at: int) -> tuple[list[tuple[str, int]], int]:
        count = data[at]
        at += 1
        forms: list[tuple[int, int]] = []
        for _ in range(count):
            kind, at = _uleb(data, at)
            form, at = _uleb(data, at)
            forms.append((kind, form))
        number, at = _uleb(data, at)
        found: list[tuple[str, int]] = []
        text = self._data[".debug_line_str"]
        for _ in range(number):
            name, folder = "", 0
            for kind, form in forms:
                if form == 0x1F:
                    start = struct.unpack_from("<I", data, at)[0]
                    at += 4
                    if kind == 1:
                        name = text[start : text.index(b"\0", start)].decode(errors="replace")
                elif form == 0x0B or form == 0x0F:
                    value, at = _uleb(data, at)
                    if kind == 2:
                        folder = value
                elif form == 0x1E:
                    at += 16
                else:
                    return found, at
            found.append((name.removeprefix("./"), folder))
        return found, at


def _uleb(data: bytes, at: int) -> tuple[int, int]:
    byte = data[at]
    if byte < 0x80:
        return byte, at + 1
    value, shift = byte & 0x7F, 7
    while True:
        at += 1
        byte = data[at]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at + 1
        shift += 7
