# SPDX-License-Identifier: Apache-2.0
"""A console that still grows: each report as soon as it is complete, once more when a panic makes it fatal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from .crash import Crash
from .scan import ConsoleScanner

__all__ = ["follow"]

# A report after which nothing is printed is complete: the longest pause within one is that between two lines.
_QUIET = 0.5
_POLL = 0.05
_PIECE = 1 << 20


def follow(path: Path, over: Callable[[], bool], seconds: float) -> Iterator[Crash]:
    """The crashes of a growing file, until `over()` (asked before the last look) or for so many seconds."""
    scanner = ConsoleScanner()
    told: dict[int, tuple[str, bool]] = {}

    def new(crashes: list[Crash] | tuple[Crash, ...]) -> Iterator[Crash]:
        for crash in crashes:
            if told.get(crash.start) != (said := (crash.title, crash.panicked)):
                told[crash.start] = said
                yield crash

    deadline = time.monotonic() + seconds
    last = time.monotonic()
    with path.open("rb") as file:
        while True:
            ends = over() or time.monotonic() >= deadline
            while piece := file.read(_PIECE):
                yield from new(scanner.feed(piece))
                last = time.monotonic()
            if ends:
                break
            if time.monotonic() - last >= _QUIET:
                yield from new(scanner.so_far())
            time.sleep(_POLL)  # a regular file tells nobody that it grew
    yield from new(scanner.finish())
