# SPDX-License-Identifier: Apache-2.0
"""`kernloop verify`."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import asdict, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from kernloop import runs
from kernloop.cli.junit import JUnitOption, Tell, finish, results
from kernloop.cli.output import JsonFlag, err, escape, fail, mark, out, print_json, progress
from kernloop.cli.run import mebibytes, repeated
from kernloop.errors import HarnessError, UsageError
from kernloop.kernel.refs import DEFAULT
from kernloop.present import failure_json, outcome_json, plain
from kernloop.runs import REPORT
from kernloop.sched import realtime, selection
from kernloop.sched import subject as subjects
from kernloop.sched import verify as library
from kernloop.sched.judge import Judgement
from kernloop.sched.matrix import seconds_for
from kernloop.verdict import Verdict, exit_code
from kernloop.vm import recipe
from kernloop.vm.topology import PRESETS, arranged, in_a_word, memory_for, parse_cpus

# Fewer say little of what chance does: the interval of three is twice as wide.
_REAL_RUNS = 5
_SIGNS = {"pass": "[green]ok  [/]", "skipped": "[yellow]skip[/]", "inconclusive": "[yellow]?   [/]"}


class Time(StrEnum):
    """Whose clock the guest has."""

    VIRTUAL = "virtual"
    REAL = "real"


def verify(
    ctx: typer.Context,
    scheduler: Annotated[str | None, typer.Argument(help="A .bpf.c, .bpf.o, folder, program, kernel:NAME.")] = None,
    args: Annotated[list[str] | None, typer.Argument(help="For the scheduler's own loader, after --.")] = None,
    loader: Annotated[
        str | None,
        typer.Option(help="A scheduler with its own loader: a program, or kernel:scx_qmap from the kernel's source."),
    ] = None,
    target: Annotated[str, typer.Option(help="Which scheduler of a folder that builds several.")] = "",
    kernel: Annotated[str, typer.Option(help="debian:7.2, debian:newest, host, path:BZIMAGE.")] = DEFAULT,
    kernels: Annotated[str, typer.Option(help="Several, by commas: debian:6.18,debian:newest,tree:DIR.")] = "",
    cpus: Annotated[str, typer.Option(help="vCPUs: 4, or 8,sockets=2,cores=2,threads=2.")] = "2",
    topology: Annotated[
        str,
        typer.Option(help="One or several, by commas: SxCxT[+llcN][+numaN], or " + " ".join(PRESETS) + " numaN llcN."),
    ] = "",
    gauntlet: Annotated[
        bool, typer.Option("--gauntlet", help="All topologies, all kernels of the cache; says before how long.")
    ] = False,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Guests at a time; by default what CPUs and memory allow.")
    ] = None,
    memory: Annotated[
        str | None, typer.Option(help="Guest memory: MiB, or with a unit, as in 2G; 512M, more for many vCPUs.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Another seed is another interleaving, each repeatable.")] = 1,
    shift: Annotated[
        int, typer.Option(min=0, max=10, help="An instruction takes 2**SHIFT ns.")
    ] = library.DEFAULT_SHIFT,
    tests: Annotated[str, typer.Option(help="Only these, by commas: " + ",".join(selection.TESTS))] = "",
    quick: Annotated[bool, typer.Option("--quick", help="After each edit: " + ",".join(selection.QUICK))] = False,
    everything: Annotated[bool, typer.Option("--all", help="All tests, the long ones as well.")] = False,
    claims: Annotated[
        str | None,
        typer.Option(help="What it does, else seen of it: " + ",".join(selection.CLAIMS) + "; or none."),
    ] = None,
    watchdog: Annotated[
        int | None,
        typer.Option(min=1, max=library.MAX_WATCHDOG, help="Seconds until a waiting task is a stall; else 5 at most."),
    ] = None,
    time: Annotated[Time, typer.Option(help="real: on the host's clock, for machines with KVM.")] = Time.VIRTUAL,
    repeat: Annotated[
        int | None,
        typer.Option(
            min=1, help="In virtual time all must be the same, byte by byte; in real time 5, weighed together."
        ),
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(min=1, help="Seconds of real time for the whole; 300, more for a large one.")
    ] = None,
    dump: Annotated[
        bool, typer.Option("--dump", help="A crash or hang of the kernel leaves a vmcore, for debug triage.")
    ] = False,
    junit: JUnitOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Verify a sched_ext scheduler: compile, load, test in virtual time, judge.

    0: pass. 1: the scheduler is at fault. 2: bad input. 125: kernloop or the machine failed.
    """
    words = (*([scheduler] if scheduler and loader else []), *(args or []))
    try:
        subject = shlex.join([loader or str(scheduler), *words])
        with results(junit, "verify", subject) as tell:
            what = subjects.find(scheduler, loader, tuple(args or ()), target)
            machines, images = _listed(ctx, topology, kernels)
            chosen = tuple(name for name in tests.split(",") if name)
            claimed = None if claims is None else tuple(one for one in claims.split(",") if one not in ("", "none"))
            if gauntlet or len(machines) > 1 or len(images) > 1:
                # Seldom used, and its table is slow to import.
                from kernloop.cli.verify_matrix import plan, run_matrix

                todo = plan(
                    subject,
                    what,
                    machines or ([] if gauntlet and not _said(ctx, "cpus") else [in_a_word(parse_cpus(cpus))]),
                    images or ([] if gauntlet and not _said(ctx, "kernel") else [kernel]),
                    gauntlet=gauntlet,
                    jobs=jobs,
                    timeout=timeout,
                    real_time=time is Time.REAL,
                    claims=claimed,
                    share=len(selection.choose(chosen, quick=quick, everything=everything)) / len(selection.DEFAULT),
                )
                raise typer.Exit(run_matrix(todo, ctx, tell=tell, as_json=as_json))
            size = mebibytes(memory) if memory else None
            machine = arranged(machines[0], size) if machines else parse_cpus(cpus)
            request = library.Request(
                what,
                images[0] if images else kernel,
                machine,
                size or memory_for(machine.cpus),
                seed,
                shift,
                chosen,
                timeout or seconds_for(machine.cpus, own_loader=what.own_loader),
                quick,
                everything,
                claimed,
                watchdog,
                time is Time.REAL,
                dump,
            )
            with runs.create("verify", library.SCHEMA, {"subject": subject, **asdict(request)}) as record:
                code = _verify(request, record, as_json, tell, repeat)
    except HarnessError as error:
        raise fail(error, as_json=as_json, schema=library.SCHEMA) from None
    raise typer.Exit(code)


