# SPDX-License-Identifier: Apache-2.0
"""`kernloop bench`."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from kernloop.bench import debug as debuggers
from kernloop.bench import verify as verdicts
from kernloop.cli.bench_report import report
from kernloop.cli.output import JsonFlag, err, escape, fail, out, print_json, progress
from kernloop.errors import HarnessError
from kernloop.host.about import about
from kernloop.host.figures import Figures, Measure
from kernloop.kernel import bench as builds
from kernloop.kernel.refs import DEFAULT
from kernloop.vm import bench as vms
from kernloop.vm.bench import MEASURES, Machine

SCHEMA = "kernloop.bench-vm/1"
_BUILD = "kernloop.bench-build/1"
_VERIFY = "kernloop.bench-verify/1"
_DEBUG = "kernloop.bench-debug/1"

app = typer.Typer(help="How long things take here.", no_args_is_help=True)
app.command()(report)


@app.command()
def vm(
    rounds: Annotated[int, typer.Option(min=1, help="How often each is measured; the median counts.")] = 5,
    only: Annotated[
        list[str] | None, typer.Option(help=f"Only this measure: {', '.join(MEASURES)}. May come again.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Boots, restored guests, commands, run and verify; virtme-ng."""
    before = about()
    try:
        with progress() as say:
            found = vms.measure(only or list(MEASURES), rounds, say=say)
            seen = vms.machine()
    except HarnessError as error:
        raise fail(error, as_json=as_json, schema=SCHEMA) from None
    if as_json:
        print_json(_json(found, seen, rounds, before))
    else:
        _show(found, seen, before)


