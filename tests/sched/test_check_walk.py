# SPDX-License-Identifier: Apache-2.0
"""Whichever way a program goes, the walk went it as well; and ways are told apart as they are."""

from __future__ import annotations

import operator
import random
import struct
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from kernloop.sched.check.symbols import Sym, compute, range_of, signed
from kernloop.sched.check.trace import Trace
from kernloop.sched.check.walk import Walker
from kernloop.sched.obj import decode
from kernloop.sched.obj.decode import DecodeError, Known
from kernloop.sched.obj.model import Call, Program, SchedObject
from kernloop.sched.obj.world import World

M64 = (1 << 64) - 1
EXIT = (0x95, 0, 0, 0, 0)
CALL = (0x85, 0, 0, 0, -1)
SEEN = Call("kfunc", "seen")
INSERT = Call("kfunc", "scx_bpf_dsq_insert")
Row = tuple[int, int, int, int, int]
OPS = {
    0x00: "add", 0x10: "sub", 0x20: "mul", 0x30: "div", 0x40: "or", 0x50: "and", 0x60: "lsh", 0x70: "rsh", 0x90: "mod",
    0xA0: "xor", 0xC0: "arsh",
}  # fmt: skip
COMPARES = {
    0x10: operator.eq, 0x20: operator.gt, 0x30: operator.ge, 0x40: lambda a, b: bool(a & b), 0x50: operator.ne,
    0xA0: operator.lt, 0xB0: operator.le,
}  # fmt: skip
SIGNED = {0x60: operator.gt, 0x70: operator.ge, 0xC0: operator.lt, 0xD0: operator.le}


def program(rows: list[Row], calls: dict[int, Call] | None = None, name: str = "prog", role: str = "op") -> Program:
    """A program of instructions: code, dst, src, off, imm."""
    data = b"".join(struct.pack("<BBhi", code, dst | src << 4, off, imm) for code, dst, src, off, imm in rows)
    insns = decode.decode(data, Known(calls=calls or {}))
    return Program(name, "struct_ops/" + name, "enqueue", False, insns, decode.blocks(insns), (), role)  # type: ignore[arg-type]


def walked(made: Program, *others: Program, op: str = "enqueue", apart: int = 8) -> Trace:
    obj = SchedObject(Path("x.o"), "GPL", (), {p.name: p for p in (made, *others)}, {}, {})
    return Walker(World(obj), 60000).walk(made.name, op, 60000, apart)


