# SPDX-License-Identifier: Apache-2.0
"""Where the walk through a program stands, and how two such places are compared and joined."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from kernloop.sched.check.symbols import BIG, Range, Sym, Symbols, Value

__all__ = ["Frame", "Path", "Prop", "State", "covers", "join"]

# Values that nothing holds any more and whose facts are of interest all the same.
_STICKY = frozenset(
    ["scx_bpf_dsq_move_to_local", "scx_bpf_consume", "bpf_map_pop_elem", "bpf_cpumask_test_cpu", "bpf_map_push_elem"]
)


class Prop(NamedTuple):
    """What has been done with the task on the way here.

    `inserts`: the first two sites of inserts. `handed`: it was stored where others find it. `pushed`: the result of a
    push into a queue that nobody has looked at. `soft`: a branch was taken for what cannot happen (NULL, an index out
    of bounds). `popped`: a task that was taken from a queue of the scheduler's own and is not yet put anywhere.
    `kicked`: a CPU was kicked. `flagged`: places in global memory that were set to a number. In dispatch `inserts` are
    those since the buffer was emptied, or its room asked for.
    """

    inserts: tuple[int, ...] = ()
    handed: bool = False
    pushed: Sym | None = None
    soft: bool = False
    popped: Sym | None = None
    kicked: bool = False
    flagged: tuple[tuple[object, int], ...] = ()


@dataclass(slots=True)
class Path:
    """The way here: the branch at `site` went to the instruction with index `to`."""

    before: Path | None
    site: int
    to: int


@dataclass(slots=True)
class Frame:
    """Who called: `back` is the index to return to in program number `program`; `kind` call, loop or each."""

    program: int
    back: int
    saved: tuple[Value | None, ...]
    kind: str
    site: int


class State:
    """`regs` may hold None: nothing is known, and nothing has to be the same. `joined`: it is several ways in one."""

    __slots__ = ("facts", "frames", "index", "joined", "path", "program", "prop", "regs", "stack")

    def __init__(
        self,
        program: int,
        index: int,
        regs: list[Value | None],
        stack: dict[tuple[object, int], tuple[Value, int]],
        facts: dict[Sym, Range],
        prop: Prop,
        frames: tuple[Frame, ...],
        path: Path | None,
        joined: bool = False,
    ) -> None:
        self.program = program
        self.index = index
        self.regs = regs
        self.stack = stack
        self.facts = facts
        self.prop = prop
        self.frames = frames
        self.path = path
        self.joined = joined

    def copy(self) -> State:
        return State(
            self.program,
            self.index,
            list(self.regs),
            dict(self.stack),
            dict(self.facts),
            self.prop,
            self.frames,
            self.path,
            self.joined,
        )

    def keep_numbers(self) -> None:
        """Drop all but numbers, and where the stack is."""
        self.regs[:10] = [value if isinstance(value, int) else None for value in self.regs[:10]]
        self.stack = {place: held for place, held in self.stack.items() if isinstance(held[0], int)}
        self.facts = {}

    def forget_dead(self, live: int) -> None:
        """Drop what no later instruction can ask for: registers that are not `live`, facts of what nobody holds."""
        regs = self.regs
        for number in range(10):
            if not live >> number & 1:
                regs[number] = None
        loose = [sym for sym, known in self.facts.items() if not _kept(sym, known)]
        if not loose:
            return
        held: set[Sym] = set()
        for value in regs:
            _hold(value, held)
        for value, _ in self.stack.values():
            _hold(value, held)
        for frame in self.frames:
            for saved in frame.saved:
                _hold(saved, held)
        for sym in loose:
            if sym not in held:
                del self.facts[sym]


def _hold(value: Value | None, held: set[Sym]) -> None:
    while isinstance(value, Sym) and value not in held:
        held.add(value)
        if value.kind == "op":
            _hold(value.c, held)
            value = value.b
        elif value.kind == "fld":
            value = value.a
        else:
            break


# Whether it is of interest though nobody holds the value.
def _kept(sym: Sym, known: Range) -> bool:
    kept = sym.kept
    if not kept:
        kept = sym.kept = _keeping(sym)
    return kept == "always" or (kept == "answer" and (known[2] or known[1] == 0))


def _keeping(sym: Sym) -> str:
    if sym.kind in ("fld", "ro", "arg"):
        return "always" if _lasting(sym) else "held"
    if sym.kind == "op":
        at_home = sym.a == "eq" and any(isinstance(x, Sym) and x.a == "scx_bpf_task_cpu" for x in (sym.b, sym.c))
        return "always" if at_home or (_lasting(sym.b) and _lasting(sym.c)) else "held"
    return "answer" if sym.kind == "call" and sym.a in _STICKY else "held"


# It can be read again, and would be the same.
def _lasting(value: Value) -> bool:
    if not isinstance(value, Sym):
        return True
    if value.kind == "op":
        return _lasting(value.b) and _lasting(value.c)
    if value.kind == "fld":
        return _lasting(value.a)
    return value.kind == "arg" or (value.kind == "ro" and value.b[0] != "kconfig")


def covers(old: State, new: State) -> bool:
    """Whether all that can follow from `new` was seen with `old`; their props are the same."""
    facts = old.facts
    if len(facts) > len(new.facts):
        return False
    for ours, theirs in zip(old.regs, new.regs, strict=True):
        if ours is not theirs and ours != theirs and not _top(ours, facts):
            return False
    for mine, yours in zip(old.frames, new.frames, strict=True):
        for ours, theirs in zip(mine.saved, yours.saved, strict=True):
            if ours is not theirs and ours != theirs and not _top(ours, facts):
                return False
    other = new.stack
    # What was stored into memory is otherwise what was there before.
    for place in other:
        if place not in old.stack and not isinstance(place[0], int):
            return False
    for place, was in old.stack.items():
        found = other.get(place)
        if found is was:
            continue
        value, size = was
        if _top(value, facts):
            continue
        if found is None or found[1] != size or (found[0] is not value and found[0] != value):
            return False
    for sym, limits in facts.items():
        known = new.facts.get(sym)
        if known is limits:
            continue
        low, high, nonzero = limits
        if known is None or known[0] < low or known[1] > high or (nonzero and not known[2] and known[0] <= 0):
            return False
    return True


def _top(value: Value | None, facts: Mapping[Sym, Range]) -> bool:
    if value is None:
        return True
    return isinstance(value, Sym) and value.kind == "phi" and value not in facts and (value.lo, value.hi) == BIG


def join(symbols: Symbols, old: State, new: State, key: object, tired: bool) -> State:
    """A state that covers both. `tired`: it did not settle, so nothing is kept that still changes."""
    facts: dict[Sym, Range] = {}
    for sym, (low, high, nonzero) in old.facts.items():
        known = new.facts.get(sym)
        if known is None:
            continue
        if tired and (known[0] != low or known[1] != high):
            if nonzero and known[2]:
                facts[sym] = (sym.lo, sym.hi, True)
            continue
        facts[sym] = (min(low, known[0]), max(high, known[1]), nonzero and known[2])

    def one(ours: Value | None, theirs: Value | None, place: object) -> Value | None:
        if ours is theirs or ours == theirs:
            return ours
        if ours is None or theirs is None:
            return None
        numbers = _numbers(ours), _numbers(theirs)
        if not tired and numbers[0] is not None and numbers[1] is not None:
            both = numbers[0] | numbers[1]
            if len(both) <= 8:
                return symbols.set(both)
        made = symbols.make("phi", (key, place))
        made.c = _mixed(made, ours, theirs)
        facts.pop(made, None)
        return made

    regs = [one(a, b, number) for number, (a, b) in enumerate(zip(old.regs, new.regs, strict=True))]
    frames = tuple(
        Frame(
            a.program,
            a.back,
            tuple(one(x, y, (depth, at)) for at, (x, y) in enumerate(zip(a.saved, b.saved, strict=True))),
            a.kind,
            a.site,
        )
        for depth, (a, b) in enumerate(zip(old.frames, new.frames, strict=True))
    )
    stack: dict[tuple[object, int], tuple[Value, int]] = {}
    for place, (value, size) in old.stack.items():
        other = new.stack.get(place)
        if other is None or other[1] != size:
            continue
        made = one(value, other[0], place)
        if made is not None:
            stack[place] = made, size
    return State(new.program, new.index, regs, stack, facts, new.prop, frames, new.path, True)


def _numbers(value: Value) -> frozenset[int] | None:
    if isinstance(value, int):
        return frozenset([value])
    return value.a if value.kind == "set" else None


# What has come together in a phi, so that one can ask where a value may be from.
def _mixed(made: Sym, *values: Value) -> tuple[Value, ...]:
    found: list[Value] = list(made.c or ())
    for value in values:
        for part in value.c if isinstance(value, Sym) and value.kind == "phi" and value.c else (value,):
            if part is not made and part not in found and len(found) < 12:
                found.append(part)
    return tuple(found)
