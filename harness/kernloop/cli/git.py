# SPDX-License-Identifier: Apache-2.0
"""`kernloop git series check / conflicts`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kernloop.cli.output import JsonFlag, err, escape, fail, mark, out, print_json, progress
from kernloop.errors import HarnessError
from kernloop.verdict import Verdict

if TYPE_CHECKING:
    from kernloop.git.conflicts import Commit, ConflictedFile
    from kernloop.git.series import SeriesReport
    from kernloop.git.tags import Problem

app = typer.Typer(help="Checks of commits before they are sent, and conflicts explained.", no_args_is_help=True)
_series = typer.Typer(help="A series of commits, and a rebase that stands still.", no_args_is_help=True)
app.add_typer(_series, name="series")

_CHECK = "kernloop.series-check/1"
_CONFLICTS = "kernloop.series-conflicts/1"
_COLOURS = {"error": "bold red", "warning": "yellow", "note": "dim"}


@_series.command()
def check(
    where: Annotated[str, typer.Argument(metavar="[DIR]", help="The clone; the folder one is in if left out.")] = ".",
    commits: Annotated[str, typer.Argument(metavar="[BASE..TIP]", help="The series; what upstream lacks.")] = "",
    before: Annotated[str, typer.Option(help="OLDBASE..OLDTIP: the version before, to compare with.")] = "",
    build: Annotated[str, typer.Option(help="none, files (each commit's objects, W=1) or full.")] = "files",
    base: Annotated[Path | None, typer.Option(help="A whole .config to build with, not the profile test.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Whether each commit of a series builds alone, is signed, and says the truth in its tags.

    0: nothing that must be cured. 1: errors. 2: bad input. 125: kernloop or the machine failed.
    """
    from kernloop.git import build_files, series

    if ".." in where and not commits and not Path(where).exists():
        where, commits = ".", where
    try:
        with progress(quiet=as_json) as say:
            request = series.SeriesRequest(Path(where), commits, before, build)
            report = series.check(request, build_files.builders(base), say)
    except HarnessError as error:
        raise fail(error, as_json=as_json, schema=_CHECK) from None
    bad = report.errors
    verdict = Verdict.REJECTED if bad else Verdict.PASS
    summary = f"{_count(len(report.commits), 'commit')}, {_count(len(bad), 'error')}"
    step = _next(report)
    if as_json:
        value = {**asdict(report), "tree": str(report.tree)}
        head = {"verdict": verdict.value, "summary": summary, "next": step, "exit_code": int(bool(bad))}
        print_json({"schema": _CHECK, **head, **value})
    else:
        _show(report, f"{mark(verdict)}  {escape(summary)}")
        if step:
            err.print(f"  [bold]next:[/] {escape(step)}")
    raise typer.Exit(int(bool(bad)))


@_series.command()
def conflicts(
    where: Annotated[Path, typer.Argument(metavar="[DIR]", help="The tree in which git stopped.")] = Path(),
    as_json: JsonFlag = False,
) -> None:
    """What a stopped rebase, am, merge, cherry-pick or revert conflicts about: both sides and their commits.

    0: told. 2: nothing stands still there.
    """
    from kernloop.git import conflicts as library

    try:
        report = library.explain(where.resolve())
    except HarnessError as error:
        raise fail(error, as_json=as_json, schema=_CONFLICTS) from None
    if as_json:
        value = asdict(report)
        left = sum(not file.resolved for file in report.files)
        summary = f"{report.operation}: {_count(left, 'file')} in conflict"
        print_json({"schema": _CONFLICTS, "summary": summary, "next": value.pop("next"), **value})
        return
    out.print(f"[bold]{report.operation}[/]" + (f" at {_named(report.applying)}" if report.applying else ""))
    out.print(f"  ours (HEAD, <<<<<<<) is {escape(report.ours)}")
    out.print(f"  theirs (>>>>>>>) is {escape(report.theirs)}")
    for file in report.files:
        _show_file(file)
    err.print(f"  [bold]next:[/] {escape(report.next)}")


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'s' * (number != 1)}"


def _next(report: SeriesReport) -> str:
    for commit, problem in report.errors:
        if not commit:
            return problem.message
        if commit == report.tip:
            return f"cure it and git commit --amend; first: {problem.message}"
        return f"git rebase -i {commit[:12]}^ and mark it edit; first: {problem.message}"
    return ""


def _show(report: SeriesReport, head: str) -> None:
    out.print(head)
    for problem in report.problems:
        _show_problem(problem)
    for commit in report.commits:
        built = f"  built {' '.join(commit.built[:6])}" if commit.built else ""
        out.print(f"{commit.commit[:12]} {escape(commit.subject)}{escape(built)}")
        for problem in commit.problems:
            _show_problem(problem)
        for name, why in commit.not_built:
            out.print(f"  [dim]not built {escape(name)}: {escape(why)}[/]")
    for pair in report.range_diff:
        out.print(f"  {pair.old_number or '-'} -> {pair.new_number or '-'}  {pair.state:<8} {escape(pair.subject)}")
    for note in report.notes:
        out.print(f"  note: {escape(note)}")


def _show_problem(problem: Problem) -> None:
    place = f"{problem.file}:{problem.line}: " if problem.file else ""
    colour = _COLOURS[problem.level]
    out.print(f"  [{colour}]{problem.level}[/] {escape(place)}{escape(problem.check)}: {escape(problem.message)}")


def _show_file(file: ConflictedFile) -> None:
    state = (
        "resolved"
        if file.resolved
        else f"{_count(file.markers, 'conflict')} marked"
        if file.markers
        else "no markers left"
    )
    out.print(f"[bold]{escape(file.path)}[/]  {file.kind}; {state}")
    if file.rerere:
        out.print(f"  [bold red]rerere[/] filled in recorded resolution {file.rerere[:12]}: read it before you go on")
    for note in file.notes:
        out.print(f"  {escape(note)}")
    for report in file.regions:
        for word, lines, commits in (
            ("ours", report.region.ours, report.ours),
            ("theirs", report.region.theirs, report.theirs),
        ):
            out.print(f"  {word}, last changed by {'; '.join(_named(commit) for commit in commits) or 'nobody'}")
            for line in lines:
                out.print(f"    {escape(line)}")


def _named(commit: Commit) -> str:
    return escape(f"{commit.commit[:12]} ({commit.subject})".lstrip())
