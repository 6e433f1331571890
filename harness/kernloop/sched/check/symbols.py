# SPDX-License-Identifier: Apache-2.0
"""Values that the walk through a program computes with: numbers, and names for what is not known.

A value is an int (64 bits, unsigned) or a `Sym`. Two reads of the same thing give the same `Sym`, so what a branch has
found out about one holds for the other. Widths are not modelled: a 32-bit copy of a Sym is the Sym.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["BIG", "Range", "Sym", "Symbols", "Value", "bits", "compute", "parts", "range_of", "signed", "unwrap"]

M64 = (1 << 64) - 1
M32 = (1 << 32) - 1
BIG = (-(1 << 63), M64)
_MAX_DEPTH = 10


class Sym:
    """Something not known. `kind` says what `a`, `b` and `c` are:

    - arg: parameter number a of the op
    - call: what a (the kernel's name) gave at site b for the values c
    - out: what the call at site b wrote through a pointer; a is its name, c the number of the argument
    - fld: member b ("task_struct.flags") of the structure at a
    - ld: what site b read from address a
    - ro: variable a of .rodata, c its value in the object
    - op: the operator a of b and c
    - fp: byte b of stack frame a; addr: the address of a (kind) b (name), c (section, offset)
    - set: one of the numbers in a
    - iter: what the bpf_for() at site a counts through, from b to c
    - phi: what differs where ways join; unk: anything

    `number` tells which was made first; `kept` is for state.py: how long what is known of it is of interest.
    """

    __slots__ = ("a", "b", "c", "depth", "hi", "kept", "kind", "lo", "number")

    def __init__(self, kind: str, a: Any, b: Any, c: Any, lo: int, hi: int, depth: int, number: int) -> None:
        self.kind = kind
        self.a = a
        self.b = b
        self.c = c
        self.lo = lo
        self.hi = hi
        self.depth = depth
        self.number = number
        self.kept = ""

    def __repr__(self) -> str:
        return f"{self.kind}({self.a!r},{self.b!r},{self.c!r})"


Value = int | Sym
Range = tuple[int, int, bool]  # lowest, highest, and whether 0 is excluded


def signed(number: int, wide: bool) -> int:
    """`number` as the signed 64-bit (`wide`) or 32-bit number that it is."""
    if wide:
        return number - (1 << 64) if number >> 63 else number
    number &= M32
    return number - (1 << 32) if number >> 31 else number


def range_of(value: Value, facts: Mapping[Sym, Range]) -> tuple[int, int]:
    """The lowest and the highest that `value` can be. An int is taken as unsigned."""
    if isinstance(value, int):
        return value, value
    known = facts.get(value)
    low, high = (known[0], known[1]) if known else (value.lo, value.hi)
    if value.kind == "op" and (low, high) == BIG:
        return _of_op(value, facts)
    return low, high


def _of_op(value: Sym, facts: Mapping[Sym, Range]) -> tuple[int, int]:
    name, left, right = value.a, value.b, value.c
    a, b = range_of(left, facts)
    c, d = range_of(right, facts)
    if name == "and" and isinstance(right, int):
        return 0, min(right, b) if a >= 0 else right
    if name == "mod" and c == d and c > 0:
        return 0, c - 1
    if (a, b) == BIG or (c, d) == BIG or a < 0 or c < 0:
        if name == "add" and isinstance(right, int) and (a, b) != BIG:
            step = signed(right, True)
            return a + step, b + step
        return BIG
    if name == "add":
        if isinstance(right, int) and right >> 63:
            return a + signed(right, True), b + signed(right, True)
        return (a + c, b + d) if b + d <= M64 else BIG
    if name == "mul":
        return (a * c, b * d) if b * d <= M64 else BIG
    if name == "div" and c == d and c:
        return a // c, b // c
    if name == "rsh" and c == d:
        return a >> c, b >> c
    if name == "lsh" and c == d:
        return (a << c, b << c) if c < 64 and b << c <= M64 else BIG
    if name in ("or", "xor"):
        if c == d and c & ((1 << b.bit_length()) - 1) == 0:
            return c + a, c + b
        top = (1 << max(b, d).bit_length()) - 1
        return (max(a, c) if name == "or" else 0), top
    return BIG


def bits(value: Value) -> int:
    """The bits that are certainly set in `value`."""
    if isinstance(value, int):
        return value
    if value.kind == "op" and value.a == "or":
        return bits(value.b) | bits(value.c)
    if value.kind == "set":
        found = M64
        for number in value.a:
            found &= number
        return found
    return 0


def unwrap(value: Value, mask: int) -> Value:
    """`value` without the constant that is or-ed or added to it where that has bits of `mask`."""
    while isinstance(value, Sym) and value.kind == "op" and value.a in ("or", "add"):
        if isinstance(value.c, int) and value.c & mask:
            value = value.b
        elif isinstance(value.b, int) and value.b & mask:
            value = value.c
        else:
            break
    return value & ~mask if isinstance(value, int) else value


def parts(value: Value) -> list[Sym]:
    """All that `value` is computed from, itself included."""
    found: list[Sym] = []
    left = [value]
    while left:
        one = left.pop()
        if not isinstance(one, Sym) or one in found:
            continue
        found.append(one)
        if one.kind == "op":
            left += [one.b, one.c]
        elif one.kind == "fld" or one.kind == "ld":
            left.append(one.a)
        elif one.kind in ("call", "phi"):
            left += one.c or ()
    return found


class Symbols:
    """Makes Syms; the same description is the same object."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], Sym] = {}

    def make(self, kind: str, a: Any = None, b: Any = None, c: Any = None, lo: int = BIG[0], hi: int = BIG[1]) -> Sym:
        key = (kind, a, b, c)
        found = self._known.get(key)
        if found is None:
            depth = 1 + max((x.depth for x in (a, b, c) if isinstance(x, Sym)), default=0)
            found = self._known[key] = Sym(kind, a, b, c, lo, hi, depth, len(self._known))
        return found

    def op(self, name: str, left: Value, right: Value, site: int, wide: bool) -> Value:
        """`left` operator `right`."""
        if isinstance(left, int) and isinstance(right, int):
            return compute(name, left, right, wide)
        if isinstance(left, int) and name in ("add", "and", "or", "xor", "mul"):
            left, right = right, left
        if isinstance(right, int):
            simple = _simplify(name, left, right, wide)
            if simple is not None:
                return simple
            if isinstance(left, Sym):
                if left.kind == "fp" and name in ("add", "sub"):
                    step = signed(right, True)
                    return self.make("fp", left.a, left.b + (step if name == "add" else -step))
                if left.kind == "addr" and left.c and name == "add":
                    section, offset = left.c
                    return self.make("addr", left.a, left.b, (section, offset + signed(right, True)))
                if left.kind == "set":
                    numbers = frozenset(compute(name, one, right, wide) for one in left.a)
                    return self.set(numbers)
        if max(x.depth for x in (left, right) if isinstance(x, Sym)) >= _MAX_DEPTH:
            return self.make("unk", site)
        return self.make("op", name, left, right)

    def set(self, numbers: frozenset[int]) -> Value:
        """One of `numbers`."""
        if len(numbers) == 1:
            return next(iter(numbers))
        return self.make("set", numbers, lo=min(numbers), hi=max(numbers))


# Where the result is `left` again, or 0.
def _simplify(name: str, left: Value, right: int, wide: bool) -> Value | None:
    if right == 0:
        if name in ("add", "sub", "or", "xor", "lsh", "rsh", "arsh"):
            return left
        if name in ("and", "mul"):
            return 0
    if not isinstance(left, Sym):
        return None
    if name == "and":
        if right in (M64, M32) or (left.lo >= 0 and right & (right + 1) == 0 and left.hi <= right):
            return left
        if left.kind == "op" and left.a == "and" and isinstance(left.c, int) and left.c & right == left.c:
            return left
    # The compiler's way to extend a 32-bit number.
    if name in ("rsh", "arsh") and right == 32 and left.kind == "op" and left.a == "lsh" and left.c == 32:
        inner: Value = left.b
        return inner
    return None


def compute(name: str, left: int, right: int, wide: bool) -> int:
    """`left` operator `right` as the CPU does it."""
    mask = M64 if wide else M32
    left, right = left & mask, right & mask
    shift = right & (63 if wide else 31)
    if name == "add":
        result = left + right
    elif name == "sub":
        result = left - right
    elif name == "mul":
        result = left * right
    elif name == "div":
        result = left // right if right else 0
    elif name == "mod":
        result = left % right if right else left
    elif name == "or":
        result = left | right
    elif name == "and":
        result = left & right
    elif name == "xor":
        result = left ^ right
    elif name == "lsh":
        result = left << shift
    elif name == "rsh":
        result = left >> shift
    else:
        result = signed(left, wide) >> shift
    return result & mask
