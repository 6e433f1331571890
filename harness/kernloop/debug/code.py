# SPDX-License-Identifier: Apache-2.0
"""What an address of a kernel is of: the image, a module, code that BPF has generated; and data of these."""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from drgn import FaultError, Object, Program, Symbol, SymbolBinding, SymbolKind

from kernloop.debug.walk import Broken, entries

__all__ = ["Code", "Module", "Named", "code_of", "forget_code"]

_KEY = "kernloop.code"
# enum mod_mem_type (include/linux/module.h): what remains, and what init leaves.
_REMAINS = 4
_TEXT = 0
_SYMBOL = struct.Struct("<IBBHQQ")
_MOST_SYMBOLS, _MOST_STRINGS = 1 << 18, 16 << 20
_LARGEST = 1 << 20
_FUNCTION = 2


@dataclass(frozen=True)
class Named:
    """A symbol of a module."""

    name: str
    address: int
    size: int
    code: bool


@dataclass(frozen=True)
class Module:
    """`areas` are where it lies, its text first: begin and end of each."""

    name: str
    struct: Object
    areas: tuple[tuple[int, int], ...]
    symbols: tuple[Named, ...]

    def has(self, address: int) -> bool:
        return any(begin <= address < end for begin, end in self.areas)

    def at(self, address: int) -> Named | None:
        """The symbol that `address` lies in. Without CONFIG_KALLSYMS_ALL data has none."""
        place = bisect_right(self.symbols, address, key=lambda one: one.address) - 1
        if place < 0:
            return None
        found = self.symbols[place]
        return found if address < found.address + max(found.size, 1) else None


def code_of(prog: Program) -> Code:
    """The one Code of `prog`."""
    found = prog.cache.setdefault(_KEY, None) or Code(prog)
    prog.cache[_KEY] = found
    assert isinstance(found, Code)
    return found


def forget_code(prog: Program) -> None:
    """What is loaded may be another by now."""
    prog.cache.pop(_KEY, None)


class Code:
    """What `prog` knows of addresses, with modules and BPF, which drgn's symbols do not have."""

    def __init__(self, prog: Program) -> None:
        self.prog = prog
        self._known: dict[str, int] = {}

    def symbols(self, prog: Program, name: str | None, address: int | None, one: bool) -> Sequence[Symbol]:
        """A symbol finder for what modules have (Program.register_symbol_finder)."""
        if address is not None:
            module = self.module_at(address)
            named = module.at(address) if module else None
            found = [named] if named and address < named.address + max(named.size, 1) else []
        else:
            found = [each for module in self.modules for each in module.symbols if name in (None, each.name)]
        return [_symbol(each) for each in found[: 1 if one else None]]

    def address(self, name: str) -> int:
        """Where the image's symbol is, 0 when it has none."""
        if name not in self._known:
            try:
                self._known[name] = self.prog.symbol(name).address
            except LookupError:
                self._known[name] = 0
        return self._known[name]

    def in_image(self, address: int) -> bool:
        """Whether it is code of the image."""
        text = self.address("_stext") <= address < self.address("_etext")
        return text or self.address("_sinittext") <= address < self.address("_einittext")

    def generated(self, address: int) -> bool:
        """Whether BPF's compiler wrote it: programs, trampolines, dispatchers (kernel/bpf/core.c: bpf_kallsyms)."""
        return self._bpf_name(address) != ""

    def name(self, address: int, *, behind: bool = False) -> tuple[str, str]:
        """`function+0x12` and its module or "bpf" or ""; `behind` for a return address, which may be the next one's."""
        asked = max(address - behind, 0)
        module = self.module_at(asked)
        if module is not None:
            found = module.at(asked)
            return (f"{found.name}+{address - found.address:#x}" if found else f"{address:#x}"), module.name
        try:
            symbol = self.prog.symbol(asked)
        except LookupError:
            return (self._bpf_name(asked), "bpf") if self.generated(asked) else (f"{address:#x}", "")
        return f"{symbol.name}+{address - symbol.address:#x}", ""

    def data(self, address: int) -> str:
        """A variable's name, `name+0x10` within one, with its module; "" for what is in none."""
        module = self.module_at(address)
        if module is not None:
            try:  # drgn's own, of the module's file, come first
                symbol = self.prog.symbol(address)
            except LookupError:
                return f"data at {address:#x} [{module.name}]"
            return f"{_within(symbol.name, address - symbol.address)} [{module.name}]"
        # What no section of the image has is no variable of it, however near the last one lies.
        if not self.address("_stext") <= address < self.address("_end"):
            return ""
        try:
            symbol = self.prog.symbol(address)
        except LookupError:
            return ""
        return _within(symbol.name, address - symbol.address)

    def function(self, address: int) -> tuple[int, int]:
        """Begin and end of the code of the function at `address`; (0, 0) when it is in none."""
        module = self.module_at(address)
        if module is not None:
            found = module.at(address)
            return (found.address, found.address + found.size) if found else (0, 0)
        try:
            symbol = self.prog.symbol(address)
        except LookupError:
            return 0, 0
        if not self.in_image(address):
            return 0, 0
        return symbol.address, symbol.address + min(symbol.size, _LARGEST)

    def module_at(self, address: int) -> Module | None:
        return next((module for module in self.modules if module.has(address)), None)

    @cached_property
    def modules(self) -> tuple[Module, ...]:
        """Those that are loaded (kernel/module/main.c), the newest first."""
        try:
            return tuple(_module(one) for one in entries(self.prog["modules"], "struct module", "list"))
        except (LookupError, Broken, FaultError):
            return ()

    def _bpf_name(self, address: int) -> str:
        for begin, end, name in self._bpf:
            if begin <= address < end:
                return f"{name}+{address - begin:#x}"
        return ""

    @cached_property
    def _bpf(self) -> tuple[tuple[int, int, str], ...]:
        return tuple(self._each_bpf())

    def _each_bpf(self) -> Iterator[tuple[int, int, str]]:
        try:
            for one in entries(self.prog["bpf_kallsyms"], "struct bpf_ksym", "lnode"):
                yield one.start.value_(), one.end.value_(), one.name.string_().decode(errors="replace")
        except (LookupError, Broken, FaultError):
            return


