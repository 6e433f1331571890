# SPDX-License-Identifier: Apache-2.0
"""`kernloop bisect`."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from kernloop import runs
from kernloop.cli.output import JsonFlag, escape, fail, mark, out, print_json, progress
from kernloop.cli.run import mebibytes
from kernloop.cli.verbs import command_of
from kernloop.errors import HarnessError, UsageError
from kernloop.git import bisect as library
from kernloop.git.bisect import Finding, Plan, Request
from kernloop.git.target import Target
from kernloop.present import failure_json, plain
from kernloop.verdict import exit_code


def bisect(
    ctx: typer.Context,
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of the repository.")] = Path(),
    good: Annotated[list[str] | None, typer.Option(help="A revision that is well; more than one, if need be.")] = None,
    bad: Annotated[str, typer.Option(help="A revision that fails.")] = "HEAD",
    signature: Annotated[
        str | None,
        typer.Option(help="Only this failure counts: a regular expression, KIND@FUNCTION of a crash, verdict:panic."),
    ] = None,
    times: Annotated[int, typer.Option("--runs", min=1, help="Runs of each commit, for what fails now and then.")] = 1,
    fail_if: Annotated[int, typer.Option(min=1, help="A commit is bad if so many of its runs fail.")] = 1,
    host: Annotated[bool, typer.Option("--host", help="Run the command on this machine, as git bisect run.")] = False,
    profile: Annotated[str, typer.Option(help="The kernel's configuration: tiny, test or debug.")] = "test",
    fragment: Annotated[list[str] | None, typer.Option(help="More configuration: a name or a file.")] = None,
    config: Annotated[list[str] | None, typer.Option(metavar="SYM=V", help="One symbol of it.")] = None,
    llvm: Annotated[bool, typer.Option("--llvm", help="Build with clang.")] = False,
    jobs: Annotated[int | None, typer.Option(min=1, help="Compilers at a time.")] = None,
    cpus: Annotated[str, typer.Option(help="vCPUs of the guest: 4, or 8,sockets=2,cores=2,threads=2.")] = "2",
    memory: Annotated[str, typer.Option(help="Guest memory: MiB, or with a unit, as in 2G.")] = "512M",
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds the command may take.")] = 120.0,
    files: Annotated[list[Path] | None, typer.Option("--with", help="A file to take along, into /root.")] = None,
    append: Annotated[list[str] | None, typer.Option(help="Words for the kernel command line.")] = None,
    resume: Annotated[str | None, typer.Option(metavar="RUN", help="Go on with one that ended early; or last.")] = None,
    abandon: Annotated[str | None, typer.Option(metavar="RUN", help="Remove what such a one has left.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Find the commit, or the symbol, that makes a command fail.

    Each step checks a commit out, in a worktree of its own, builds it, boots it and runs the command in the guest.
    Good is exit 0; bad any other failure, of the command or the kernel. A commit that does not build, exit 125, or a
    fault of the machine is skipped; with --signature every other failure is, too. With --host the exit code is that
    of git bisect run: 0 good, 125 skip, 1 to 127 bad, above that an error.

    0: found. 1: good fails, or bad does not. 2: bad input. 125: not found, or kernloop failed: --resume goes on.
    """
    command = command_of(ctx)
    try:
        if abandon:
            library.abandon(_unfinished(abandon))
            return
        if resume:
            path = _unfinished(resume)
            plan = library.plan(library.remember(path))
            context = runs.reopen(path, library.SCHEMA)
        else:
            if not good:
                raise UsageError("no good revision", hint="kernloop bisect --good REV --bad REV -- CMD")
            plan = library.plan(
                Request(
                    directory.absolute(),
                    tuple(good),
                    bad,
                    command,
                    signature,
                    times,
                    fail_if,
                    timeout,
                    host,
                    Target(
                        profile,
                        tuple(map(_absolute, fragment or ())),
                        tuple(map(_setting, config or ())),
                        llvm,
                        jobs,
                        cpus,
                        mebibytes(memory),
                        tuple(file.absolute() for file in files or ()),
                        tuple(append or ()),
                    ),
                )
            )
            subject = f"{good[0]}..{bad}: " + " ".join(command)
            context = runs.create("bisect", library.SCHEMA, {"subject": subject, **asdict(plan.request)})
        code = _bisect(plan, context, as_json)
    except HarnessError as error:
        raise fail(error, as_json=as_json, schema=library.SCHEMA) from None
    raise typer.Exit(code)


def _bisect(plan: Plan, context: AbstractContextManager[runs.Run], as_json: bool) -> int:
    with context as record, progress() as say:
        try:
            finding = library.execute(plan, record, say)
        except HarnessError as error:
            record.judge(failure_json(library.SCHEMA, error, record.path))
            raise
        code = exit_code(finding.verdict)
        value = {"schema": library.SCHEMA, **plain(finding), "exit_code": code, "run": str(record.path)}
        record.judge(value)
    if as_json:
        print_json(value)
    else:
        _explain(finding, record.path)
    return code


# The run directory of a bisect that ended early: `name`, or the last.
def _unfinished(name: str) -> Path:
    return library.unfinished() if name == "last" else runs.find(name)


def _setting(text: str) -> tuple[str, str]:
    name, equals, value = text.removeprefix("CONFIG_").partition("=")
    if not (name and equals and value):
        raise UsageError(f"{text!r} is no setting", hint="as in --config KASAN=y")
    return name, value


# A file among the fragments is found again by a resumed bisect, wherever that is called from.
def _absolute(fragment: str) -> str:
    return str(Path(fragment).absolute()) if Path(fragment).is_file() else fragment


def _explain(finding: Finding, path: Path) -> None:
    out.print(f"{mark(finding.verdict)}  {escape(finding.summary)}")
    if finding.first_bad is not None:
        out.print(f"  commit    {finding.first_bad.sha}")
        out.print(f"  author    {escape(finding.first_bad.author)}  {finding.first_bad.date}")
    for candidate in finding.candidates if finding.first_bad is None else ():
        out.print(f"  candidate {escape(candidate.short)}")
    if finding.share < 1:
        out.print(f"  symptom   in {finding.share:.0%} of the runs or more; doubt {finding.doubt:.1%}")
    out.print("  steps")
    for step in finding.steps:
        seen = f"{step.shown}/{step.shown + step.clean}"
        out.print(f"    {step.standing:6} {seen:>5}  {escape(step.commit.short[:60]):60}  {escape(step.why)}")
    for evidence in finding.evidence:
        out.print(f"  evidence  {escape(evidence.path)}  {escape(evidence.what)}")
    out.print(f"  run       {path}")
    out.print(f"  [bold]next[/]      {escape(finding.next)}")