@app.command()
def build(
    tree: Annotated[Path, typer.Argument(metavar="DIR", help="The kernel source tree.")],
    profile: Annotated[str, typer.Option(help="tiny, test or debug, as of kernel build.")] = "tiny",
    rounds: Annotated[int, typer.Option(min=1, help="How often each is measured; the median counts.")] = 3,
    full: Annotated[bool, typer.Option("--full", help="A build from nothing as well, once: minutes.")] = False,
    only: Annotated[
        list[str] | None, typer.Option(help=f"Only this measure: {', '.join(builds.MEASURES)}. May come again.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Builds of a kernel tree, from nothing and after an edit.

    sched_ext's ext.c is edited, and put back. `module` edits a copy of an example driver.
    """
    before = about()
    names = [*(["full"] if full and not only else []), *(only or builds.USUAL)]
    try:
        with progress() as say:
            found = builds.measure(tree, profile, names, rounds, say=say)
    except HarnessError as error:
        raise fail(error, as_json=as_json, schema=_BUILD) from None
    if as_json:
        facts = {"tree": str(tree.expanduser().resolve()), "profile": profile}
        print_json(
            {"schema": _BUILD, "rounds": rounds, **_machine(before), **facts, **_measures(found, builds.MEASURES)}
        )
        return
    _table(found, builds.MEASURES)
    _load(before)


@app.command()
def verify(
    rounds: Annotated[int, typer.Option(min=1, help="How often each is measured; the median counts.")] = 3,
    only: Annotated[
        list[str] | None, typer.Option(help=f"Only this measure: {', '.join(verdicts.MEASURES)}. May come again.")
    ] = None,
    kernel: Annotated[str, typer.Option(help="As of verify.")] = DEFAULT,
    as_json: JsonFlag = False,
) -> None:
    """Verdicts on a scheduler: static checks, verify --quick and whole.

    `large`, 16 CPUs on 4 nodes, takes minutes and is measured when named.
    """
    measure = partial(verdicts.measure, only or verdicts.USUAL, rounds, kernel=kernel)
    _tell(_VERIFY, measure, verdicts.MEASURES, rounds=rounds, kernel=kernel, as_json=as_json)


@app.command()
def debug(
    rounds: Annotated[int, typer.Option(min=1, help="How often each is measured; the median counts.")] = 3,
    only: Annotated[
        list[str] | None, typer.Option(help=f"Only this measure: {', '.join(debuggers.MEASURES)}. May come again.")
    ] = None,
    kernel: Annotated[str, typer.Option(help="tree:DIR, built with the fragment kgdb, for KGDB and lines.")] = DEFAULT,
    as_json: JsonFlag = False,
) -> None:
    """Debuggers to their first answers; pauses of the guest.

    gdb, KGDB, drgn and ftrace at a VM of one kernel, whose shell opens files all the time.

    `bpftrace` takes LLVM in the guest and is measured when named.
    """
    measure = partial(debuggers.measure, only or debuggers.USUAL, rounds, kernel=kernel)
    _tell(_DEBUG, measure, debuggers.MEASURES, rounds=rounds, kernel=kernel, as_json=as_json)


# Both measure one kernel.
def _tell(
    schema: str,
    measure: Callable[..., dict[str, Figures]],
    measures: dict[str, Measure],
    *,
    rounds: int,
    kernel: str,
    as_json: bool,
) -> None:
    before = about()
    try:
        with progress() as say:
            found = measure(say=say)
    except HarnessError as error:
        raise fail(error, as_json=as_json, schema=schema) from None
    if as_json:
        facts = {"kernel": kernel, **_measures(found, measures)}
        print_json({"schema": schema, "rounds": rounds, **_machine(before), **facts})
        return
    _table(found, measures)
    _load(before)


def _json(found: dict[str, Figures], seen: Machine, rounds: int, before: str) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "rounds": rounds,
        **_machine(before),
        "kernel": seen.kernel,
        "qemu": seen.qemu,
        "accelerator": seen.accelerator,
        "snapshot": {"allocated": seen.snapshot[0], "bytes": seen.snapshot[1]},
        **_measures(found, MEASURES),
    }


def _machine(before: str) -> dict[str, Any]:
    return {"host": before, "cores": os.cpu_count(), "load_after": round(os.getloadavg()[0], 2)}


def _measures(found: dict[str, Figures], measures: dict[str, Measure]) -> dict[str, Any]:
    return {
        "measures": {
            name: {
                "what": measures[name].what,
                "target": measures[name].target,
                "seconds": _spread(figures.wall),
                "cpu_seconds": _spread(figures.cpu),
                "why": figures.why,
            }
            for name, figures in found.items()
        }
    }


def _spread(values: list[float]) -> dict[str, Any] | None:
    if not values:
        return None
    rounded = [round(value, 4) for value in values]
    return {"median": round(statistics.median(values), 4), "min": min(rounded), "max": max(rounded), "all": rounded}


def _show(found: dict[str, Figures], seen: Machine, before: str) -> None:
    _table(found, MEASURES)
    allocated, size = seen.snapshot
    out.print(f"snapshot  {allocated >> 20} MiB on disk, {size >> 20} MiB with its holes")
    out.print(f"kernel    {seen.kernel}, QEMU {seen.qemu}, {seen.accelerator}")
    _load(before)


def _table(found: dict[str, Figures], measures: dict[str, Measure]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("measure")
    for column in ("median s", "min", "max", "CPU s", "target"):
        table.add_column(column, justify="right")
    table.add_column("what")
    for name, figures in found.items():
        meant = measures[name]
        target = f"{meant.target:g}" if meant.target else ""
        numbers = (figures.median, min(figures.wall), max(figures.wall), figures.median_cpu) if figures.wall else ()
        cells = [f"{number:.3f}" for number in numbers] or ["-"] * 4
        table.add_row(name, *cells, target, meant.what)
    out.print(table)
    for name, figures in found.items():
        if figures.why:
            out.print(f"{name}: {escape(figures.why)}")


def _load(before: str) -> None:
    out.print(f"host      {escape(before)}, load after {os.getloadavg()[0]:.2f}")
    if os.getloadavg()[0] > (os.cpu_count() or 1) + 1:
        err.print("[yellow]the machine was busy:[/] compare CPU time, or measure again when it is idle")
