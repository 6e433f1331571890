# SPDX-License-Identifier: Apache-2.0
"""`kernloop bisect`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from kernloop import runs
from kernloop.cli.output import JsonFlag, escape, fail, mark, out, print_json, progress
from kernloop.cli.run import mebibytes
from kernloop.cli.verbs import command_of
from kernloop.errors import HarnessError, UsageError
from kernloop.git import bisect as commits
from kernloop.git import configs, remains
from kernloop.git.bisect import Finding, Plan, Request
from kernloop.git.configs import ConfigFinding, ConfigRequest
from kernloop.git.target import Target
from kernloop.kernel import fragments
from kernloop.present import failure_json, plain
from kernloop.verdict import exit_code

F = TypeVar("F", Finding, ConfigFinding)


def bisect(
    ctx: typer.Context,
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of the repository.")] = Path(),
    good: Annotated[list[str] | None, typer.Option(help="A revision that is well; more than one, if need be.")] = None,
    bad: Annotated[str, typer.Option(help="A revision that fails.")] = "HEAD",
    good_config: Annotated[
        Path | None, typer.Option(help="A .config that is well, to find the symbol: no commits then, DIR as it is.")
    ] = None,
    bad_config: Annotated[Path | None, typer.Option(help="A .config that fails.")] = None,
    signature: Annotated[
        str | None,
        typer.Option(help="Only this failure counts: a regular expression, KIND@FUNCTION of a crash, verdict:panic."),
    ] = None,
    times: Annotated[int, typer.Option("--runs", min=1, help="Runs of each commit, for what fails now and then.")] = 1,
    fail_if: Annotated[int, typer.Option(min=1, help="A commit is bad if so many of its runs fail.")] = 1,
    host: Annotated[bool, typer.Option("--host", help="Run the command on this machine, as git bisect run.")] = False,
    profile: Annotated[str, typer.Option(help="The kernel's configuration, as of kernel build.")] = "test",
    fragment: Annotated[list[str] | None, typer.Option(help="More configuration: a name or a file.")] = None,
    setting: Annotated[list[str] | None, typer.Option("--config", metavar="SYM=V", help="One symbol of it.")] = None,
    base: Annotated[Path | None, typer.Option(help="A whole .config to start from, instead of a profile.")] = None,
    llvm: Annotated[bool, typer.Option("--llvm", help="Build with clang and lld.")] = False,
    jobs: Annotated[int | None, typer.Option(min=1, help="Compilers at a time.")] = None,
    cpus: Annotated[str, typer.Option(help="vCPUs of the guest: 4, or 8,sockets=2,cores=2,threads=2.")] = "2",
    memory: Annotated[str, typer.Option(help="Guest memory: MiB, or with a unit, as in 2G.")] = "512M",
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds the command may take.")] = 120.0,
    files: Annotated[list[Path] | None, typer.Option("--with", help="A file to take along, into /root.")] = None,
    append: Annotated[
        list[str] | None,
        typer.Option(help="Words for the kernel command line; oops=panic ends a run at once that has crashed."),
    ] = None,
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
    schema = commits.SCHEMA
    try:
        if abandon:
            return remains.abandon(_unfinished(abandon), schema)
        if resume:
            path = _unfinished(resume)
            if (by_config := configs.remember(path)) is not None:
                schema = configs.SCHEMA
                code = _symbols(by_config, runs.reopen(path, schema), as_json)
            else:
                code = _commits(commits.plan(commits.remember(path)), runs.reopen(path, schema), as_json)
            raise typer.Exit(code)
        command, words = command_of(ctx), " ".join(command_of(ctx))
        target = Target(
            profile,
            tuple(str(Path(name).absolute()) if Path(name).is_file() else name for name in fragment or ()),
            tuple(map(fragments.setting, setting or ())),
            base.absolute() if base else None,
            llvm,
            jobs,
            cpus,
            mebibytes(memory),
            tuple(file.absolute() for file in files or ()),
            tuple(append or ()),
        )
        target.check()
        how = (signature, times, fail_if, timeout)
        if good_config or bad_config:
            if not (good_config and bad_config) or good or host:
                raise UsageError(
                    "--good-config and --bad-config go together, and with neither --good nor --host",
                    hint="kernloop bisect TREE --good-config FILE --bad-config FILE -- CMD",
                )
            schema = configs.SCHEMA
            asked = ConfigRequest(
                directory.absolute(), good_config.absolute(), bad_config.absolute(), command, *how, target
            )
            configs.check(asked)
            subject = f"{good_config.name}..{bad_config.name}: {words}"
            code = _symbols(asked, runs.create("bisect", schema, {"subject": subject, **asdict(asked)}), as_json)
        else:
            if not good:
                raise UsageError("no good revision", hint="kernloop bisect --good REV --bad REV -- CMD")
            plan = commits.plan(Request(directory.absolute(), tuple(good), bad, command, *how, host, target))
            subject = f"{good[0]}..{bad}: {words}"
            spec = {"subject": subject, **asdict(plan.request)}
            code = _commits(plan, runs.create("bisect", schema, spec), as_json)
    except HarnessError as error:
        raise fail(error, as_json=as_json, schema=schema) from None
    raise typer.Exit(code)


def _commits(plan: Plan, context: AbstractContextManager[runs.Run], as_json: bool) -> int:
    return _told(context, commits.SCHEMA, lambda run, say: commits.execute(plan, run, say), _explain, as_json)


def _symbols(asked: ConfigRequest, context: AbstractContextManager[runs.Run], as_json: bool) -> int:
    return _told(context, configs.SCHEMA, lambda run, say: configs.execute(asked, run, say), _explain_symbols, as_json)


def _told(
    context: AbstractContextManager[runs.Run],
    schema: str,
    find: Callable[[runs.Run, Callable[[str], None]], F],
    explain: Callable[[F], None],
    as_json: bool,
) -> int:
    with context as record, progress(record=record) as say:
        try:
            finding = find(record, say)
        except HarnessError as error:
            record.judge(failure_json(schema, error, record.path))
            raise
        code = exit_code(finding.verdict)
        value = {"schema": schema, **plain(finding), "exit_code": code, "run": str(record.path)}
        record.judge(value)
    if as_json:
        print_json(value)
        return code
    out.print(f"{mark(finding.verdict)}  {escape(finding.summary)}")
    explain(finding)
    for evidence in finding.evidence:
        out.print(f"  evidence  {escape(evidence.path)}  {escape(evidence.what)}")
    out.print(f"  run       {record.path}")
    out.print(f"  [bold]next[/]      {escape(finding.next)}")
    return code


# The run directory of a bisect that ended early: `name`, or the last.
def _unfinished(name: str) -> Path:
    return remains.unfinished() if name == "last" else runs.find(name)


def _explain(finding: Finding) -> None:
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


def _explain_symbols(finding: ConfigFinding) -> None:
    for culprit in finding.symbols:
        needed = f"  needed by {', '.join(culprit.needed_by)}" if culprit.needed_by else ""
        out.print(f"  symbol    CONFIG_{culprit.symbol}  good: {culprit.good}  bad: {culprit.bad}{needed}")
    out.print(f"  judged    {finding.judged} configurations; {finding.differing} symbols differ")