# Whether the caller gave the option.
def _said(ctx: typer.Context, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


# What --topology and --kernels name, nothing for neither. Raises UsageError where they contradict --cpus and --kernel.
def _listed(ctx: typer.Context, topology: str, kernels: str) -> tuple[list[str], list[str]]:
    for one, other in (("topology", "cpus"), ("kernels", "kernel")):
        if _said(ctx, one) and _said(ctx, other):
            raise UsageError(f"--{one} and --{other} say the same thing twice", hint=f"leave --{other} away")
    machines, images = ([word for word in text.split(",") if word] for text in (topology, kernels))
    return machines, images


def _verify(request: library.Request, record: runs.Run, as_json: bool, tell: Tell | None, repeat: int | None) -> int:
    with progress() as say:
        show = _show(say, as_json)
        try:
            if request.real_time:
                several = realtime.execute(request, record, repeat or _REAL_RUNS, say=say, on_event=show)
            else:
                several = realtime.Several(library.execute(request, record, say=say, on_event=show))
        except HarnessError as error:
            finish(record, failure_json(library.SCHEMA, error, record.path), tell)
            raise
    judgement = several.judgement
    outcome = judgement.outcome
    more = {"recipe": runs.read_json(record.path / recipe.FILE), **details(judgement)}
    if several.repetitions:
        more["repetitions"] = plain(several.repetitions)
    code = exit_code(outcome.verdict)
    value = outcome_json(library.SCHEMA, record.path, outcome, exit_code=code, seed=request.seed, **more)
    # What was not built has nothing to repeat.
    if repeat and repeat > 1 and value["recipe"]:
        value = repeated(value, record, repeat)
        verdict, summary, then = Verdict(value["verdict"]), value["summary"], value["next"]
        judgement = replace(judgement, outcome=replace(outcome, verdict=verdict, summary=summary, next=then))
    finish(record, value, tell)
    if as_json:
        print_json(value)
    else:
        _explain(judgement, record.path)
    return int(value["exit_code"])


def details(judgement: Judgement) -> dict[str, Any]:
    """What a verify says beside its outcome: pairs as objects; the dump, 32 KiB of it, stays in its file."""
    value: dict[str, Any] = plain(judgement)
    del value["outcome"]
    if judgement.exit is not None:
        del value["exit"]["dump"]
    for test in value["tests"]:
        test["detail"] = dict(test["detail"])
    value["counters"] = dict(value["counters"])
    for one in value["stats"]:
        one["figures"] = dict(one["figures"])
    return value


# Tests as they end, above the line that says what is being done now.
def _show(say: Callable[[str], None], as_json: bool) -> Callable[[dict[str, Any]], None]:
    def show(event: dict[str, Any]) -> None:
        if event.get("event") == "test-start":
            say(f"testing: {event['name']}")
        elif event.get("event") == "enabled":
            say(f"enabled after {event.get('seconds', 0):.1f} s of guest time")
        elif event.get("event") == "test" and not as_json:
            sign = _SIGNS.get(str(event.get("result")), "[red]FAIL[/]")
            figure = f"{event.get('figure', 0):.4g} {event.get('unit', '')} (limit {event.get('limit', 0):g})"
            figure = figure if event["ok"] else escape(str(event.get("why", "")))
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
    _found(judgement)
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


# The static check's findings, a line each; what is undecided is only counted.
def _found(judgement: Judgement) -> None:
    undecided = sum(one.level == "unknown" for one in judgement.findings)
    for one in judgement.findings:
        if one.level != "unknown":
            sign = "because" if one == judgement.cause else one.level
            out.print(f"  {sign:9} {escape(f'{one.file}:{one.line}: {one.why}  [{one.rule}]')}")
            out.print(f"            {escape(one.source)}")
    if undecided:
        out.print(f"  static    {undecided} undecided: kernloop sched check tells")
