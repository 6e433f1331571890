# SPDX-License-Identifier: Apache-2.0
"""What a verify's workers lived through, from `events.jsonl`, as plots of rectangles for its page.

They are SVG that the template writes itself: bars and strips need no library, of which the light ones draw neither well
and the others take a second to import or a script to show.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

__all__ = ["Cell", "Drawn", "Plot", "drawn", "pulses"]

# Of a plot: its size, and the room for words left of and below it.
WIDTH, HEIGHT, LEFT, BELOW = 330, 96, 46, 16
_STRIP, _MOST_CPUS = 12, 16
_EEVDF = "EEVDF"
_SEEN = 5  # per cent: a strip with less is empty
_FROM, _TO = 1, 26  # buckets of waits: the first is "none"
_NAMED = {1: "1 us", 11: "1 ms", 21: "1 s"}


@dataclass(frozen=True)
class Pulse:
    """guest/pulse.c: `waits` in powers of two from 1 us on, `busy` per cent of each slot by CPU, `workers` as nice
    value, CPU time and longest wait in ms. `scheduler` is "" for EEVDF."""

    tests: tuple[str, ...]
    scheduler: str
    seconds: float
    waits: tuple[int, ...]
    slot_ms: int
    busy: tuple[tuple[int, ...], ...]
    workers: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class Cell:
    """A rectangle; `kind` is its class, `shade` how full of colour it is, `words` what a pointer over it is told."""

    x: float
    y: float
    width: float
    height: float
    kind: str = "plain"
    shade: float = 1.0
    words: str = ""


@dataclass(frozen=True)
class Plot:
    """`labels` are texts with their place and where of them that is: start, middle or end."""

    title: str
    height: int
    cells: tuple[Cell, ...]
    labels: tuple[tuple[float, float, str, str], ...]
    legend: str = ""
    width: int = WIDTH


@dataclass(frozen=True)
class Drawn:
    """The plots of tests that ran at once."""

    tests: str
    seconds: float
    plots: tuple[Plot, ...]


def pulses(events: Path) -> list[Pulse]:
    """What `events.jsonl` has of them; a line that is cut off, or of another make, is left out."""
    try:
        lines = events.read_bytes().splitlines()
    except OSError:
        return []
    return [found for line in lines if b'"pulse"' in line and (found := _pulse(line)) is not None]


def drawn(found: Sequence[Pulse]) -> list[Drawn]:
    """Plots for each turn of the scheduler, with EEVDF's in the same tests beside where there was one."""
    eevdf = {pulse.tests: pulse for pulse in found if not pulse.scheduler}
    rows = []
    for pulse in found:
        if not pulse.scheduler:
            continue
        own = eevdf.get(pulse.tests)
        plots = [_delays(pulse, own), _progress(pulse), _cpus(pulse)]
        if kept := tuple(plot for plot in plots if plot is not None):
            rows.append(Drawn(", ".join(pulse.tests), pulse.seconds, kept))
    return rows


def _pulse(line: bytes) -> Pulse | None:
    try:
        event = json.loads(line)
        if event["event"] != "pulse":
            return None
        return Pulse(
            tuple(map(str, event["tests"])),
            str(event["scheduler"]),
            float(event["seconds"]),
            tuple(_counts(event["waits"])),
            max(int(event["slot_ms"]), 1),
            tuple(tuple(_counts(row)) for row in event["busy"]),
            tuple((int(nice), int(cpu), int(worst)) for nice, cpu, worst in event["workers"]),
        )
    except (ValueError, TypeError, KeyError):
        return None


def _counts(values: Any) -> Iterator[int]:
    return (max(int(value), 0) for value in values)


