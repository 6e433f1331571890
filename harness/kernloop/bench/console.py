# SPDX-License-Identifier: Apache-2.0
"""Consoles of any size for speed tests: what kernels wrote while all was well, with a crash every so often.

Both come from the recordings of tests/fixtures/console, and time goes on from line to line. Same seed, same bytes.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from kernloop.report.oops_table import may_hold_header
from kernloop.report.scan import scan
from kernloop.report.severity import Severity

__all__ = ["Recordings", "console", "recordings"]

_STAMP = re.compile(rb"^((?:<\d{1,3}>)?)\[ *\d+\.\d+\]")
# A log with fewer lines before its crash is a piece of one; longer lines are command lines.
_MIN_LINES, _MAX_LINE = 200, 400
# More lines than a report may be interrupted by (report/engine.py): what comes behind them is another.
_RUN = (80, 200)
_STEP_MICROSECONDS = (10, 4000)


@dataclass(frozen=True)
class Recordings:
    """`ordinary` are the lines of a log each, without their time stamps; `crashes` whole reports, one crash each."""

    ordinary: tuple[tuple[bytes, ...], ...]
    crashes: tuple[bytes, ...]


@cache
def recordings() -> Recordings:
    """Of all logs at hand: in a checkout the tests' own, else those that the wheel has."""
    here = Path(__file__).resolve()
    places = [here.parents[3] / "tests/fixtures/console", here.parents[1] / "data/consoles"]
    folder = next(place for place in places if place.exists())
    ordinary: list[tuple[bytes, ...]] = []
    crashes: list[bytes] = []
    for path in sorted(folder.glob("*.log")):
        log = path.read_bytes().replace(b"\r", b"")
        found = list(scan(log))
        crashes += [report for crash in found if _stands_alone(report := log[crash.start : crash.end])]
        quiet = tuple(_ordinary(log[: found[0].start] if found else log))
        if len(quiet) >= _MIN_LINES:
            ordinary.append(quiet)
    return Recordings(tuple(ordinary), tuple(crashes))


def console(size: int, *, every: int | None = 1_000_000, seed: int = 1) -> Iterator[tuple[bytes, bool]]:
    """Pieces of a console of about `size` bytes, and whether each is a crash; `every` so many bytes there is one."""
    draw = random.Random(seed)
    known = recordings()
    now = written = 0
    due = every
    while written < size:
        lines = draw.choice(known.ordinary)
        count = draw.randrange(*_RUN)
        start = draw.randrange(max(1, len(lines) - count))
        text = bytearray()
        steps = draw.choices(range(*_STEP_MICROSECONDS), k=count)
        for line, step in zip(lines[start : start + count], steps, strict=False):
            now += step
            text += b"[%5d.%06d]%b\n" % (now // 1_000_000, now % 1_000_000, line)
        written += len(text)
        yield bytes(text), False
        if due is not None and every is not None and written >= due:
            report = _from_now(draw.choice(known.crashes), now)
            written += len(report)
            due = written + every
            yield report, True


# Lines that printk wrote and that hold no word of a report, without their stamps.
def _ordinary(log: bytes) -> Iterator[bytes]:
    for line in log.split(b"\n"):
        stamp = _STAMP.match(line)
        if stamp and len(line) <= _MAX_LINE and not may_hold_header(line.decode(errors="replace")):
            yield line[stamp.end() :]


# One sound report, the same without the log around it, and that ends: the next could be part of one that does not.
def _stands_alone(report: bytes) -> bool:
    found = list(scan(report))
    sound = len(found) == 1 and not found[0].corrupted and report.endswith(b"\n")
    return sound and (found[0].severity in (Severity.PANIC, Severity.EJECTED) or b"---[ end " in report)


def _from_now(report: bytes, now: int) -> bytes:
    stamp = b"[%5d.%06d]" % (now // 1_000_000, now % 1_000_000)
    return b"".join(_STAMP.sub(rb"\1" + stamp, line) for line in report.splitlines(keepends=True))
