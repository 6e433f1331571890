# SPDX-License-Identifier: Apache-2.0
"""Where a register's value came from: backwards through a function of x86-64, until a variable holds it.

DWARF names the variable in a register, but most pointers that are null were loaded a moment before and have no name of
their own: `mov 0x18(%rdi),%rax` makes `rax` the member at 0x18 of what `rdi` points to. Loads, copies, additions and
calls are followed, along the one path that leads to an instruction; where several do, the answer is a candidate.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import capstone
import drgn
from capstone import x86

from .dwarf import Dwarf
from .elf import Reference
from .members import members_at, pointed

__all__ = ["Function", "Origin", "Value", "branch_target", "full_name"]

_MAX_STEPS = 60
_MAX_LOADS = 4
# The psABI's caller-saved registers: a call leaves something else in them.
_SCRATCH = {"rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11"}
_MASK = (1 << 64) - 1


@dataclass(frozen=True)
class Origin:
    """A value as C would write it, its type, and whether every path to the instruction gives it."""

    text: str
    type: drgn.Type
    certain: bool


@dataclass(frozen=True)
class Value:
    """What a register holds: what `register` held at `address`, after loads at these offsets, plus `add`.

    `shadow`: the address of KASAN's byte for it (`kasan_mem_to_shadow()`, include/linux/kasan.h: shifted by 3).
    """

    register: str
    address: int
    loads: tuple[int, ...] = ()
    add: int = 0
    certain: bool = True
    shadow: bool = False


class Function:
    """A function's instructions, as vmlinux or the module has them; `symbols` names operands that await a symbol."""

    def __init__(self, instructions: Sequence[capstone.CsInsn], symbols: dict[int, Reference], dwarf: Dwarf) -> None:
        self._instructions = instructions
        self._index = {insn.address: number for number, insn in enumerate(instructions)}
        self._symbols = symbols
        self.dwarf = dwarf
        self._jumpers: dict[int, list[int]] = defaultdict(list)
        for number, insn in enumerate(instructions):
            target = branch_target(insn)
            if target is not None and target in self._index and not insn.group(x86.X86_GRP_CALL):
                self._jumpers[self._index[target]].append(number)

    def at(self, address: int) -> capstone.CsInsn | None:
        number = self._index.get(address)
        return None if number is None else self._instructions[number]

    def before(self, address: int) -> capstone.CsInsn | None:
        """The instruction that ends where `address` is: the call of a return address."""
        return next((insn for insn in self._instructions if insn.address + insn.size == address), None)

    def origin(self, register: str, address: int, *, shadow: bool = False) -> Origin | None:
        """What `register` holds when the instruction at `address` begins, or what its `shadow` address there is of."""
        value = Value(full_name(register), address, shadow=shadow)
        for _ in range(_MAX_STEPS):
            if found := self._named(value):
                return found
            earlier = self._earlier(value)
            if earlier is None:
                return None
            if isinstance(earlier, Origin):
                return self._applied(earlier, value)
            value = earlier
        return None

    # The value by the variable that is in the register there.
    def _named(self, value: Value) -> Origin | None:
        if value.shadow:
            return None
        for variable in self.dwarf.in_register(value.address, value.register):
            if found := self._applied(Origin(variable.name, variable.type, value.certain), value):
                return found
        return None

    # `p` after loads at 0x8 and 0x18 is `p->a->b`; each member but the last must be a pointer to a known struct.
    def _applied(self, base: Origin, value: Value) -> Origin | None:
        text, kind = base.text, base.type
        certain = base.certain and value.certain
        for offset in value.loads:
            struct = pointed(kind)
            members = members_at(struct, offset, 8) if struct is not None else []
            if not members:
                return None
            name, kind = members[0]
            text, certain = f"{text}->{name}", certain and len(members) == 1
        if value.add:
            struct = pointed(kind)
            members = members_at(struct, value.add) if struct is not None else []
            if not members:
                return None
            text, kind = f"&{text}->{members[0][0]}", members[0][1]
            return Origin(text, kind, certain)
        return Origin(text, kind, certain)

    # One instruction back: None where the trail ends.
    def _earlier(self, value: Value) -> Value | Origin | None:
        number = self._index.get(value.address)
        if number is None:
            return None
        sources = list(self._jumpers.get(number, ()))
        if number and falls_through(self._instructions[number - 1]):
            sources.insert(0, number - 1)
        if not sources:
            return None
        insn = self._instructions[sources[0]]
        value = replace(value, address=insn.address, certain=value.certain and len(sources) == 1)
        return self._undone(value, insn)

    # The value before `insn`, which may have made it.
    def _undone(self, value: Value, insn: capstone.CsInsn) -> Value | Origin | None:
        register = value.register
        if insn.group(x86.X86_GRP_CALL):
            return self._returned(value, insn) if register in _SCRATCH else value
        _, written = insn.regs_access()
        if register not in {full_name(insn.reg_name(number)) for number in written}:
            return value
        operands = insn.operands
        name = insn.mnemonic
        if value.shadow and name.startswith("shr") and operands[0].type == x86.X86_OP_IMM and operands[0].imm == 3:
            return replace(value, shadow=False)
        if len(operands) != 2 or operands[1].type != x86.X86_OP_REG or operands[1].size != 8:
            return None  # AT&T: the second operand is the one that is written
        source = operands[0]
        if name.startswith("mov") and source.type == x86.X86_OP_REG:
            return replace(value, register=full_name(insn.reg_name(source.reg)))
        if value.shadow:
            return None
        if name.startswith("mov") and source.type == x86.X86_OP_MEM:
            return self._loaded(value, insn, source.mem)
        if name.startswith("lea") and source.type == x86.X86_OP_MEM and source.mem.base and not source.mem.index:
            return self._added(value, full_name(insn.reg_name(source.mem.base)), source.mem.disp)
        if name.startswith("add") and source.type == x86.X86_OP_IMM:
            return self._added(value, register, source.imm)
        if name.startswith("sub") and source.type == x86.X86_OP_IMM:
            return self._added(value, register, -source.imm)
        return None

    def _loaded(self, value: Value, insn: capstone.CsInsn, place: x86.X86OpMem) -> Value | Origin | None:
        if place.index or len(value.loads) >= _MAX_LOADS or place.segment:
            return None
        if insn.reg_name(place.base) == "rip" or not place.base:
            return self._global(value, insn)
        base = full_name(insn.reg_name(place.base))
        if base == "rsp" or place.disp < 0:
            return None
        return replace(value, register=base, loads=(place.disp, *value.loads))

    def _added(self, value: Value, register: str, amount: int) -> Value | None:
        if register in ("rip", "rsp"):
            return None
        if not value.loads:
            return replace(value, register=register, add=value.add + amount) if value.add + amount >= 0 else None
        first = value.loads[0] + amount
        return replace(value, register=register, loads=(first, *value.loads[1:])) if first >= 0 else None

    # A pointer that was loaded from a global variable.
    def _global(self, value: Value, insn: capstone.CsInsn) -> Origin | None:
        found = self.reference(insn)
        if found is None or found.address is None:
            return None
        name, kind = found.name, self.dwarf.variable(found.name, found.address, insn.address)
        if kind is None:
            return None
        if found.offset == 0 and kind.kind in (drgn.TypeKind.POINTER, drgn.TypeKind.TYPEDEF):
            return Origin(name, kind, value.certain)
        members = members_at(kind, found.offset, 8)
        return Origin(f"{name}.{members[0][0]}", members[0][1], value.certain) if members else None

    # What a call returned, or nothing for the other registers that it changed.
    def _returned(self, value: Value, insn: capstone.CsInsn) -> Origin | None:
        if value.register != "rax":
            return None
        found = self.reference(insn)
        if found is None or found.address is None or found.offset:
            return None
        kind = self.dwarf.returns(found.name, found.address)
        return Origin(f"{found.name}()", kind, value.certain) if kind is not None else None

    def reference(self, insn: capstone.CsInsn) -> Reference | None:
        """The symbol that an operand of the instruction refers to."""
        for where, found in self._symbols.items():
            if insn.address <= where < insn.address + insn.size:
                # A relative operand counts from the end of the instruction.
                behind = insn.address + insn.size - where if any_relative(insn) else 0
                return Reference(found.name, found.offset + behind, found.address or self._exported(found.name))
        return None if self._symbols else self._resolved(operand_address(insn))

    def _resolved(self, address: int | None) -> Reference | None:
        for image in self.dwarf.images:
            found = image.at(address) if address is not None and not image.is_module else None
            # Behind a symbol's end lies something without a name.
            if (
                found
                and address is not None
                and (found.section.executable or address - found.address <= found.elf_size)
            ):
                return Reference(found.name, address - found.address, found.address)
        return None

    # What vmlinux has of this name; a module may use what is exported, of which there is one.
    def _exported(self, name: str) -> int | None:
        found = {symbol.address for image in self.dwarf.images if not image.is_module for symbol in image.named(name)}
        return found.pop() if len(found) == 1 else None