# How long the tasks waited, each time that they did.
def _delays(pulse: Pulse, eevdf: Pulse | None) -> Plot | None:
    own, other = (_shares(one.waits) if one else {} for one in (pulse, eevdf))
    if not own and not other:
        return None
    most = max([*own.values(), *other.values()])
    step = (WIDTH - LEFT) / (_TO - _FROM)
    cells = []
    for values, kind, who, begin, part in (
        (other, "other", _EEVDF, 0.0, 0.5),
        (own, "plain", pulse.scheduler, 0.5 if other else 0.0, 0.5 if other else 1.0),
    ):
        for bucket, share in values.items():
            height = max(HEIGHT * share / most, 1)
            words = f"{who}: {_span(bucket)}: {100 * share:.1f} % of the waits"
            x = LEFT + (bucket - _FROM + begin) * step
            cells.append(Cell(x, HEIGHT - height, part * step - 0.5, height, kind, 1.0, words))
    labels = [(LEFT + (at - _FROM) * step, HEIGHT + 12.0, text, "start") for at, text in _NAMED.items()]
    labels.append((LEFT - 4, 9.0, f"{100 * most:.0f} %", "end"))
    legend = f"{pulse.scheduler}, and {_EEVDF} in grey" if other else pulse.scheduler
    return Plot("waits for a CPU, by length", HEIGHT + BELOW, tuple(cells), tuple(labels), legend)


def _shares(waits: Sequence[int]) -> dict[int, float]:
    seen = {at: count for at, count in enumerate(waits[:_TO]) if at >= _FROM and count}
    whole = sum(seen.values())
    return {at: count / whole for at, count in seen.items()}


def _span(bucket: int) -> str:
    return f"{_length(2 ** (bucket - 1))} to {_length(2**bucket)}"


def _length(us: int) -> str:
    return f"{us / 1e6:.3g} s" if us >= 10**6 else f"{us / 1e3:.3g} ms" if us >= 1000 else f"{us} us"


# A bar for each worker: the CPU time that it got.
def _progress(pulse: Pulse) -> Plot | None:
    if len(pulse.workers) < 2 or not any(cpu for _, cpu, _ in pulse.workers):
        return None
    most = max(cpu for _, cpu, _ in pulse.workers)
    step = (WIDTH - LEFT) / len(pulse.workers)
    cells = []
    for at, (nice, cpu, worst) in enumerate(pulse.workers):
        height = max(HEIGHT * cpu / most, 1)
        kind = "plain" if nice == 0 else "behind" if nice > 0 else "ahead"
        words = f"task {at + 1}, nice {nice}: {cpu} ms of CPU time, longest wait {worst} ms"
        gap = 1 if step > 4 else 0
        cells.append(Cell(LEFT + at * step, HEIGHT - height, step - gap, height, kind, 1.0, words))
    labels = [(LEFT - 4, 9.0, f"{most} ms", "end"), (LEFT, HEIGHT + 12.0, f"{len(pulse.workers)} tasks", "start")]
    marked = any(nice for nice, _, _ in pulse.workers)
    return Plot(
        "CPU time by task",
        HEIGHT + BELOW,
        tuple(cells),
        tuple(labels),
        "nice above 0 lighter, below 0 darker" if marked else "",
    )


# A strip for each CPU: when the tasks kept it busy.
def _cpus(pulse: Pulse) -> Plot | None:
    rows = [[min(percent, 100) for percent in row] for row in pulse.busy[:_MOST_CPUS]]
    # The last slot has hardly begun.
    slots = max(map(len, rows), default=0) - (1 if pulse.seconds * 1000 % pulse.slot_ms < pulse.slot_ms / 2 else 0)
    if slots < 2 or max(max(row, default=0) for row in rows) < _SEEN:
        return None
    step = (WIDTH - LEFT) / slots
    cells, labels = [], []
    for cpu, row in enumerate(rows):
        y = cpu * (_STRIP + 3.0)
        at = 0
        # Neighbours that look alike are one.
        for tenth, alike in groupby(round(percent / 10) for percent in row[:slots]):
            count = len(list(alike))
            cells.append(Cell(LEFT + at * step, y, count * step, _STRIP, "plain", 0.08 + 0.92 * tenth / 10))
            at += count
        labels.append((LEFT - 4, y + 10, f"CPU {cpu}", "end"))
    height = len(rows) * (_STRIP + 3)
    length = slots * pulse.slot_ms / 1000
    labels += [(LEFT, height + 12.0, "0 s", "start"), (WIDTH, height + 12.0, f"{length:.1f} s", "end")]
    more = f", {len(pulse.busy) - len(rows)} more CPUs" if len(pulse.busy) > len(rows) else ""
    return Plot(
        "CPUs kept busy by the tasks", height + BELOW, tuple(cells), tuple(labels), f"full colour: all the time{more}"
    )
