# SPDX-License-Identifier: Apache-2.0
"""`kernloop bench report`."""

from __future__ import annotations

import os
import statistics
from pathlib import Path
from typing import Annotated, Any

import typer

from kernloop.bench.report import MB, MEASURES, USUAL, Rate, measure, percentile
from kernloop.cli.output import JsonFlag, err, escape, fail, out, print_json, progress
from kernloop.errors import HarnessError
from kernloop.host.about import about
from kernloop.host.figures import Figures

SCHEMA = "kernloop.bench-report/1"


def report(
    rounds: Annotated[int, typer.Option(min=1, help="How often each is measured; the median counts.")] = 3,
    megabytes: Annotated[int, typer.Option("--mb", min=1, help="Size of the consoles, in MB.")] = 200,
    only: Annotated[
        list[str] | None, typer.Option(help=f"Only this measure: {', '.join(MEASURES)}. May come again.")
    ] = None,
    logs: Annotated[Path | None, typer.Option(help="`crashes` on the logs of this folder, instead of our own.")] = None,
    live: Annotated[int, typer.Option(min=0, help="So many panics of VMs as well, seconds each.")] = 0,
    against: Annotated[
        str, typer.Option(metavar="syzkaller|DIR", help="Its parser too: fetched with Go, or a checkout of it.")
    ] = "",
    as_json: JsonFlag = False,
) -> None:
    """Crashes found in consoles: MB/s, and how soon.

    MB/s are of CPU time on one core. The text is made of consoles that kernels wrote in our own VMs.
    """
    before = about()
    names = only or [*USUAL, *(["live"] if live else [])]
    try:
        with progress() as say:
            found = measure(names, rounds, megabytes=megabytes, logs=logs, against=against, panics=live or 20, say=say)
    except HarnessError as error:
        raise fail(error, as_json=as_json, schema=SCHEMA) from None
    if as_json:
        host = {"host": before, "cores": os.cpu_count(), "load_after": round(os.getloadavg()[0], 2)}
        print_json({"schema": SCHEMA, "rounds": rounds, **host, "measures": _json(found)})
    else:
        _show(found, before)


def _json(found: dict[str, Rate]) -> dict[str, Any]:
    return {
        name: {
            "what": MEASURES[name].what,
            "least_mb_per_s": MEASURES[name].least,
            "most_seconds": MEASURES[name].most,
            "bytes": rate.size,
            "crashes": rate.found,
            "mb_per_s": _rounded(rate.per_second),
            "seconds": _spread(rate.figures.wall),
            "cpu_seconds": _spread(rate.figures.cpu),
            "syzkaller": _other(rate),
        }
        for name, rate in found.items()
    }


def _other(rate: Rate) -> dict[str, Any] | None:
    if rate.other.why or not rate.other.cpu:
        return {"why": rate.other.why} if rate.other.why else None
    return {
        "crashes": rate.other_found,
        "mb_per_s": _rounded(rate.other_per_second),
        "cpu_seconds": _spread(rate.other.cpu),
    }


def _spread(values: list[float]) -> dict[str, float] | None:
    if not values:
        return None
    return {
        "median": round(statistics.median(values), 4),
        "min": round(min(values), 4),
        "max": round(max(values), 4),
        "p99": round(percentile(values, 99), 4),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


def _show(found: dict[str, Rate], before: str) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("measure")
    for column in ("MB/s", "target", "CPU s", "MB", "crashes", "syzkaller MB/s", "crashes"):
        table.add_column(column, justify="right")
    table.add_column("what")
    for name, rate in found.items():
        if rate.size:
            goal, other = MEASURES[name], rate.other_per_second
            cells = [
                _number(rate.per_second),
                f"{goal.least:g}" if goal.least else "",
                f"{rate.figures.median_cpu:.3f}",
            ]
            cells += [f"{rate.size / MB:.1f}", str(rate.found), _number(other), str(rate.other_found) if other else ""]
            table.add_row(name, *cells, goal.what)
    out.print(table)
    for name, rate in found.items():
        if not rate.size:
            out.print(f"{name:8} {_times(rate.figures)}, target {MEASURES[name].most:g}: {MEASURES[name].what}")
    if why := next((rate.other.why for rate in found.values() if rate.other.why), ""):
        err.print(f"[yellow]syzkaller was not measured:[/] {escape(why)}")
    out.print(f"host     {escape(before)}, load after {os.getloadavg()[0]:.2f}")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _times(figures: Figures) -> str:
    if figures.cpu:
        return f"{figures.median_cpu:.3f} s of CPU, {figures.median:.3f} by the clock"
    return f"{figures.median:.3f} s p50, {percentile(figures.wall, 99):.3f} p99 of {len(figures.wall)}"
