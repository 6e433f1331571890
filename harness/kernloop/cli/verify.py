# SPDX-License-Identifier: Apache-2.0
"""`kernloop verify`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from kernloop import runs
from kernloop.cli.junit import JUnitOption, Tell, finish, results
from kernloop.cli.output import JsonFlag, err, escape, fail, mark, out, print_json, progress
from kernloop.cli.run import mebibytes
from kernloop.errors import HarnessError
from kernloop.kernel.refs import DEFAULT
from kernloop.present import failure_json, outcome_json, plain
from kernloop.runs import REPORT
from kernloop.sched import verify as library
from kernloop.sched.judge import Judgement
from kernloop.verdict import exit_code
from kernloop.vm import recipe
from kernloop.vm.topology import parse_cpus


def verify(
    scheduler: Annotated[str | None, typer.Argument(help="A .bpf.c or .bpf.o; or none, with --loader.")] = None,
    args: Annotated[list[str] | None, typer.Argument(help="Arguments for --loader, after --.")] = None,
    loader: Annotated[
        str | None,
        typer.Option(help="A scheduler with its own loader: a program, or kernel:scx_qmap from the kernel's source."),
    ] = None,
    kernel: Annotated[str, typer.Option(help="debian:7.2, debian:newest, host, path:BZIMAGE.")] = DEFAULT,
    cpus: Annotated[str, typer.Option(help="vCPUs: 4, or 8,sockets=2,cores=2,threads=2.")] = "2",
    memory: Annotated[str, typer.Option(help="Guest memory: MiB, or with a unit, as in 2G.")] = "512M",
    seed: Annotated[int, typer.Option(min=0, help="Another seed is another interleaving, each repeatable.")] = 1,
    shift: Annotated[
        int, typer.Option(min=0, max=10, help="An instruction takes 2**SHIFT ns.")
    ] = library.DEFAULT_SHIFT,
    tests: Annotated[
        str, typer.Option(help="Only these, by commas; all but wakeup by default: " + ",".join(library.TESTS))
    ] = "",
    timeout: Annotated[float, typer.Option(min=1, help="Seconds of real time for the whole guest.")] = 300.0,
    junit: JUnitOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Verify a sched_ext scheduler: compile, load, test in virtual time, judge.

    0: pass. 1: the scheduler is at fault. 2: bad input. 125: kernloop or the machine failed.
    """
    words = ([scheduler] if scheduler and loader else []) + list(args or [])
    try:
        subject = " ".join([loader, *words]) if loader else str(scheduler)
        with results(junit, "verify", subject) as tell:
            request = library.Request(
                Path(scheduler) if scheduler and not loader else None,
                loader,
                tuple(words),
                kernel,
                parse_cpus(cpus),
                mebibytes(memory),
                seed,
                shift,
                tuple(name for name in tests.split(",") if name),
                timeout,
            )
            with runs.create("verify", library.SCHEMA, {"subject": subject, **asdict(request)}) as record:
                code = _verify(request, record, as_json, tell)
    except HarnessError as error:
        raise fail(error, as_json=as_json, schema=library.SCHEMA) from None
    raise typer.Exit(code)


def _verify(request: library.Request, record: runs.Run, as_json: bool, tell: Tell | None) -> int:
    with progress() as say:
        try:
            judgement = library.execute(request, record, say=say, on_event=_show(say, as_json))
        except HarnessError as error:
            finish(record, failure_json(library.SCHEMA, error, record.path), tell)
            raise
    outcome = judgement.outcome
    code = exit_code(outcome.verdict)
    more = {"recipe": runs.read_json(record.path / recipe.FILE), **details(judgement)}
    value = outcome_json(library.SCHEMA, record.path, outcome, exit_code=code, seed=request.seed, **more)
    finish(record, value, tell)
    if as_json:
        print_json(value)
    else:
        _explain(judgement, record.path)
    return code


def details(judgement: Judgement) -> dict[str, Any]:
    """What a verify says beside its outcome: pairs as objects; the dump, 32 KiB of it, stays in its file."""
    value: dict[str, Any] = plain(judgement)
    del value["outcome"]
    if judgement.exit is not None:
        del value["exit"]["dump"]
    for test in value["tests"]:
        test["detail"] = dict(test["detail"])
    value["counters"] = dict(value["counters"])
    return value


# Tests as they end, above the line that says what is being done now.
def _show(say: Callable[[str], None], as_json: bool) -> Callable[[dict[str, Any]], None]:
    def show(event: dict[str, Any]) -> None:
        if event.get("event") == "test-start":
            say(f"testing: {event['name']}")
        elif event.get("event") == "enabled":
            say(f"enabled after {event.get('seconds', 0):.1f} s of guest time")
        elif event.get("event") == "test" and not as_json:
            sign = "[green]ok  [/]" if event["ok"] else "[red]FAIL[/]"
            figure = f"{event.get('figure', 0):.4g} {event.get('unit', '')} (limit {event.get('limit', 0):g})"
            figure = figure if event["ok"] else str(event.get("why", ""))
            err.print(f"  {sign} {event['name']:16} {figure:34} {event.get('seconds', 0):5.1f} s of guest time")

    return show


def _explain(judgement: Judgement, path: Path) -> None:
    outcome = judgement.outcome
    out.print(f"{mark(outcome.verdict)}  {escape(outcome.summary)}")
    if outcome.kernel:
        out.print(f"  kernel    {outcome.kernel.release}  build-id {outcome.kernel.build_id[:16]}")
    if judgement.exit and judgement.exit.is_error:
        ended = judgement.exit
        out.print(
            f"  exit      {ended.kind_name} ({ended.kind}), code {ended.code or 0}"
            + (f", during {judgement.during}" if judgement.during else "")
        )
    if judgement.known:
        out.print(f"  cause     {escape(judgement.known.cause)}")
    if judgement.guilty:
        out.print(f"  task      {escape(judgement.guilty.text.strip().splitlines()[0])}")
        out.print(f"  placed    {escape(judgement.placement)}")
    if judgement.rejection:
        found = judgement.rejection
        if found.source_text:
            out.print(f"  source    {found.source_file}:{found.source_line}: {escape(found.source_text)}")
        if found.instruction:
            out.print(f"  insn      {escape(found.instruction)}")
        if found.explanation:
            out.print(f"  cause     {escape(found.explanation)}")
        if found.reason:
            out.print(f"  reason    {escape(found.reason)}")
    errors = [one for one in judgement.diagnostics if one.is_error]
    for error in errors[:5]:
        out.print(f"  {escape(f'{error.file}:{error.line}:{error.column}: {error.message}')}")
        out.print(f"      {escape(error.source)}")
    if len(errors) > 5:
        out.print(f"  and {len(errors) - 5} more errors in compiler.txt")
    times = "  ".join(f"{name} {seconds:.1f} s" for name, seconds in outcome.times.items())
    out.print(f"  times     {times}")
    out.print(f"  evidence  {path}")
    if (path / REPORT).exists():
        out.print(f"  report    {path / REPORT}")
    if outcome.next:
        out.print(f"  [bold]next[/]      {escape(outcome.next)}")
