# SPDX-License-Identifier: Apache-2.0
"""The way back through a verifier log: along the path that failed, from a register to what gave it its value.

kernel/bpf/verifier.c explores depth first: a branch not taken is kept, and taken up as `from 3 to 5: R0=...` where 3 is
the jump. What stands between the jump and that line belongs to other paths.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from .verifier_log import Insn, Source, insn_of, source_of, state_of, states

__all__ = ["Step", "Trace", "follow", "last_insn", "path_back", "source_before"]

_FROM = re.compile(r"from (\d+) to \d+")
_WRITE = re.compile(r"\([0-9a-f]{2}\) [rw](?P<dst>\d+) (?P<how>\S*=) (?P<src>.*)")
_COPY = re.compile(r"(?:\(s\d+\))?[rw](\d+)$|addr_space_cast\(r(\d+),")
_FILL = re.compile(r"\*\([us]\d+ \*\)\(r10 ([-+]\d+)\)$")
_SPILL = re.compile(r"\([0-9a-f]{2}\) \*\(u\d+ \*\)\(r10 ([-+]\d+)\) = (?:r(\d+)|.*)")
_CALL = re.compile(r"\([0-9a-f]{2}\) call (?P<name>[^#\s]+)")


@dataclass(frozen=True)
class Step:
    """An instruction on the path; `at` is its line in the log."""

    at: int
    insn: Insn


@dataclass(frozen=True)
class Trace:
    """`value` is what the verifier knew of the register, `origin` what made it, `added` the last `+= rN` on its way.

    A call makes R0 (`returned`) and takes R1 to R5 away.
    """

    register: str
    value: str = ""
    origin: Step | None = None
    added: Step | None = None
    returned: bool = False

    @property
    def call(self) -> str:
        """The function that made the value or took it away, '' where it was none."""
        match = _CALL.match(self.origin.insn.text) if self.origin else None
        return match["name"] if match and match["name"] != "pc" and not match["name"].startswith("pc+") else ""


def path_back(lines: tuple[str, ...], end: int) -> Iterator[tuple[int, str]]:
    """The lines before `end` that the failing path wrote, last first."""
    jump: int | None = None
    pops = 0
    for at in range(end - 1, -1, -1):
        line = lines[at]
        if line.startswith("from ") and (match := _FROM.match(line)):
            if jump is None:
                yield at, line
                # A call or a return that the path itself took stands right before.
                before = last_insn(lines, at)
                jump, pops = (None if before and before.insn.number == int(match[1]) else int(match[1])), 0
            elif int(match[1]) == jump:
                pops += 1
            continue
        if jump is None:
            yield at, line
        elif line.startswith(f"{jump}: ") and insn_of(line):
            if pops:
                pops -= 1
            else:
                jump = None
                # Its state is that of the branch taken first.
                yield at, line.split(";", 1)[0].rstrip()


def last_insn(lines: tuple[str, ...], end: int) -> Step | None:
    """The instruction before `end`."""
    for at in range(end - 1, -1, -1):
        if insn := insn_of(lines[at]):
            return Step(at, insn)
    return None


def source_before(lines: tuple[str, ...], at: int) -> Source | None:
    """The source line that holds at line `at` of the log."""
    for n in range(min(at, len(lines) - 1), -1, -1):
        if lines[n].startswith("; "):
            return source_of(lines[n])
    return None


def follow(lines: tuple[str, ...], end: int, register: str) -> Trace:
    """What is known of `register` before line `end`, and what made its value: through copies, spills and calls."""
    target, frame, current = register, None, None
    value, added, passed = "", None, False
    for at, line in path_back(lines, end):
        insn = insn_of(line)
        state = insn.state if insn else state_of(line)
        if state:
            current, known = states(state)
            frame = current if frame is None else frame
            if not value and current == frame:
                value = next((text for name, text in known if name == register), "")
        elif line.startswith("to caller at") and target == "R0" and current == frame:
            frame = (current or 0) + 1
        elif line.startswith("callee:") and frame and current == frame and target in _ARGUMENTS:
            frame, passed = frame - 1, True
        if insn is None or (current is not None and frame is not None and current != frame):
            continue
        if passed:
            # The call that passed the value on.
            passed = False
            continue
        step = Step(at, insn)
        then = _made_by(insn.text, target)
        if then is None:
            continue
        if then == "+":
            added = added or step
        elif then:
            target = then
        else:
            return Trace(register, value, step, added, returned=target == "R0")
    return Trace(register, value, None, added)


_ARGUMENTS = ("R1", "R2", "R3", "R4", "R5")


# None: this instruction leaves `target` alone. '': it made it. '+': it changed it. Else: where it took it from.
def _made_by(text: str, target: str) -> str | None:
    if write := _WRITE.match(text):
        if f"R{write['dst']}" != target:
            return None
        if write["how"] != "=":
            return "+"
        if copy := _COPY.match(write["src"]):
            return f"R{copy[1] or copy[2]}"
        if fill := _FILL.match(write["src"]):
            return f"fp{fill[1]}"
        return ""
    if spill := _SPILL.match(text):
        return (f"R{spill[2]}" if spill[2] else "") if f"fp{spill[1]}" == target else None
    if _CALL.match(text) and (target == "R0" or target in _ARGUMENTS):
        return ""
    return None