def run(made: Program, arguments: list[int]) -> list[tuple[int, list[int]]] | None:
    """The machine itself, for numbers: the calls that it comes to with r6 to r9, and the exit with r0; None: no end."""
    regs, stack, seen = [0] * 11, dict[int, int](), list[tuple[int, list[int]]]()
    at = 0
    for _ in range(400):
        insn = made.insns[at]
        code, op, at = insn.code, insn.code & 0xF0, at + 1
        right = regs[insn.src] if code & 8 else insn.imm & M64
        if code == 0x95:
            return [*seen, (insn.index, regs[:1])]
        if code == 0x85:
            seen.append((insn.index, regs[6:10]))
        elif code == 0xBF or code == 0xB7:
            regs[insn.dst] = right
        elif code & 7 == 7:
            regs[insn.dst] = compute(OPS[op], regs[insn.dst], right, wide=True)
        elif code == 0x79 and insn.src == 1:
            regs[insn.dst] = arguments[insn.off // 8]
        elif code == 0x79:
            regs[insn.dst] = stack.get(insn.off, 0)
        elif code & 7 in (2, 3):
            stack[insn.off] = regs[insn.src] if code & 7 == 3 else insn.imm & M64
        else:
            left, jumps = regs[insn.dst], code == 0x05
            if op in COMPARES:
                jumps = COMPARES[op](left, right)
            elif op in SIGNED:
                jumps = SIGNED[op](signed(left, wide=True), signed(right, wide=True))
            at = insn.target if jumps and insn.target is not None else at
    return None


# The 64-bit half of the machine: a 32-bit copy of what is not known counts as the same, by design.
def random_program(luck: random.Random) -> tuple[list[Row], dict[int, Call]]:
    """Loads of arguments, then arithmetic, moves, spills, calls and jumps both ways; r1 and r10 stay what they are."""
    count = luck.randrange(14, 40)
    rows: list[Row] = [(0x79, register, 1, 8 * place, 0) for place, register in enumerate((6, 7, 8))]
    rows += [(0xB7, 9, 0, 0, luck.randrange(-3, 9)), (0xB7, 0, 0, 0, 0)]
    rows += [(0x7A, 10, 0, -8 * place - 8, luck.choice([0, 7, 1 << 20])) for place in range(3)]
    begin = len(rows)
    calls = {}
    for place in range(begin, count):
        dst, src = luck.choice([6, 7, 8, 9]), luck.choice([6, 7, 8, 9])
        imm = luck.choice([0, 1, 2, 7, 16, 255, 4096])
        match luck.randrange(9):
            case 0:
                rows.append(CALL)
                calls[place] = SEEN
            case 1:
                rows.append((luck.choice([0xB7, 0xBF]), dst, src, 0, imm))
            case 2 | 3:
                rows.append((luck.choice(list(OPS)) | 7 | luck.choice([0, 8]), dst, src, 0, luck.choice([1, 2, 7, 16])))
            case 4:
                rows.append((luck.choice([0x7A, 0x7B]), 10, src, -8 * luck.randrange(1, 4), imm))
            case 5:
                rows.append((0x79, dst, 10, -8 * luck.randrange(1, 4), 0))
            case _:
                to = luck.randrange(begin, count) - place - 1
                code = luck.choice([*COMPARES, *SIGNED]) | 5 | luck.choice([0, 8])
                rows.append((0x05 if luck.random() < 0.1 else code, dst, src, to, imm))
    return [*rows, EXIT], calls


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 1 << 40))
def test_whichever_way_a_program_goes_was_walked(seed: int) -> None:
    luck = random.Random(seed)
    rows, calls = random_program(luck)
    made = program(rows, calls)
    trace = walked(made, apart=luck.choice([1, 2, 8]))
    sites = {event.insn.index for event in trace.events if event.kind in ("seen", "exit")}
    for _ in range(8):
        for at, _ in run(made, [luck.choice([0, 1, 15, luck.randrange(300)]) for _ in range(3)]) or ():
            assert at in sites or not trace.complete


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 1 << 40))
def test_what_a_program_returns_was_foretold(seed: int) -> None:
    luck = random.Random(seed)
    rows, calls = random_program(luck)
    rows[-1:] = [(0xBF, 0, luck.choice([6, 7, 8, 9]), 0, 0), EXIT]
    made = program(rows, calls)
    trace = walked(made, apart=luck.choice([1, 8]))
    if not trace.complete:
        return
    ends = [(event.args[0], event.facts) for event in trace.of("exit")]
    for _ in range(8):
        for _, (number, *_) in (run(made, [luck.choice([0, 1, 15, luck.randrange(300)]) for _ in range(3)]) or ())[-1:]:
            assert any(
                value is None or any(low <= one <= high for one in (number, signed(number, wide=True)))
                for value, facts in ends
                for low, high in [range_of(value, facts) if value is not None else (0, 0)]
            ), f"{number:#x} is none of {[value for value, _ in ends]}"


@given(st.binary(max_size=160))
def test_any_bytes_are_decoded_or_refused(data: bytes) -> None:
    try:
        insns = decode.decode(data, Known())
    except DecodeError:
        return
    parts = decode.blocks(insns)
    assert [insn.index for insn in insns] == list(range(len(insns)))
    assert sum(block.end - block.start for block in parts) == len(insns)
    for block in parts:
        for insn in insns[block.start : block.end - 1]:
            assert insn.target is None
        assert all(0 <= successor < len(parts) for successor in block.successors)


ZERO = (0xB7, 0, 0, 0, 0)
LOAD = (0x79, 6, 1, 0, 0)


def unless(off: int, register: int = 6, imm: int = 0) -> Row:
    """if (reg == imm) goto +off"""
    return (0x15, register, 0, off, imm)


def inserted(rows: list[Row], calls: dict[int, Call], *others: Program) -> set[int]:
    """How many inserts, of two at most, the ways that end have made."""
    return {len(event.prop.inserts) for event in walked(program(rows, calls), *others).of("exit")}


def test_a_way_without_an_insert_is_seen() -> None:
    assert inserted([LOAD, unless(1), CALL, ZERO, EXIT], {2: INSERT}) == {0, 1}


def test_a_flag_that_was_set_with_the_insert_is_remembered() -> None:
    # r7 = 0; if (arg) { insert(); r7 = 1; }  if (!r7) insert();
    rows = [LOAD, (0xB7, 7, 0, 0, 0), unless(2), CALL, (0xB7, 7, 0, 0, 1), (0x55, 7, 0, 1, 0), CALL, ZERO, EXIT]
    assert inserted(rows, {3: INSERT, 6: INSERT}) == {1}


