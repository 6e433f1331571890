# SPDX-License-Identifier: Apache-2.0
"""What the engine makes of a report: one crash, and which of several is the worst."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .frames import Frame
from .severity import Severity

if TYPE_CHECKING:
    from .details import Details

__all__ = ["Crash", "most_severe"]

_RANK = {severity: rank for rank, severity in enumerate(Severity)}


@dataclass(frozen=True)
class Crash:
    """One thing that the kernel reported; `message` is the kernel's own sentence.

    Lines count from 1, inclusive; `start` and `end` are byte offsets, `end` behind the last line. `corrupted` says what
    is wrong with the report (cut off, interleaved, without its body), and is empty where nothing is. `fingerprint` is
    the same for the same bug in another build. `panicked`: this report ended in a panic.
    """

    kind: str
    severity: Severity
    title: str
    function: str | None
    message: str
    cpu: int | None
    comm: str | None
    pid: int | None
    start_line: int
    end_line: int
    frames: tuple[Frame, ...]
    excerpt: tuple[str, ...]
    panicked: bool
    family: str = ""
    alt_titles: tuple[str, ...] = ()
    corrupted: str = ""
    fingerprint: str = ""
    modules: tuple[str, ...] = ()
    tainted: str = ""
    start: int = 0
    end: int = 0
    details: Details | None = None


def most_severe(crashes: Iterable[Crash]) -> Crash | None:
    """The worst of them, the first among equals: it is nearest to the cause."""
    return min(crashes, key=lambda crash: _RANK[crash.severity], default=None)
