# SPDX-License-Identifier: Apache-2.0
"""What a walk through a BPF program came to."""

from __future__ import annotations

from dataclasses import dataclass, field

from kernloop.sched.check.state import Frame, Path, Prop
from kernloop.sched.check.symbols import Range, Sym, Value
from kernloop.sched.obj.model import Insn, Program

__all__ = ["Event", "Trace"]


@dataclass(slots=True)
class Event:
    """A call, a store into memory that others see, or an exit, as one way came to it.

    `kind` is the call's role (calls.ROLE) or its kernel's name, "store" or "exit". `args` of an insert are always task,
    DSQ, slice, vtime (None for FIFO) and flags; of a store: address and value; of an exit: the result. `joined`:
    several ways were joined before it, so what is known may not be of one and the same way.
    """

    kind: str
    name: str
    op: str
    entry: str
    site: int
    program: Program
    insn: Insn
    args: tuple[Value | None, ...]
    result: Value | None
    facts: dict[Sym, Range]
    prop: Prop
    path: Path | None
    frames: tuple[Frame, ...]
    joined: bool


@dataclass
class Trace:
    """All that one entry (an op, a callback) can do.

    `compared` are values that branches looked at, `loops` the sites of loops, `atomics` the places that atomic
    operations change, `sites` those come to of events and of what CO-RE patches. Not `apart`: ways were joined wherever
    they met, and not each one is real.
    """

    entry: str
    op: str
    events: list[Event] = field(default_factory=list)
    compared: set[Sym] = field(default_factory=set)
    loops: set[int] = field(default_factory=set)
    atomics: set[tuple[object, int]] = field(default_factory=set)
    sites: set[int] = field(default_factory=set)
    complete: bool = True
    apart: bool = True

    def of(self, *kinds: str) -> list[Event]:
        return [event for event in self.events if event.kind in kinds]
