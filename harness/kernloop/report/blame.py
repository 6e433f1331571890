# SPDX-License-Identifier: Apache-2.0
"""Which function a report is about: recipes that walk its lines, since each family keeps the culprit elsewhere.

A recipe is a row of steps. A finder goes forward to the line that it wants, and takes the function that this names;
TRACE takes the functions of the frames that follow. From what was taken, all but machinery, a choice is made: the first
as a rule; for a stall what the kernel's core called, because the CPU may have been anywhere below it; for a hung task
the lock or grace period that everybody else waits for as well, or who called the wait.

>>> suspects(["RIP: 0010:memcpy+0x1/0x9", "Call Trace:", " foo_copy+0x3/0x9"], FAULT)
(['foo_copy'], True)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from .frames import base_name
from .layers import is_attribute, is_boundary, is_waiting, shared_by_all
from .machinery import is_machinery
from .sentences import sentence
from .stackline import frame_names, heading, is_injected, program_counter

__all__ = [
    "FAULT",
    "STACK",
    "TRACE",
    "Blame",
    "calls",
    "hung",
    "overflown",
    "program_counter",
    "says",
    "stalled",
    "suspects",
]

# What a line says about the culprit: a name, "" where it is the line but names nobody, None where it is another.
Finder = Callable[[str], str | None]
Pick = Callable[[list[str]], str | None]


def TRACE(line: str) -> str | None:
    """All frames up to the next heading, or to the line that the next step wants."""
    return next(iter(frame_names(line)), None)


def calls(line: str) -> str | None:
    """The heading of a task's or CPU's own trace."""
    return "" if heading(line) == "calls" else None


def says(text: str) -> Finder:
    """Finds a sentence, and takes its `{func}`."""
    pattern = sentence(text)

    def find(line: str) -> str | None:
        match = pattern.search(line)
        return None if match is None else base_name(match.groupdict().get("func") or "")

    return find


def first(names: list[str]) -> str | None:
    return names[0] if names else None


# So few functions of a handler are one driver's own, and the CPU is in the one that does not end.
_ONE_DRIVER = 3


def stalled(names: list[str]) -> str | None:
    """The last below a boundary; None where no boundary ends the trace, since then it is cut."""
    below: str | None = None
    for depth, name in enumerate(names):
        if is_attribute(name):
            return names[0] if depth <= _ONE_DRIVER else below
        if is_boundary(name):
            # Who waits for the other CPUs stands for all the ways in which one of them does not answer.
            return "smp_call_function" if "smp_call_function" in name else below or name
        below = name
    return None


def overflown(names: list[str]) -> str | None:
    """A function that calls itself; else as for a stall, for the stack may end anywhere below."""
    itself = (one for one, two, three in zip(names, names[1:], names[2:], strict=False) if one == two == three)
    return next(itself, None) or stalled(names)


def hung(names: list[str]) -> str | None:
    shared = next((found for name in names if (found := shared_by_all(name))), None)
    return shared or next((name for name in names if not is_waiting(name)), None)


@dataclass(frozen=True)
class Blame:
    """`instead` is walked when the steps lead nowhere, `direct` when the report then begins with registers.

    `extra` lists machinery of this family only."""

    steps: tuple[Finder, ...]
    extra: str = ""
    pick: Pick = field(default=first)
    instead: tuple[Finder, ...] = ()
    direct: tuple[Finder, ...] = ()


FAULT = Blame((program_counter, calls, TRACE))
STACK = Blame((calls, TRACE))


def suspects(lines: Sequence[str], blame: Blame) -> tuple[list[str], bool]:
    """The culprits, one for each TRACE of the recipe; false where one cannot be told or another trace is in between."""
    found = _walk(lines, blame.steps, blame)
    if blame.instead and not found[1]:
        found = _walk(lines, blame.instead, blame)
    if blame.direct and not found[1] and _registers_first(lines):
        found = _walk(lines, blame.direct, blame)
    return found


# A CPU that shows itself: its registers are there before any trace, which might be another task's.
def _registers_first(lines: Sequence[str]) -> bool:
    for line in lines:
        if heading(line):
            return False
        if program_counter(line):
            return True
    return False


def _walk(lines: Sequence[str], steps: tuple[Finder, ...], blame: Blame) -> tuple[list[str], bool]:
    walker = _Walker(lines, blame.extra)
    for step, following in zip(steps, (*steps[1:], None), strict=True):
        if step is TRACE:
            walker.trace(None if following is TRACE else following)
        else:
            walker.seek(step)
    chosen: list[str] = []
    for names in walker.taken:
        if (name := blame.pick(names)) is None:
            return chosen, False
        chosen.append(name)
    return chosen, walker.clean


class _Walker:
    """Goes over the lines of a report; what stands before the first trace counts as part of it."""

    def __init__(self, lines: Sequence[str], extra: str) -> None:
        self.taken: list[list[str]] = [[]]
        self.clean = True
        self._lines = lines
        self._extra = extra
        self._at = 0
        self._traces = 0

    def seek(self, finder: Finder) -> None:
        while (line := self._next()) is not None:
            if (name := finder(line)) is not None:
                self._take(name)
                return

    def trace(self, following: Finder | None) -> None:
        if self._traces:
            self.taken.append([])
        self._traces += 1
        while (line := self._next()) is not None:
            if following and following(line) is not None:
                self._at -= 1
                return
            if heading(line):
                return
            for name in frame_names(line):
                self._take(name)

    # The next line; none at the end, and where fault injection's trace begins.
    def _next(self) -> str | None:
        if self._at >= len(self._lines):
            return None
        line = self._lines[self._at]
        self._at += 1
        if is_injected(line):
            self.clean = False
            return None
        return line

    def _take(self, name: str) -> None:
        if name and not is_machinery(name, self._extra):
            self.taken[-1].append(name)
