# SPDX-License-Identifier: Apache-2.0
"""What the registers of a fault mean: which pointer was null, which member was read, whose poison a value is.

A note is certain when every step of it is known: the instruction's own operand, the variable that DWARF has in the
register there, the path that leads to it. Otherwise it is a candidate and says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import capstone
import drgn
from capstone import x86

from .decoded import Note
from .dwarf import Dwarf
from .locate import Located
from .members import members_at, pointed, pointer, type_name
from .origin import Function, Origin, full_name
from .printed import Trace
from .values import beside_poison, is_error, is_null, meaning, poison

__all__ = ["call_note", "fault_notes", "plain_notes"]

_MASK = (1 << 64) - 1
_KASAN_SHADOW = 0xDFFFFC << 40
_CALLED = re.compile(r"\b([A-Za-z_]\w*)\s*\(")
_MEMBER = re.compile(r"(?:->|\.)\s*([A-Za-z_]\w*)")
# They have an operand in memory and do not touch it.
_NO_ACCESS = ("lea", "nop", "ud", "prefetch")
_THUNK = re.compile(r"__x86_indirect_(?:\w+_)?thunk_(?:array_)?(r\w+)")


def fault_notes(trace: Trace, insn: capstone.CsInsn, function: Function, line: str) -> Iterator[Note]:
    """About the faulting instruction of x86-64: its operand in memory, with what is in its registers."""
    for op in insn.operands:
        if op.type != x86.X86_OP_MEM or op.mem.segment or insn.mnemonic.startswith(_NO_ACCESS):
            continue
        base = full_name(insn.reg_name(op.mem.base)) if op.mem.base else ""
        index = full_name(insn.reg_name(op.mem.index)) if op.mem.index else ""
        if base in ("rip", "rsp") or not base or base not in trace.registers:
            continue
        value = trace.registers[base]
        scaled = trace.registers.get(index, 0) * op.mem.scale
        address = (value + scaled + op.mem.disp) & _MASK
        if trace.fault not in (None, address) and not _KASAN_SHADOW <= address < _KASAN_SHADOW + (1 << 48):
            continue  # another operand's, or a page crossed
        if _KASAN_SHADOW in (value, trace.registers.get(index)):
            yield from _shadowed(trace, index if value == _KASAN_SHADOW else base, insn, function)
            continue
        origin, distance = function.origin(base, insn.address), (address - value) & _MASK
        if index and origin is None and op.mem.scale == 1:
            # Which of two registers is the pointer, the instruction does not say.
            origin, other = function.origin(index, insn.address), trace.registers.get(index, 0)
            if origin is not None and pointer(origin.type):
                base, value, distance = index, other, (address - other) & _MASK
        if index and (origin is None or not pointer(origin.type)):
            yield from _plain(base, value)
            continue
        if origin is None and not is_null(value) and not meaning(value):
            continue  # an ordinary address of nobody knows what
        yield _about(origin, base, value, distance, op.size, insn.address, function, line)


# KASAN looks at the shadow of an address before the access, and with a null pointer faults there.
def _shadowed(trace: Trace, register: str, insn: capstone.CsInsn, function: Function) -> Iterator[Note]:
    origin = function.origin(register, insn.address, shadow=True) if register else None
    if origin is None or trace.low is None or not is_null(trace.low):
        return
    pointer, arrow, member = origin.text.removeprefix("&").rpartition("->")
    if arrow and origin.text.startswith("&"):
        yield Note(register, trace.low, f"`{pointer}` is NULL; the access is to its member {member}", origin.certain)


def call_note(caller: Located, function: Function) -> Note | None:
    """About a jump to no code: which function pointer the caller (its return address less one) called."""
    call = function.before(caller.address + 1)
    if call is None or not call.group(x86.X86_GRP_CALL):
        return None
    op = call.operands[0]
    target = function.reference(call)
    thunk = _THUNK.match(target.name) if target else None
    if thunk:
        found = function.origin(thunk[1], call.address)
    elif op.type == x86.X86_OP_REG:
        found = function.origin(full_name(call.reg_name(op.reg)), call.address)
    elif op.type == x86.X86_OP_MEM and op.mem.base and not op.mem.index and call.reg_name(op.mem.base) != "rip":
        found = _member(function.origin(full_name(call.reg_name(op.mem.base)), call.address), op.mem.disp)
    else:
        return None
    if found is None:
        return None
    return Note("rip", 0, f"`{found.text}` was called, and is no function's address", found.certain)


def plain_notes(trace: Trace, machine: str, said: Sequence[Note]) -> Iterator[Note]:
    """About values that mean something whatever the instruction: poison in the faulting address, in registers."""
    if trace.low is not None and trace.high is not None:
        text = f"KASAN: {trace.range_kind}; the access was to {trace.low:#x} to {trace.high:#x}"
        yield Note("address", trace.low, f"{text}, the faulting address is that of its shadow")
    elif trace.fault is not None and not said:
        words = beside_poison(trace.fault) or meaning(trace.fault, machine)
        if is_error(trace.fault):
            # The address is the pointer plus the member's offset: which error it was cannot be told from it.
            text = "an error in a pointer (IS_ERR()) or another small negative number, plus a member's offset"
            yield Note("address", trace.fault, text, certain=False)
        elif words:
            yield Note("address", trace.fault, words)
        elif is_null(trace.fault):
            yield Note(
                "address", trace.fault, f"a null pointer plus {trace.fault:#x}" if trace.fault else "a null pointer"
            )
    known = {note.subject for note in said}
    for name, value in trace.registers.items():
        if name not in known and name in _POINTERS and (words := poison(value)):
            yield Note(name, value, words)


_POINTERS = (
    {"rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", *(f"r{n}" for n in range(8, 16))}
    | {f"x{n}" for n in range(31)}
    | {f"{kind}{n}" for kind in "ast" for n in range(12)}
)


def candidates(dwarf: Dwarf, address: int, offset: int, size: int, line: str) -> str:
    """Members at `offset` that the source line names, of what the variables in scope point to."""
    wanted = set(_MEMBER.findall(line))
    found: dict[str, None] = {}
    for variable in dwarf.in_scope(address):
        found |= dict.fromkeys(_named(variable.name, variable.type, offset, size, wanted))
    for function in dict.fromkeys(_CALLED.findall(line)):
        kind = dwarf.declared(function)
        found |= dict.fromkeys(_named(f"{function}()", kind, offset, size, wanted) if kind is not None else ())
    return " or ".join(list(found)[:3])


def _named(text: str, kind: drgn.Type, offset: int, size: int, wanted: set[str]) -> Iterator[str]:
    struct = pointed(kind)
    if struct is None:
        return
    for name, _ in members_at(struct, offset, size):
        if name.rpartition(".")[2] in wanted:
            yield f"{text}->{name}"
    for member in struct.members:
        inner = pointed(member.type) if member.name in wanted else None
        for name, _ in members_at(inner, offset, size) if inner is not None else ():
            if name.rpartition(".")[2] in wanted:
                yield f"{text}->{member.name}->{name}"


# What is known of the pointer in `register`, and of the member that was accessed through it.
def _about(
    origin: Origin | None,
    register: str,
    value: int,
    offset: int,
    size: int,
    address: int,
    function: Function,
    line: str,
) -> Note:
    what = "NULL" if value == 0 else f"{value:#x}"
    words = meaning(value)
    state = f"is {what}" + (f" ({words})" if words else "")
    if origin is None:
        text = f"{state}; the instruction accesses {offset:#x} bytes behind it" if offset else state
        named = candidates(function.dwarf, address, offset, size, line)
        return Note(register, value, text + (f": perhaps {named}" if named else ""), certain=not named)
    struct = pointed(origin.type)
    members = members_at(struct, offset, size) if struct is not None and offset >= 0 else []
    text = f"`{origin.text}` ({type_name(origin.type)}) {state}"
    if members:
        names = " or ".join(name for name, _ in members)
        text += f"; the access is to its member {names}, offset {offset:#x}"
    elif offset:
        text += f"; the access is {offset:#x} bytes behind it"
    return Note(register, value, text, origin.certain)


def _member(origin: Origin | None, offset: int) -> Origin | None:
    struct = pointed(origin.type) if origin else None
    members = members_at(struct, offset, 8) if struct is not None else []
    if origin is None or not members:
        return None
    return Origin(f"{origin.text}->{members[0][0]}", members[0][1], origin.certain and len(members) == 1)


def _plain(register: str, value: int) -> Iterator[Note]:
    if words := meaning(value):
        yield Note(register, value, words)
