# SPDX-License-Identifier: Apache-2.0
"""Which ways of a conditional jump are open, and what each of them tells of the values compared."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import NamedTuple

from kernloop.sched.check import calls
from kernloop.sched.check.symbols import BIG, Range, Sym, Symbols, Value, range_of, signed

__all__ = ["Branch", "decide"]

_EQ, _GT, _GE, _SET, _NE, _SGT, _SGE, _LT, _LE, _SLT, _SLE = (
    *(0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70),
    *(0xA0, 0xB0, 0xC0, 0xD0),
)
_TESTS: dict[int, Callable[[int, int], bool]] = {
    _EQ: operator.eq,
    _NE: operator.ne,
    _GT: operator.gt,
    _GE: operator.ge,
    _LT: operator.lt,
    _LE: operator.le,
    _SGT: operator.gt,
    _SGE: operator.ge,
    _SLT: operator.lt,
    _SLE: operator.le,
}
_SIGNED = frozenset([_SGT, _SGE, _SLT, _SLE])
_MIRROR = {_GT: _LT, _LT: _GT, _GE: _LE, _LE: _GE, _SGT: _SLT, _SLT: _SGT, _SGE: _SLE, _SLE: _SGE}
_NOT = {_EQ: _NE, _NE: _EQ, _GT: _LE, _LE: _GT, _GE: _LT, _LT: _GE, _SGT: _SLE, _SLE: _SGT, _SGE: _SLT, _SLT: _SGE}

_Refined = tuple[Sym, Range] | None


class Branch(NamedTuple):
    """`taken`, `passed`: whether the jump can be taken, and not. `soft`: the side, taken or not, on which one is only
    if something is missing that never is: NULL, an index out of bounds."""

    taken: bool
    passed: bool
    if_taken: _Refined
    if_passed: _Refined
    soft: bool | None


def decide(
    symbols: Symbols, op: int, left: Value, right: Value, wide: bool, facts: Mapping[Sym, Range], site: int
) -> Branch:
    """What the comparison of `left` and `right` comes to."""
    if op == _SET:
        left, right, op = symbols.op("and", left, right, site, True), 0, _NE
    if isinstance(left, int) and isinstance(right, Sym):
        left, right, op = right, left, _MIRROR.get(op, op)
    if isinstance(left, int):
        assert isinstance(right, int)
        yes = _holds(op, left, right, wide)
        return Branch(yes, not yes, None, None, None)
    if isinstance(right, Sym):
        return _two(symbols, op, left, right, facts)
    return _one(op, left, right, wide, facts)


def _holds(op: int, left: int, right: int, wide: bool) -> bool:
    if op in _SIGNED:
        return _TESTS[op](signed(left, wide), signed(right, wide))
    mask = (1 << 64) - 1 if wide else (1 << 32) - 1
    return _TESTS[op](left & mask, right & mask)


# Two unknowns: remembered as the outcome of the comparison, so that the same question gets the same answer.
def _two(symbols: Symbols, op: int, left: Sym, right: Sym, facts: Mapping[Sym, Range]) -> Branch:
    if left is right:
        yes = op in (_EQ, _GE, _LE, _SGE, _SLE)
        return Branch(yes, not yes, None, None, None)
    a, b = range_of(left, facts)
    c, d = range_of(right, facts)
    if (a, b) != BIG and (c, d) != BIG and a >= 0 and c >= 0:
        test = _TESTS[op]
        if op in (_EQ, _NE):
            if b < c or d < a:
                return Branch(op == _NE, op == _EQ, None, None, None)
        else:
            some = [test(x, y) for x in (a, b) for y in (c, d)]
            if all(some) or not any(some):
                return Branch(all(some), not any(some), None, None, None)
    inverted = op in (_NE, _GE, _LE, _SGE, _SLE)
    if op in (_NE, _GE, _LE, _SGE, _SLE):
        op = _NOT[op]
    if op in (_GT, _SGT):
        left, right, op = right, left, _MIRROR[op]
    if op == _EQ and left.number > right.number:
        left, right = right, left
    asked = symbols.make("op", {_EQ: "eq", _LT: "lt", _SLT: "slt"}[op], left, right, 0, 1)
    known = facts.get(asked)
    is_so: _Refined = (asked, (1, 1, True))
    is_not: _Refined = (asked, (0, 0, False))
    if known is not None and known[0] == known[1]:
        holds = bool(known[0]) != inverted
        return Branch(holds, not holds, None, None, None)
    soft = None
    if op == _LT and _is_bound(right) and not _of_task(left):
        soft = inverted
    return Branch(True, True, is_not if inverted else is_so, is_so if inverted else is_not, soft)


def _one(op: int, left: Sym, right: int, wide: bool, facts: Mapping[Sym, Range]) -> Branch:
    while op in (_EQ, _NE) and left.kind == "op" and isinstance(left.c, int) and isinstance(left.b, Sym):
        if left.a == "xor":
            right ^= left.c
        elif left.a == "add":
            right = (right - left.c) & ((1 << 64) - 1)
            if not wide:
                right &= (1 << 32) - 1
        else:
            break
        left = left.b
    if left.kind == "set":
        held = {_holds(op, number, right, wide) for number in left.a}
        return Branch(True in held, False in held, None, None, None)
    known = facts.get(left)
    low, high = range_of(left, facts)
    nonzero = known[2] if known else False
    soft = _soft(op, left, right)
    # A byte that is compared with 1 is a bool.
    if right == 1 and op in (_EQ, _NE) and (low, high) == (0, 255):
        high = 1
    if (low, high) == BIG and op not in (_EQ, _NE):
        if op in _SIGNED:
            low, high = -(1 << 63), (1 << 63) - 1
        else:
            low, high = 0, (1 << 64) - 1
    number = right
    if low < 0 or op in _SIGNED:
        number = signed(right, wide)
        if op in _SIGNED and high > (1 << 63) - 1:
            high = (1 << 63) - 1
            low = min(low, -(1 << 63))
        if op in _SIGNED and not wide and high > (1 << 31) - 1:
            low, high = -(1 << 31), (1 << 31) - 1
        if op not in _SIGNED and op not in (_EQ, _NE):
            # Unsigned, of what may be negative: only "below a small number" tells something.
            if op in (_LT, _LE) and 0 <= number < 1 << 31:
                top = number - (op == _LT)
                return Branch(top >= 0, True, (left, (max(low, 0), min(high, top), nonzero)), None, soft)
            if op in (_GT, _GE) and 0 <= number < 1 << 31:
                top = number - (op == _GE)
                return Branch(True, top >= 0, None, (left, (max(low, 0), min(high, top), nonzero)), soft)
            return Branch(True, True, None, None, soft)
    elif not wide:
        number &= (1 << 32) - 1
        if high > (1 << 32) - 1 and op not in (_EQ, _NE):
            low, high = 0, (1 << 32) - 1
    yes = _narrow(op, low, high, number, nonzero)
    no = _narrow(_NOT[op], low, high, number, nonzero)
    return Branch(
        yes is not None,
        no is not None,
        (left, yes) if yes is not None else None,
        (left, no) if no is not None else None,
        soft,
    )


# The range in which `op number` holds; None: nowhere.
def _narrow(op: int, low: int, high: int, number: int, nonzero: bool) -> Range | None:
    if op == _EQ:
        if (number < low or number > high) and (low, high) != BIG:
            return None
        if number == 0 and nonzero:
            return None
        return number, number, number != 0
    if op == _NE:
        if low == high == number:
            return None
        if number == low:
            low += 1
        elif number == high:
            high -= 1
        return low, high, nonzero or number == 0
    if op in (_GT, _SGT):
        low = max(low, number + 1)
    elif op in (_GE, _SGE):
        low = max(low, number)
    elif op in (_LT, _SLT):
        high = min(high, number - 1)
    else:
        high = min(high, number)
    if low > high or (nonzero and low == high == 0):
        return None
    return low, high, nonzero or low > 0 or high < 0


def _soft(op: int, left: Sym, right: int) -> bool | None:
    if right == 0 and op in (_EQ, _NE):
        missing = (left.kind == "call" and left.a in calls.NULLABLE and left.a not in calls.ALLOCATING) or (
            left.kind == "ld" and left.hi > 1 << 32
        )
        return (op == _EQ) if missing else None
    if _is_count(left):
        return None
    if op in (_GT, _GE) and right > 0 and not _of_task(left):
        return True
    if op in (_LT, _LE) and right > 1 and not _of_task(left):
        return False
    return None


# A global counter, or how far one is ahead of another: a queue of the scheduler's own may well be full.
def _is_count(value: Sym) -> bool:
    if value.kind == "op" and value.a == "sub":
        return all(isinstance(one, Sym) and one.kind == "ld" for one in (value.b, value.c))
    return value.kind == "ld" and isinstance(value.a, str)


# A bound of an array, a number of CPUs.
def _is_bound(value: Sym) -> bool:
    return value.kind == "ro" or (value.kind == "call" and value.a in ("scx_bpf_nr_cpu_ids", "scx_bpf_nr_node_ids"))


def _of_task(value: Value) -> bool:
    while isinstance(value, Sym) and value.kind == "op":
        value = value.b
    return isinstance(value, Sym) and value.kind in ("fld", "out")
