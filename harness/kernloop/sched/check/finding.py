# SPDX-License-Identifier: Apache-2.0
"""What a static check has to say of a scheduler."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Finding", "Level", "Place"]

Level = Literal["must", "may", "unknown"]


@dataclass(frozen=True)
class Place:
    """Another line that belongs to a finding, and what it has to do with it."""

    file: str
    line: int
    source: str
    note: str


@dataclass(frozen=True)
class Finding:
    """`rule` is an id of data/sched_rules.toml; `source` is the text of the line.

    "must": every execution that reaches it is wrong, or it cannot load. "may": a heuristic says so. "unknown": it could
    not be decided, which is never a pass. `related` are other lines that belong to it.
    """

    rule: str
    level: Level
    program: str
    file: str
    line: int
    source: str
    why: str
    cure: str
    related: tuple[Place, ...] = ()
