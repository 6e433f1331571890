# SPDX-License-Identifier: Apache-2.0
"""What the walk wants to know of a program before it begins: where ways join, and which registers are read later."""

from __future__ import annotations

from dataclasses import dataclass

from kernloop.sched.check.calls import ARITY, base_name
from kernloop.sched.obj.model import Insn, Program, SchedObject

__all__ = ["Shape", "shape_of"]


@dataclass(frozen=True)
class Shape:
    """`merges`: instructions that can be come to from more than one; `live`: registers read later, a bit each."""

    merges: frozenset[int]
    live: dict[int, int]


def shape_of(program: Program, obj: SchedObject) -> Shape:
    """The shape of `program`."""
    counts: dict[int, int] = {}
    for block in program.blocks:
        for number in block.successors:
            start = program.blocks[number].start
            counts[start] = counts.get(start, 0) + 1
    after = [0] * len(program.blocks)
    effects = [_effect(program, block.start, block.end, obj) for block in program.blocks]
    changed = True
    while changed:
        changed = False
        for block in reversed(program.blocks):
            out = 0
            for number in block.successors:
                out |= after[number]
            reads, writes = effects[block.number]
            now = reads | (out & ~writes)
            if now != after[block.number]:
                after[block.number] = now
                changed = True
    merges = frozenset(start for start, count in counts.items() if count > 1)
    return Shape(merges, {block.start: after[block.number] for block in program.blocks})


# The registers that are read before they are written, and those that are written.
def _effect(program: Program, start: int, end: int, obj: SchedObject) -> tuple[int, int]:
    reads = writes = 0
    for insn in program.insns[start:end]:
        read, written = _registers(insn, obj)
        reads |= read & ~writes
        writes |= written
    return reads, writes


def _registers(insn: Insn, obj: SchedObject) -> tuple[int, int]:
    code, dst, src = insn.code, 1 << insn.dst, 1 << insn.src
    cls = code & 7
    if cls in (4, 7):
        move = code & 0xF0 == 0xB0
        read = (src if code & 8 and code & 0xF0 not in (0x80, 0xD0) else 0) | (0 if move else dst)
        return read, dst
    if cls == 0:
        return 0, dst
    if cls == 1:
        return src, dst
    if cls == 2:
        return dst, 0
    if cls == 3:
        atomic = code & 0xE0 == 0xC0 and insn.imm & 1
        return dst | src | (1 if insn.imm == 0xF1 and atomic else 0), (1 if insn.imm == 0xF1 else src) if atomic else 0
    if code == 0x85:
        count = 5
        if insn.call is not None and insn.call.kind == "subprog":
            called = obj.programs.get(insn.call.name)
            count = min(len(called.args), 5) if called is not None and called.args else 5
        elif insn.call is not None:
            count = ARITY.get(base_name(insn.call.name), 5)
        return ((1 << count) - 1) << 1, 0b111111
    if code == 0x95:
        return 1, 0
    if code in (0x05, 0x06, 0xE5):
        return 0, 0
    return dst | (src if code & 8 else 0), 0
