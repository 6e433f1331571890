# SPDX-License-Identifier: Apache-2.0
"""How rules say what they found: one finding a place, with the text of the table."""

from __future__ import annotations

from dataclasses import dataclass

from kernloop.sched.check.finding import Finding, Level, Place
from kernloop.sched.check.scene import Scene
from kernloop.sched.check.table import rules
from kernloop.sched.check.trace import Event
from kernloop.sched.obj.model import Line, Program

__all__ = ["Report"]

_WEIGHT = {"must": 0, "may": 1, "unknown": 2}


@dataclass
class Report:
    """Collects findings; of two for one rule and line the weightier one stays."""

    scene: Scene

    def __post_init__(self) -> None:
        self._found: dict[tuple[str, str, int], Finding] = {}

    @property
    def findings(self) -> list[Finding]:
        """The weightiest first, then by line."""
        return sorted(self._found.values(), key=lambda one: (_WEIGHT[one.level], one.file, one.line, one.rule))

    def at(
        self,
        rule: str,
        level: Level,
        event: Event,
        why: str = "",
        related: tuple[tuple[Event | Line | None, str], ...] = (),
    ) -> None:
        """A finding at the call that `event` is."""
        if level != "unknown" and self.scene.tuned(event):
            level, why = "unknown", "only a setting of its loader leads here"
        self.on(
            rule,
            level,
            event.entry,
            self.scene.places.of(event),
            why,
            tuple((self.scene.places.of(one) if isinstance(one, Event) else one, note) for one, note in related),
        )

    def of(self, rule: str, level: Level, program: Program | None, why: str = "") -> None:
        """A finding about a whole program."""
        line = self.scene.places.first(program) if program is not None else None
        self.on(rule, level, program.name if program is not None else "", line, why)

    def on(
        self,
        rule: str,
        level: Level,
        program: str,
        line: Line | None,
        why: str = "",
        related: tuple[tuple[Line | None, str], ...] = (),
        cure: str = "",
    ) -> None:
        """A finding at `line`."""
        known = rules()[rule]
        text = self.scene.places.text(line.file, line.line) if line is not None else ""
        finding = Finding(
            rule,
            level,
            program,
            line.file.removeprefix("./") if line is not None else "",
            line.line if line is not None else 0,
            text.strip() or (line.source.strip() if line is not None else ""),
            why or known.why,
            cure or known.cure,
            tuple(
                Place(one.file.removeprefix("./"), one.line, self.scene.places.text(one.file, one.line).strip(), note)
                for one, note in related
                if one is not None
            ),
        )
        # What is about no line is told apart by its words.
        key = (rule, finding.file, finding.line) if finding.line else (rule, finding.why, 0)
        old = self._found.get(key)
        if old is None or _WEIGHT[level] < _WEIGHT[old.level]:
            self._found[key] = finding
