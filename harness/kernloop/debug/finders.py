# SPDX-License-Identifier: Apache-2.0
"""A kernel's symbols, variables, functions and constants for drgn, from its kallsyms and its BTF."""

from __future__ import annotations

from collections.abc import Sequence

from drgn import FindObjectFlags, Object, Program, Symbol, SymbolBinding, SymbolKind, Type

from kernloop.debug.btf_types import BtfTypes
from kernloop.debug.globals import GLOBALS
from kernloop.vm import kallsyms
from kernloop.vm.kallsyms import Symbols

__all__ = ["ObjectFinder", "SymbolFinder"]


class SymbolFinder:
    """For Program.register_symbol_finder."""

    def __init__(self, symbols: Symbols) -> None:
        self._symbols = symbols

    def __call__(self, prog: Program, name: str | None, address: int | None, one: bool) -> Sequence[Symbol]:
        symbols = self._symbols
        if address is not None:
            found = [each for each in symbols.around(address) if address < each.address + max(each.size, 1)]
            found = [each for each in found if name in (None, each.name)]
        elif name is not None:
            found = list(symbols.named(name))
        else:
            found = [symbols[place] for place in range(len(symbols))]
        return [_symbol(each) for each in (found[:1] if one else found)]


class ObjectFinder:
    """For Program.register_object_finder."""

    def __init__(self, symbols: Symbols, types: BtfTypes) -> None:
        self._symbols = symbols
        self._types = types
        self._known: dict[str, Object | None] = {}

    def __call__(self, prog: Program, name: str, flags: FindObjectFlags, filename: str | None) -> Object | None:
        if filename is not None:
            return None
        if flags & FindObjectFlags.VARIABLE:
            if name not in self._known:
                self._known[name] = self._variable(prog, name)
            if (found := self._known[name]) is not None:
                return found
        if flags & FindObjectFlags.FUNCTION and (type_ := self._types.function(name)) is not None:
            for symbol in self._symbols.named(name):
                if symbol.is_code:
                    return Object(prog, type_, address=symbol.address)
        if flags & FindObjectFlags.CONSTANT:
            return self._types.constant(name)
        return None

    def _variable(self, prog: Program, name: str) -> Object | None:
        symbol = next(self._symbols.named(name), None)
        if symbol is None:
            return None
        type_: Type | None
        try:
            type_ = prog.type(GLOBALS[name]) if name in GLOBALS else self._types.variable(name)
        except LookupError:
            return None  # a kernel without what it is of
        return Object(prog, type_, address=symbol.address) if type_ is not None else None


def _symbol(one: kallsyms.Symbol) -> Symbol:
    binding = SymbolBinding.GLOBAL if one.kind.isupper() else SymbolBinding.LOCAL
    kind = SymbolKind.FUNC if one.is_code else SymbolKind.OBJECT
    return Symbol(one.name, one.address, one.size, binding, kind)
