# SPDX-License-Identifier: Apache-2.0
"""What a BPF program reads: from its stack, the kernel's structures, its own data, and constants that CO-RE puts in."""

from __future__ import annotations

from collections.abc import Mapping

from kernloop.sched.check import calls
from kernloop.sched.check.state import State
from kernloop.sched.check.symbols import BIG, Sym, Symbols, Value
from kernloop.sched.obj.model import Core, Insn
from kernloop.sched.obj.world import World

__all__ = ["SIZE", "Loads", "place_of"]

# Bytes, by the size bits of an instruction's code (include/uapi/linux/bpf_common.h).
SIZE = {0x00: 4, 0x08: 2, 0x10: 1, 0x18: 8}
_ENTRY_RANGES = {("dispatch", 0): (0, 8191), ("select_cpu", 1): (0, 8191), ("update_idle", 0): (0, 8191)}


class Loads:
    """In a walk that began as `op`. `variables` are the names of what begins at a section's offset."""

    def __init__(self, world: World, symbols: Symbols, variables: Mapping[tuple[str, int], str], op: str) -> None:
        self._world = world
        self._symbols = symbols
        self._variables = variables
        self._op = op

    def immediate(self, insn: Insn, site: int) -> Value:
        """What a 64-bit constant is: a number, or the address of something."""
        ref = insn.ref
        if ref is None:
            return insn.imm64 & ((1 << 64) - 1) if insn.core is None else self.asked(insn.core, insn)
        if ref.kind == "kfunc":
            return 0 if self._world.exists(ref.name) is False else 1
        if ref.kind == "data":
            return self._symbols.make("addr", "data", "", (ref.section, ref.offset))
        return self._symbols.make("addr", ref.kind, ref.name)

    def asked(self, core: Core, insn: Insn) -> int:
        """What CO-RE puts into the instruction: whether the kernel has a thing, its size, its value."""
        known = self._world.core(core)
        return (insn.imm64 if known is None else known) & ((1 << 64) - 1)

    def load(self, state: State, insn: Insn, site: int) -> Value:
        """What is read from memory."""
        base = state.regs[insn.src]
        size = SIZE[insn.code & 0x18]
        make = self._symbols.make
        low, high = (0, (1 << 8 * size) - 1) if size < 8 else BIG
        if insn.code & 0xE0 == 0x80:
            low, high = -(1 << 8 * size - 1), (1 << 8 * size - 1) - 1
        if not isinstance(base, Sym):
            return make("unk", site, lo=low, hi=high)
        if base.kind == "ctx":
            number = insn.off // 8
            low, high = _ENTRY_RANGES.get((self._op, number), BIG)
            return make("arg", number, lo=low, hi=high)
        place = place_of(base, insn.off)
        known = state.stack.get(place)
        if known is not None and known[1] == size:
            return known[0]
        if base.kind == "fp":
            if known is not None and isinstance(known[0], int):
                return known[0] & ((1 << 8 * size) - 1)
            if known is not None and known[1] > size and isinstance(known[0], Sym):
                return known[0]
            return make("ld", base, (insn.off, site), lo=low, hi=high)
        if base.kind == "fldp":
            return make("fld", base.a, base.b, size, low, high)
        if insn.core is not None and insn.core.kind == "field_byte_offset":
            return make("fld", base, insn.core.name, size, low, high)
        if base.kind == "addr" and base.c:
            section, offset = base.c
            return self._data(section, offset + insn.off, size, low, high)
        if base.kind == "addr" and base.a == "kconfig":
            setting = self._world.kconfig(base.b)
            return make("ro", base.b, ("kconfig", insn.off, size), 0, low, high) if setting is None else setting
        if base.kind == "iterp":
            return self.counted(base.a, base.b, base.c)
        if base.kind == "op" and base.a == "add":
            listed = self._listed(base, insn.off, size)
            if listed is not None:
                return listed
        return make("ld", base, insn.off, size, low, high)

    # One of a table of constants: those of C's `static const`. What a loader may set, and has not yet, is all zeros.
    def _listed(self, base: Sym, offset: int, size: int) -> Value | None:
        for side in (base.b, base.c):
            if not (isinstance(side, Sym) and side.kind == "addr" and side.c):
                continue
            section, start = side.c
            name = self._variables.get((section, start), "")
            if not name or not section.startswith(".rodata") or offset:
                return None
            data = self._world.obj.variables[name].data
            if len(data) % size or len(data) > 16 * size or not any(data):
                return None
            numbers = (int.from_bytes(data[at : at + size], "little") for at in range(0, len(data), size))
            return self._symbols.set(frozenset(numbers))
        return None

    def counted(self, site: int, first: Value | None, end: Value | None) -> Sym:
        """What a bpf_for() from `first` to `end` counts through."""
        low = first if isinstance(first, int) else 0
        high = (1 << 31) - 1
        if isinstance(end, int) and end:
            high = end - 1
        elif isinstance(end, Sym) and end.hi < 1 << 32:
            high = max(end.hi - 1, low)
        return self._symbols.make("iter", site, first, end, low, high)

    def _data(self, section: str, offset: int, size: int, low: int, high: int) -> Value:
        make = self._symbols.make
        name = self._variables.get((section, offset), "")
        if not section.startswith(".rodata"):
            return make("ld", section, offset, size, low, high)
        if name.startswith("__SCX_"):
            constant = self._world.constant(name[2:])
            if constant is None:
                constant = calls.CONSTANTS.get(name[2:])
            if constant is not None:
                return constant & ((1 << 8 * size) - 1)
        data = self._world.obj.sections.get(section, b"")[offset : offset + size]
        if name.startswith("__SCX_"):
            return make("ro", name, (section, offset, size), None, low, high)
        return make("ro", name, (section, offset, size), int.from_bytes(data, "little"), low, high)


def place_of(base: Sym, offset: int) -> tuple[object, int]:
    """The same for one and the same place, however it is addressed."""
    if base.kind == "fp":
        return base.a, base.b + offset
    if base.kind == "addr" and base.c:
        section, at = base.c
        return section, at + offset
    return base, offset
