# SPDX-License-Identifier: Apache-2.0
"""What the engine makes of a report: one crash, and which of several is the worst."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .frames import Frame
from .severity import Severity

__all__ = ["Crash", "most_severe"]

_RANK = {severity: rank for rank, severity in enumerate(Severity)}


@dataclass(frozen=True)
class Crash:
    """One thing that the kernel reported; lines count from 1, inclusive; `message` is the kernel's own sentence."""

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


def most_severe(crashes: Iterable[Crash]) -> Crash | None:
    """The worst of them, the first among equals: it is nearest to the cause."""
    return min(crashes, key=lambda crash: _RANK[crash.severity], default=None)
