# SPDX-License-Identifier: Apache-2.0
"""A kernel's own table of symbols, from its memory: right with KASLR, and there in stripped kernels as well.

Where the tables lie, VMCOREINFO says (kernel/vmcore_info.c); what is in them, kernel/kallsyms.c.
"""

from __future__ import annotations

import re
import struct
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

__all__ = ["Place", "Symbol", "Symbols", "load", "tables"]

_SYMBOL = re.compile(rb"SYMBOL\((kallsyms_\w+)\)=([0-9a-f]+)\n")
_NEEDED = ("kallsyms_names", "kallsyms_num_syms", "kallsyms_token_table", "kallsyms_token_index", "kallsyms_offsets")
_TOKENS = 256
_MOST_SYMBOLS, _MOST_NAMES = 1 << 21, 32 << 20
_MOST_TOKEN_BYTES = 64 << 10
# The distance to the next symbol behind the last function of the text, and of the areas around it, is larger.
_LARGEST = 1 << 20
_TEXT = "tTwW"
_SAMPLES = 256


@dataclass(frozen=True)
class Place:
    """`offset` bytes into a function that is `size` bytes long, padding counted."""

    function: str
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{self.function}+{self.offset:#x}/{self.size:#x}"


@dataclass(frozen=True)
class Symbol:
    """`kind` is nm's letter, `size` the distance to the next symbol, padding counted."""

    name: str
    kind: str
    address: int
    size: int

    @property
    def is_code(self) -> bool:
        return self.kind in _TEXT


@dataclass(frozen=True)
class Symbols:
    """All symbols of a kernel, by address; `by_name` their places in the order of their names, or empty."""

    addresses: list[int]
    names: bytes
    starts: list[int]
    tokens: list[bytes]
    by_name: bytes = b""

    def __len__(self) -> int:
        return len(self.addresses)

    def __getitem__(self, index: int) -> Symbol:
        kind, name = self._expanded(index)
        begin = self.addresses[index]
        after = bisect_right(self.addresses, begin)
        end = self.addresses[after] if after < len(self.addresses) else begin
        return Symbol(name, kind, begin, end - begin)

    def around(self, address: int) -> Iterator[Symbol]:
        """The symbols, of one place, that `address` lies behind or in."""
        index = bisect_right(self.addresses, address) - 1
        if index >= 0:
            for place in range(bisect_left(self.addresses, self.addresses[index]), index + 1):
                yield self[place]

    def named(self, name: str) -> Iterator[Symbol]:
        """All symbols called `name`."""
        if not self.by_name:
            yield from (self[index] for index in range(len(self)) if self._expanded(index)[1] == name)
            return
        place = bisect_left(range(len(self)), name.encode(), key=lambda place: self._name_at(place).encode())
        while place < len(self) and self._name_at(place) == name:
            yield self[self._place(place)]
            place += 1

    def in_order(self) -> bool:
        """Whether `by_name` is what it says, as far as some samples show."""
        places = range(0, len(self), max(len(self) // _SAMPLES, 1))
        if any(self._place(place) >= len(self) for place in places):
            return False
        names = [self._name_at(place).encode() for place in places]
        return names == sorted(names)

    # kallsyms_seqs_of_names: three bytes each, the most significant first (get_symbol_seq() in kernel/kallsyms.c).
    def _place(self, place: int) -> int:
        return int.from_bytes(self.by_name[3 * place : 3 * place + 3], "big")

    def _name_at(self, place: int) -> str:
        return self._expanded(self._place(place))[1]

    def at(self, address: int) -> Place | None:
        """The function that `address` lies in."""
        index = bisect_right(self.addresses, address) - 1
        if index < 0 or index + 1 >= len(self.addresses):
            return None
        begin, end = self.addresses[index], self.addresses[index + 1]
        # Of several names for one place the kernel takes the first.
        while index and self.addresses[index - 1] == begin:
            index -= 1
        kind, name = self._expanded(index)
        if kind not in _TEXT or end - begin > _LARGEST:
            return None
        return Place(name, address - begin, end - begin)

    # The first letter is the symbol's kind, as nm has it.
    def _expanded(self, index: int) -> tuple[str, str]:
        begin, end = self.starts[index], self.starts[index + 1]
        begin += 2 if self.names[begin] & 0x80 else 1
        text = b"".join(self.tokens[byte] for byte in self.names[begin:end]).decode(errors="replace")
        return text[:1], text[1:]


def tables(vmcoreinfo: bytes) -> dict[str, int] | None:
    """Where the tables are, None for a kernel that does not say (before 6.0, or without KALLSYMS)."""
    found = {name.decode(): int(address, 16) for name, address in _SYMBOL.findall(vmcoreinfo)}
    return found if all(name in found for name in _NEEDED) else None


def load(where: Mapping[str, int], read: Callable[[int, int], bytes]) -> Symbols | None:
    """Read the tables; `read(address, size)` gives the kernel's memory. None when they make no sense."""
    [count] = struct.unpack("<I", read(where["kallsyms_num_syms"], 4))
    if not 0 < count < _MOST_SYMBOLS:
        return None
    tokens = _tokens(where, read)
    # The tables lie in the order in which scripts/kallsyms.c writes them: names come before what they are made of.
    size = where["kallsyms_token_table"] - where["kallsyms_names"]
    if not 0 < size < _MOST_NAMES:
        return None
    names = read(where["kallsyms_names"], size)
    starts, at = [], 0
    for _ in range(count + 1):
        starts.append(at)
        if at + 1 >= len(names):
            break
        length = names[at]
        at += 1 + (length if length < 0x80 else (length & 0x7F | names[at + 1] << 7) + 1)
    if len(starts) <= count:
        return None
    return _with_names(Symbols(_addresses(where, count, read), names, starts, tokens), where, read)


# The last of the tables, which VMCOREINFO does not name: behind the offsets and what they are relative to, at a
# multiple of four, until 6.x of eight. Each place is read, and the one taken whose names are in order.
def _with_names(symbols: Symbols, where: Mapping[str, int], read: Callable[[int, int], bytes]) -> Symbols:
    count = len(symbols)
    end = where["kallsyms_offsets"] + 4 * count
    base = where.get("kallsyms_relative_base", 0)
    for at in dict.fromkeys((base + 8 if base > end - 8 else end, end + 3 & ~3, end + 7 & ~7)):
        found = replace(symbols, by_name=read(at, 3 * count))
        if found.in_order():
            return found
    return symbols


def _tokens(where: Mapping[str, int], read: Callable[[int, int], bytes]) -> list[bytes]:
    index = struct.unpack(f"<{_TOKENS}H", read(where["kallsyms_token_index"], 2 * _TOKENS))
    size = min(max(where["kallsyms_token_index"] - where["kallsyms_token_table"], 0), _MOST_TOKEN_BYTES)
    table = read(where["kallsyms_token_table"], size)
    return [table[at : table.find(b"\0", at)] for at in index]


# Relative to a base until 6.x, where the addresses of per-CPU data may be absolute (KALLSYMS_ABSOLUTE_PERCPU: then all
# others are negative); to the place of the entry itself since.
def _addresses(where: Mapping[str, int], count: int, read: Callable[[int, int], bytes]) -> list[int]:
    table = where["kallsyms_offsets"]
    offsets = struct.unpack(f"<{count}i", read(table, 4 * count))
    if "kallsyms_relative_base" not in where:
        return [table + 4 * place + offset for place, offset in enumerate(offsets)]
    [base] = struct.unpack("<Q", read(where["kallsyms_relative_base"], 8))
    if min(offsets) < 0:
        return [offset if offset >= 0 else base - 1 - offset for offset in offsets]
    return [base + offset for offset in offsets]
