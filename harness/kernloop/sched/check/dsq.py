# SPDX-License-Identifier: Apache-2.0
"""What the number of a DSQ says: a built-in one, one of the scheduler's own, or that it cannot be known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from kernloop.sched.check.symbols import BIG, Range, Sym, Value, bits, range_of, unwrap

__all__ = ["Dsq", "covered", "dsqs", "number_of"]

_BUILTIN = 1 << 63
_LOCAL_ON = 3 << 62


@dataclass(frozen=True)
class Dsq:
    """`kind` own: number `low` to `high` (one, where both are the same) of the scheduler's own. local_on: of `cpu`.

    `tunable`: the number is a `const volatile` variable's, which a loader may set.
    """

    kind: Literal["own", "local", "global", "local_on", "builtin", "unknown"]
    low: int = 0
    high: int = 0
    cpu: Value | None = None
    tunable: bool = False

    @property
    def single(self) -> bool:
        return self.kind == "own" and self.low == self.high

    def may_be(self, other: Dsq) -> bool:
        """Whether both could be the same DSQ of the scheduler's own."""
        if "unknown" in (self.kind, other.kind):
            return True
        return self.kind == other.kind == "own" and self.low <= other.high and other.low <= self.high


def number_of(value: Value | None) -> int | None:
    """`value` as a number, with what the object says of a `const volatile` variable; None if it is not known."""
    if isinstance(value, int):
        return value
    if isinstance(value, Sym) and value.kind == "ro" and isinstance(value.c, int):
        return value.c
    return None


def dsqs(value: Value | None, facts: Mapping[Sym, Range]) -> list[Dsq]:
    """Each DSQ that `value` can stand for."""
    if value is None:
        return [Dsq("unknown")]
    if isinstance(value, int):
        return [_known(value)]
    if value.kind == "set":
        return [_known(number) for number in sorted(value.a)]
    if value.kind == "phi" and value.c:
        return [one for part in value.c for one in dsqs(part, {})]
    sure = bits(value)
    if sure & _LOCAL_ON == _LOCAL_ON or _added(value):
        return [Dsq("local_on", cpu=unwrap(value, _LOCAL_ON))]
    if sure & _BUILTIN:
        return [Dsq("builtin")]
    number = number_of(value)
    if number is not None:
        known = _known(number)
        return [Dsq(known.kind, known.low, known.high, known.cpu, True)]
    low, high = range_of(value, facts)
    if (low, high) == BIG or low < 0 or high >= 1 << 31:
        return [Dsq("unknown")]
    # A condition as a number.
    if high == low + 1:
        return [Dsq("own", low, low), Dsq("own", high, high)]
    return [Dsq("own", low, high)]


def covered(dsq: Dsq, others: Iterable[Dsq]) -> bool:
    """Whether all that `dsq` can be is among `others`."""
    spans = sorted((one.low, one.high) for one in others if one.kind == "own")
    at = dsq.low
    for low, high in spans:
        if low <= at <= high:
            at = high + 1
        if at > dsq.high:
            return True
    return False


def _added(value: Sym) -> bool:
    return value.kind == "op" and value.a == "add" and _LOCAL_ON in (value.b, value.c)


def _known(number: int) -> Dsq:
    # An error that nobody expects: -ENOENT of a lookup that does not fail.
    if number >= (1 << 64) - 4095:
        return Dsq("unknown")
    if not number & _BUILTIN:
        return Dsq("own", number, number)
    if number & _LOCAL_ON == _LOCAL_ON:
        return Dsq("local_on", cpu=number & ((1 << 62) - 1))
    return Dsq({1: "global", 2: "local"}.get(number & 0xFFFF, "builtin"))  # type: ignore[arg-type]