def _within(name: str, offset: int) -> str:
    return f"{name}+{offset:#x}" if offset else name


def _module(one: Object) -> Module:
    areas = []
    for number in (_TEXT, *range(_TEXT + 1, len(one.mem))):
        area = one.mem[number]
        if size := area.size.value_():
            areas.append((area.base.value_(), area.base.value_() + size))
    name = one.name.string_().decode(errors="replace")
    try:
        symbols = tuple(sorted(_symbols(one, areas), key=lambda each: each.address))
    except (FaultError, AttributeError, LookupError):
        symbols = ()
    return Module(name, one, tuple(areas), symbols)


# The table that stays: names are offsets into the strings (kernel/module/kallsyms.c).
def _symbols(one: Object, areas: list[tuple[int, int]]) -> Iterator[Named]:
    table = one.kallsyms
    count = table.num_symtab.value_()
    if not table or not 0 < count < _MOST_SYMBOLS:
        return
    raw = one.prog_.read(table.symtab.value_(), _SYMBOL.size * count)
    rows = list(_SYMBOL.iter_unpack(raw))
    strings = _strings(one, table.strtab.value_(), max(row[0] for row in rows) + 512)
    for at, info, _other, section, value, size in rows:
        name = strings[at : strings.find(b"\0", at)].decode(errors="replace")
        if name and section and any(begin <= value < end for begin, end in areas):
            yield Named(name, value, size, info & 15 == _FUNCTION)


def _strings(one: Object, at: int, size: int) -> bytes:
    data = b""
    while len(data) < min(size, _MOST_STRINGS):
        page = min(4096 - (at + len(data)) % 4096, size - len(data))
        try:
            data += one.prog_.read(at + len(data), page)
        except FaultError:
            break
    return data + b"\0"


def _symbol(one: Named) -> Symbol:
    kind = SymbolKind.FUNC if one.code else SymbolKind.OBJECT
    return Symbol(one.name, one.address, one.size, SymbolBinding.LOCAL, kind)
