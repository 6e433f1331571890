# SPDX-License-Identifier: Apache-2.0
"""`kernloop verify` on several machines and kernels: --topology, --kernels, --gauntlet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import typer
from rich.table import Table

from kernloop import runs
from kernloop.cli.junit import Tell, finish
from kernloop.cli.output import err, escape, mark, out, print_json, progress
from kernloop.errors import HarnessError, UsageError
from kernloop.kernel import refs
from kernloop.kernel.kernel import Kernel
from kernloop.present import failure_json
from kernloop.sched import cells as running
from kernloop.sched import matrix as library
from kernloop.sched.cells import Ended
from kernloop.sched.matrix import SCHEMA, Cell, Result
from kernloop.sched.subject import Subject
from kernloop.verdict import exit_code

__all__ = ["Plan", "explain", "plan", "run_matrix"]

# What is said anew for each cell, and what is the matrix's own.
_OURS = frozenset({"topology", "cpus", "kernels", "kernel", "jobs", "gauntlet", "timeout", "junit", "as_json"})


@dataclass(frozen=True)
class Plan:
    """`timeout` bounds all cells together; `watched` are the files whose change ends it: cells must test the same."""

    subject: str
    todo: tuple[Cell, ...]
    jobs: int
    timeout: float | None
    watched: tuple[Path, ...]
    estimate: float


def plan(
    subject: str,
    what: Subject,
    machines: Sequence[str],
    kernels: Sequence[str],
    *,
    gauntlet: bool,
    jobs: int | None,
    timeout: float | None,
    real_time: bool,
    claims: Sequence[str] | None,
    share: float,
) -> Plan:
    """The cells; with `gauntlet` of all presets and all kernels that have sched_ext, where none are named, and each of
    `claims` on the machines that show something of it. `share` of the default suite is run."""
    if gauntlet:
        machines = machines or library.GAUNTLET
        kernels = kernels or library.one_of_each([found.ref for found in refs.cached() if found.has_sched_ext])
    spread = claims if gauntlet else None
    todo = library.cells(machines, kernels or [refs.DEFAULT], spread)
    at_a_time = min(jobs or library.default_jobs(todo, real_time=real_time), len(todo))
    expected = library.estimate(todo, at_a_time, share=share)
    return Plan(subject, todo, at_a_time, timeout, (what.path,) if what.path else (), expected)


def run_matrix(plan: Plan, ctx: typer.Context, *, tell: Tell | None, as_json: bool) -> int:
    """Run all cells, tell what came of them; the exit code."""
    spec = {"subject": plan.subject, **asdict(plan)}
    with runs.create("verify-matrix", SCHEMA, spec) as record, progress(record=record) as say:
        try:
            for ref in dict.fromkeys(cell.kernel for cell in plan.todo):
                say(f"finding the kernel {ref}")
                _must_have_sched_ext(refs.resolve(ref))
            expected = library.told(plan.estimate)
            say(f"{len(plan.todo)} guests, {plan.jobs} at a time: about {expected} where nothing else runs")
            ended = running.execute(
                plan.todo,
                lambda cell: _words(ctx, cell, plan.timeout),
                record.path / "cells",
                jobs=plan.jobs,
                seconds=plan.timeout,
                still=_unchanged(plan.watched),
                on_result=_show(record, len(plan.todo), say, as_json),
            )
        except HarnessError as error:
            finish(record, failure_json(SCHEMA, error, record.path), tell)
            raise
        value = _object(plan, ended, record)
        finish(record, value, tell)
    if as_json:
        print_json(value)
    else:
        explain(value)
    return int(value["exit_code"])


# A cell of such a kernel would say nothing about the scheduler. Raises UsageError.
def _must_have_sched_ext(kernel: Kernel) -> None:
    if kernel.has_sched_ext is False:
        raise UsageError(
            f"{kernel.ref} ({kernel.release}) is built without SCHED_CLASS_EXT, leave it out",
            hint="kernloop kernel list shows which have it",
        )


def explain(value: dict[str, Any]) -> None:
    """The object of a matrix as a table for people."""
    out.print(f"{mark(value['verdict'])}  {escape(value['summary'])}")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("topology", "kernel", "verdict", "decisive", "time", "run"):
        table.add_column(column, no_wrap=column != "decisive", overflow="fold")
    for cell in value["cells"]:
        figure = cell["figure"]
        told = (
            f"{figure['test']} {figure['figure']:.4g} {figure['unit']} (limit {figure['limit']:.4g})" if figure else ""
        )
        told = told if figure and cell["verdict"] in ("pass", "test-failed") else cell["summary"]
        topology = " ".join([f"{cell['topology']} ({cell['cpus']})", *(cell["claims"] or ())])
        word = mark(cell["verdict"]) + (" (ours)" if cell["ours"] else "")
        kernel, time = cell["release"] or cell["kernel"], f"{cell['seconds']:.0f} s"
        table.add_row(topology, kernel, word, escape(told[:90]), time, Path(cell["run"]).name if cell["run"] else "-")
    out.print(table)
    out.print(f"  evidence  {value['run']}")
    if value["next"]:
        out.print(f"  [bold]next[/]      {escape(value['next'])}")


# The caller's own words, as far as they are about a cell, and the cell's.
def _words(ctx: typer.Context, cell: Cell, timeout: float | None) -> list[str]:
    options = ["--json", "--topology", cell.topology, "--kernel", cell.kernel]
    options += ["--timeout", f"{timeout:g}"] if timeout else []
    left_out = _OURS
    if cell.claims is not None:
        options += ["--claims", ",".join(cell.claims) or "none"]
        left_out |= {"claims"}
    positional: list[str] = []
    for parameter in ctx.command.params:
        name, value = str(parameter.name), ctx.params.get(str(parameter.name))
        source = ctx.get_parameter_source(name)
        if name in left_out or value is None or source is None or source.name != "COMMANDLINE":
            continue
        if parameter.param_type_name == "argument":
            positional += [str(word) for word in (value if isinstance(value, list | tuple) else [value])]
        elif isinstance(value, bool):
            options += [parameter.opts[0]] if value else list(parameter.secondary_opts[:1])
        else:
            for one in value if isinstance(value, list | tuple) else [value]:
                options += [parameter.opts[0], str(one)]
    return ["verify", *options, "--", *positional]


def _unchanged(files: Sequence[Path]) -> Callable[[], str]:
    def seen(file: Path) -> tuple[int, int, int] | None:
        try:
            found = file.stat()
        except OSError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns

    first = {file: seen(file) for file in files}

    def still() -> str:
        changed = next((file for file, was in first.items() if seen(file) != was), None)
        return f"{changed} was changed meanwhile" if changed else ""

    return still


def _show(record: runs.Run, total: int, say: Callable[[str], None], as_json: bool) -> Callable[[Result], None]:
    count = 0

    def show(one: Result) -> None:
        nonlocal count
        count += 1
        record.note("cell", name=one.cell.name, verdict=one.verdict.value, run=one.run)
        say(f"{count} of {total} done")
        if not as_json:
            err.print(f"  {mark(one.verdict)}  {one.cell.name}  {one.seconds:.0f} s  {escape(one.summary[:100])}")

    return show


def _object(plan: Plan, ended: Ended, record: runs.Run) -> dict[str, Any]:
    verdict, summary, step = library.conclusion(ended.results, interrupted=ended.why)
    return {
        "schema": SCHEMA,
        "verdict": verdict.value,
        "summary": summary,
        "next": step,
        "exit_code": exit_code(verdict),
        "run": str(record.path),
        "subject": plan.subject,
        "jobs": plan.jobs,
        "estimate_seconds": round(plan.estimate),
        "times": {"total": round(record.elapsed, 3)},
        "cells": [_cell(one) for one in ended.results],
    }


# The single result by reference: its object is verdict.json of its run.
def _cell(one: Result) -> dict[str, Any]:
    return {
        "topology": one.cell.topology,
        "cpus": one.cell.machine.cpus,
        "kernel": one.cell.kernel,
        "release": one.release,
        "claims": one.cell.claims,
        "verdict": one.verdict.value,
        "ours": one.ours,
        "summary": one.summary,
        "next": one.next,
        "figure": asdict(one.figure) if one.figure else None,
        "exit_code": one.exit_code,
        "seconds": one.seconds,
        "run": str(one.run) if one.run else None,
    }
