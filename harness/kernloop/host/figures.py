# SPDX-License-Identifier: Apache-2.0
"""How long something took, by the clock and in CPU time: what the benches have in common.

CPU time is user and system time of everything that a measure starts: on a busy machine it says more than the wall.
"""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from kernloop.errors import UsageError

__all__ = ["Figures", "Measure", "children", "chosen", "timed"]


@dataclass(frozen=True)
class Measure:
    """`what` is measured, and the seconds that it should take on two idle cores without KVM."""

    what: str
    target: float | None = None


@dataclass
class Figures:
    """What was measured: seconds of each round; `why` says why there are none."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    why: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.wall)

    @property
    def median_cpu(self) -> float:
        return statistics.median(self.cpu)

    def add(self, taken: tuple[float, float]) -> None:
        self.wall.append(taken[0])
        self.cpu.append(taken[1])


def chosen(names: Sequence[str], measures: Mapping[str, object]) -> list[str]:
    """`names`, each of them one of `measures`. Raises UsageError."""
    for name in names:
        if name not in measures:
            raise UsageError(f"there is no measure {name!r}", hint=f"there are: {' '.join(measures)}")
    return list(names)


def timed(call: Callable[[], object]) -> tuple[float, float]:
    """Seconds of `call`, and CPU seconds of this process and of the children that ended meanwhile."""
    before, began = children() + time.process_time(), time.monotonic()
    call()
    return time.monotonic() - began, children() + time.process_time() - before


def children() -> float:
    """CPU seconds of children that have ended, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
