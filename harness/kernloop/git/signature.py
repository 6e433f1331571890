# SPDX-License-Identifier: Apache-2.0
"""Which failure a bisect is after, and whether a run showed it.

| what became of the run | any failure counts | with a signature |
|---|---|---|
| the symptom was seen | - | bad |
| exit 0, no crash | good | good |
| exit 0, another crash beside it (the kernel lives) | bad | good: the command came to its end |
| exit 1 to 124, signal; panic, oops, hang, boot-hang | bad | skip: another failure came first |
| exit 125 (the command's own word), 126, 127 (it could not be run) | skip | skip |
| the commit does not build, the kernel cannot be talked to | skip | skip |
| infra, lost, inconclusive: kernloop or the machine failed | skip | skip |

With --host the exit code means what it means to `git bisect run`: there 126 and 127 are failures like others.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from kernloop.errors import UsageError
from kernloop.git.vote import Shot, Sign
from kernloop.report.engine import Crash, parse_console
from kernloop.report.frames import base_name
from kernloop.report.oops_table import ROWS
from kernloop.verdict import Verdict

__all__ = ["Seen", "Signature", "fingerprint"]

_FINGERPRINT = re.compile(r"(?P<kind>[a-z0-9-]+)@[\w.$-]+")
# The failures of a guest that a verdict names.
_WORDS = (Verdict.PANIC, Verdict.OOPS, Verdict.BOOT_HANG, Verdict.HANG, Verdict.COMMAND_FAILED)
_OURS = (Verdict.UNKNOWN, Verdict.LOST, Verdict.INCONCLUSIVE, Verdict.INFRA)


@dataclass(frozen=True)
class Seen:
    """A run that is over. `status` is the command's exit code, `texts` the files in which the symptom may be seen."""

    verdict: Verdict
    summary: str
    status: int | None
    texts: tuple[Path, ...] = ()
    evidence: str = ""
    kernel: str = ""
    host: bool = False


def fingerprint(crash: Crash) -> str:
    """What stays the same of a crash from build to build: its kind and the guilty function, as in `null-deref@foo`."""
    return f"{crash.kind}@{base_name(crash.function) if crash.function else '-'}"


@dataclass(frozen=True)
class Signature:
    """The failure that counts: `verdict:WORD`, a fingerprint, or a regular expression; any with the text None.

    Raises UsageError for a text that is none of these.
    """

    text: str | None = None
    _pattern: re.Pattern[str] | None = field(init=False, default=None, compare=False)

    def __post_init__(self) -> None:
        if self.text is None:
            return
        if self.text.startswith("verdict:"):
            if self.text.removeprefix("verdict:") not in _WORDS:
                raise UsageError(
                    f"{self.text!r} is nothing that a commit can be blamed for",
                    hint="one of: " + ", ".join(f"verdict:{word}" for word in _WORDS),
                )
        elif not self._is_fingerprint:
            try:
                object.__setattr__(self, "_pattern", re.compile(self.text))
            except re.error as error:
                raise UsageError(
                    f"--signature {self.text!r} is no regular expression: {error}",
                    hint="a regular expression, a fingerprint KIND@FUNCTION, or verdict:panic",
                ) from None

    def judge(self, seen: Seen) -> Shot:
        """Whether the run showed the symptom, by the table above."""

        def shot(sign: Sign, why: str = seen.summary, *, fault: bool = False) -> Shot:
            return Shot(sign, why, seen.evidence, fault, seen.kernel)

        if seen.verdict in _OURS:
            return shot(Sign.UNJUDGED, fault=True)
        if seen.verdict is Verdict.REJECTED or (seen.verdict is Verdict.COMMAND_FAILED and seen.status == 125):
            return shot(Sign.UNTESTABLE)
        if seen.verdict is Verdict.COMMAND_FAILED and seen.status in (126, 127) and not seen.host:
            return shot(Sign.UNTESTABLE)
        if self.text is None:
            return shot(Sign.CLEAN if seen.verdict is Verdict.PASS else Sign.SHOWN)
        symptom = self._symptom(seen)
        if symptom is not None:
            return shot(Sign.SHOWN, symptom)
        if seen.verdict is Verdict.PASS or (seen.verdict is Verdict.OOPS and seen.status == 0):
            return shot(Sign.CLEAN)
        return shot(Sign.UNJUDGED, f"another failure: {seen.summary}")

    @property
    def _is_fingerprint(self) -> bool:
        found = _FINGERPRINT.fullmatch(self.text or "")
        return found is not None and found["kind"] in {row.kind for row in ROWS}

    def _symptom(self, seen: Seen) -> str | None:
        assert self.text is not None
        if self.text.startswith("verdict:"):
            return seen.summary if seen.verdict == self.text.removeprefix("verdict:") else None
        for path in seen.texts:
            lines = _lines(path)
            if self._pattern is None:
                crashes = (crash for crash in parse_console(lines) if fingerprint(crash) == self.text)
                found = next((crash.title for crash in crashes), None)
            else:
                found = self._first(lines)
            if found is not None:
                return found
        return None

    # A crash has a title that is nowhere on the console: that of the kernel community.
    def _first(self, lines: list[str]) -> str | None:
        assert self._pattern is not None
        candidates: Iterable[str] = (*lines, *(crash.title for crash in parse_console(lines)))
        return next((line.strip() for line in candidates if self._pattern.search(line)), None)


def _lines(path: Path) -> list[str]:
    return path.read_bytes().decode(errors="replace").split("\n") if path.exists() else []