def full_name(register: str) -> str:
    """`rax` of `eax`, `ax` and `al`; `r8` of `r8d`."""
    if register[:1] == "r" and register[1:2].isdigit():
        return register.rstrip("dwb")
    if register in _WHOLE.values():
        return register
    return _WHOLE.get(register.removeprefix("e").removesuffix("x"), register)


_WHOLE = {
    **{short: f"r{letter}x" for letter in "abcd" for short in (letter, f"{letter}l", f"{letter}h")},
    **{f"{name}{tail}": f"r{name}" for name in ("si", "di", "bp", "sp") for tail in ("", "l")},
}


def branch_target(insn: capstone.CsInsn) -> int | None:
    """Where a direct jump or call goes."""
    branches = insn.group(x86.X86_GRP_JUMP) or insn.group(x86.X86_GRP_CALL)
    if branches and insn.operands and insn.operands[0].type == x86.X86_OP_IMM:
        return int(insn.operands[0].imm) & _MASK
    return None


def falls_through(insn: capstone.CsInsn) -> bool:
    """Whether the next instruction can follow this one."""
    return not (insn.mnemonic.startswith(("jmp", "ret", "ud2")) or insn.group(x86.X86_GRP_RET))


def any_relative(insn: capstone.CsInsn) -> bool:
    """Whether an operand is counted from the end of the instruction: a call, a jump, a place beside rip."""
    if insn.group(x86.X86_GRP_CALL) or insn.group(x86.X86_GRP_JUMP):
        return True
    return any(op.type == x86.X86_OP_MEM and op.mem.base == x86.X86_REG_RIP for op in insn.operands)


def operand_address(insn: capstone.CsInsn) -> int | None:
    """The address in the kernel that an operand is: of a call, a jump, or beside rip."""
    if (target := branch_target(insn)) is not None:
        return target
    for op in insn.operands:
        if op.type == x86.X86_OP_MEM and op.mem.base == x86.X86_REG_RIP and not op.mem.index:
            return int(insn.address + insn.size + op.mem.disp) & _MASK
        if op.type == x86.X86_OP_MEM and not op.mem.base and not op.mem.index and not op.mem.segment:
            return int(op.mem.disp) & _MASK
    return None