def test_two_inserts_on_one_way_are_two() -> None:
    assert inserted([LOAD, unless(1), CALL, CALL, ZERO, EXIT], {2: INSERT, 3: INSERT}) == {1, 2}


def test_inserts_in_a_loop_are_many() -> None:
    # r6 = arg; do { insert(); r6--; } while (r6);
    assert inserted([LOAD, CALL, (0x07, 6, 0, 0, -1), (0x55, 6, 0, -3, 0), ZERO, EXIT], {1: INSERT}) == {1, 2}


def test_a_subprogram_is_judged_by_the_arguments_that_it_gets() -> None:
    helper = program([unless(1, 1), CALL, ZERO, EXIT], {1: INSERT}, "put", "subprog")
    put = {1: Call("subprog", "put")}
    assert inserted([(0xB7, 1, 0, 0, 5), CALL, ZERO, EXIT], put, helper) == {1}
    assert inserted([(0xB7, 1, 0, 0, 0), CALL, ZERO, EXIT], put, helper) == {0}
    assert inserted([LOAD, (0xBF, 1, 6, 0, 0), CALL, ZERO, EXIT], {2: Call("subprog", "put")}, helper) == {0, 1}


def test_a_branch_that_cannot_be_taken_leads_nowhere() -> None:
    def calls(number: int) -> int:
        return len(walked(program([(0xB7, 6, 0, 0, number), unless(1, 6, 4), CALL, ZERO, EXIT], {2: SEEN})).of("seen"))

    assert (calls(3), calls(4)) == (1, 0)


def test_a_value_that_met_another_keeps_its_origin() -> None:
    # r0 = arg ? f() : prev; return r0;
    rows = [(0x79, 7, 1, 8, 0), LOAD, unless(2), CALL, (0x05, 0, 0, 1, 0), (0xBF, 0, 7, 0, 0), EXIT]
    made = program(rows, {3: Call("kfunc", "pick___v2")})
    for apart in (1, 8):
        [*ends] = walked(made, apart=apart).of("exit")
        found = [part for end in ends for part in _mixed(end.args[0])]
        assert {(part.kind, part.a) for part in found} >= {("call", "pick"), ("arg", 1)}


def _mixed(value: object) -> list[Sym]:
    if not isinstance(value, Sym):
        return []
    return [part for one in value.c for part in _mixed(one)] if value.kind == "phi" and value.c else [value]


def test_an_old_copy_of_what_a_loop_has_set_anew_is_not_it() -> None:
    # r6 = a + 1; r8 = 0;
    # again: r7 = r6; if (r8 == 1) return r7 == 5 ? old : 0; old = r7; insert(); r6 = b + 1; r8 = 1; goto again;
    rows: list[Row] = [
        LOAD,
        (0x07, 6, 0, 0, 1),
        (0x79, 9, 1, 8, 0),
        (0xB7, 8, 0, 0, 0),
        (0xBF, 7, 6, 0, 0),
        (0x15, 8, 0, 6, 1),
        (0x7B, 10, 7, -8, 0),
        CALL,
        (0xBF, 6, 9, 0, 0),
        (0x07, 6, 0, 0, 1),
        (0xB7, 8, 0, 0, 1),
        (0x05, 0, 0, -8, 0),
        (0x15, 7, 0, 2, 5),
        ZERO,
        EXIT,
        (0x79, 0, 10, -8, 0),
        EXIT,
    ]
    for apart in (1, 8):
        ends = [event for event in walked(program(rows, {7: SEEN}), apart=apart).of("exit") if event.insn.index == 16]
        spans = [range_of(end.args[0], end.facts) for end in ends if end.args[0] is not None]
        assert any(low <= 5 <= high for low, high in spans)
        assert any(low <= 7 <= high for low, high in spans)


def test_one_function_is_looked_at_by_itself() -> None:
    helper = program([unless(1, 1), CALL, ZERO, EXIT], {1: SEEN}, "put", "subprog")
    caller = program([LOAD, CALL, ZERO, EXIT], {1: Call("subprog", "put")})
    obj = SchedObject(Path("x.o"), "GPL", (), {p.name: p for p in (caller, helper)}, {}, {})
    walker = Walker(World(obj), 1000)
    assert {walker.program(site).name for site in walker.alone("prog").sites} == {"prog"}
    assert 1 << 20 | 1 in walker.alone("put").sites
