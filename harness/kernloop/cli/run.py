# SPDX-License-Identifier: Apache-2.0
"""`kernloop run`."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from kernloop import runs
from kernloop.cli.junit import JUnitOption, Tell, finish, results
from kernloop.cli.output import JsonFlag, err, escape, fail, mark, print_json, progress, relay
from kernloop.errors import HarnessError, UsageError
from kernloop.kernel.refs import DEFAULT
from kernloop.present import failure_json, outcome_json
from kernloop.runs import REPORT
from kernloop.verdict import Outcome, Verdict, guest_exit_code
from kernloop.vm import recipe, topology
from kernloop.vm import run as library
from kernloop.vm.argv import DEFAULT_SHIFT
from kernloop.vm.share import Share

# How much of the command's output the JSON object carries; the files have all of it.
_TAIL = 8192


def run(
    command: Annotated[list[str], typer.Argument(help="The command and its arguments, after --.")],
    kernel: Annotated[str, typer.Option(help="debian:7.2, debian:newest, host, path:BZIMAGE.")] = DEFAULT,
    cpus: Annotated[str, typer.Option(help="vCPUs: 4, or 8,sockets=2,cores=2,threads=2.")] = "2",
    memory: Annotated[str, typer.Option(help="Guest memory: MiB, or with a unit, as in 2G.")] = "512M",
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds the command may take, from its start.")] = 120.0,
    files: Annotated[
        list[Path] | None, typer.Option("--with", help="A file to take along, into /root; with its libraries.")
    ] = None,
    append: Annotated[list[str] | None, typer.Option(help="Words for the kernel command line.")] = None,
    numa: Annotated[
        list[str] | None, typer.Option(help="A NUMA node, its vCPUs and memory: 0-3:256M. Once for each node.")
    ] = None,
    arrangement: Annotated[
        str | None, typer.Option("--topology", help="Instead of --cpus and --numa: 2x4x2, 1x8x1+llc2, numa4, smt.")
    ] = None,
    distance: Annotated[list[str] | None, typer.Option(help="Between two NUMA nodes: 0-1:21.")] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Run in virtual time: the same seed gives the same console, bit for bit.")
    ] = None,
    shift: Annotated[
        int, typer.Option(min=0, max=10, help="In virtual time an instruction takes 2**SHIFT ns.")
    ] = DEFAULT_SHIFT,
    repeat: Annotated[
        int, typer.Option(min=1, help="With --seed: run it so often, and fail (125) unless all are the same.")
    ] = 1,
    backend: Annotated[str, typer.Option(help="micro: busybox only. vng: this machine's user space.")] = "micro",
    writable: Annotated[bool, typer.Option("--writable", help="A vng guest may write to this folder.")] = False,
    cold: Annotated[bool, typer.Option("--cold", help="Boot, do not restore the snapshot of a boot.")] = False,
    dump: Annotated[bool, typer.Option("--dump", help="A crash or hang leaves a vmcore, for debug triage.")] = False,
    junit: JUnitOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Boot a kernel, run a command in it, and exit as the command did.

    120: the kernel crashed. 124: the deadline passed. 125: kernloop or QEMU failed.
    """
    try:
        if repeat > 1 and seed is None:
            raise UsageError("--repeat compares runs in virtual time", hint="add --seed 1")
        subject = " ".join(command)
        with results(junit, "run", subject) as tell:
            size = mebibytes(memory)
            request = library.Request(
                tuple(command),
                kernel,
                _machine(arrangement, cpus, size, tuple(numa or ()), tuple(distance or ())),
                size,
                timeout,
                tuple(files or ()),
                tuple(append or ()),
                seed,
                shift,
                cold,
                backend,
                Share(Path.cwd(), writable),
                dump,
            )
            with runs.create("run", library.SCHEMA, {"subject": subject, **asdict(request)}) as record:
                code = _run(request, record, as_json, tell, repeat)
    except HarnessError as error:
        raise fail(error, as_json=as_json, schema=library.SCHEMA) from None
    raise typer.Exit(code)


# Raises UsageError for a topology said in both ways.
def _machine(
    arrangement: str | None, cpus: str, memory: int, numa: tuple[str, ...], distance: tuple[str, ...]
) -> topology.Topology:
    if arrangement is None:
        return topology.numa(topology.parse_cpus(cpus), memory, numa, distance)
    if numa or distance:
        raise UsageError("--topology has the nodes already", hint=f"--topology {arrangement}, without --numa")
    return topology.arranged(arrangement, memory)


def mebibytes(text: str) -> int:
    """Raises UsageError for what is no size, or less than a kernel can boot in."""
    units = {"": 1, "M": 1, "G": 1024}
    number, unit = text.rstrip("MGmgiBb"), text.lstrip("0123456789").upper().removesuffix("IB").removesuffix("B")
    if not number.isdigit() or unit not in units:
        raise UsageError(f"{text!r} is no memory size", hint="as in --memory 512M or --memory 2G")
    value = int(number) * units[unit]
    if not 128 <= value <= 65536:
        raise UsageError(f"{text} of memory cannot be given to a guest", hint="between 128M and 64G")
    return value


def _run(request: library.Request, record: runs.Run, as_json: bool, tell: Tell | None, repeat: int) -> int:
    # On a terminal a spinner and the guest's own output would write over each other.
    with progress(quiet=not as_json) as say:
        try:
            outcome = library.execute(
                request,
                record,
                on_stdout=relay(sys.stdout.buffer, quiet=as_json),
                on_stderr=relay(sys.stderr.buffer, quiet=as_json),
                say=say,
            )
        except HarnessError as error:
            finish(record, failure_json(library.SCHEMA, error, record.path), tell)
            raise
    code = guest_exit_code(outcome.verdict, outcome.exit_status)
    value = outcome_json(
        library.SCHEMA,
        record.path,
        outcome,
        exit_code=code,
        seed=request.seed,
        recipe=runs.read_json(record.path / recipe.FILE),
        stdout=_tail(record.path / "stdout"),
        stderr=_tail(record.path / "stderr"),
    )
    if repeat > 1:
        value = repeated(value, record, repeat)
        code = value["exit_code"]
    finish(record, value, tell)
    if as_json:
        print_json(value)
    elif repeat > 1:
        err.print(f"kernloop: {mark(value['verdict'])}: {escape(value['summary'])}")
    elif (outcome.verdict is not Verdict.PASS and code != outcome.exit_status) or outcome.exit_status == 127:
        explain(outcome, record.path)
    return code


def repeated(value: dict[str, Any], record: runs.Run, times: int) -> dict[str, Any]:
    """`value` when all further runs in virtual time are the same as the first, otherwise what was not."""
    from kernloop.cli.replay import again

    for number in range(2, times + 1):
        other = again(record.path, quiet=True)
        if other["verdict"] != Verdict.PASS:
            return {
                **value,
                "verdict": Verdict.INCONCLUSIVE.value,
                "summary": f"run {number} of {times}: {other['summary']}",
                "next": f"compare {record.path} with {other['run']}",
                "exit_code": 125,
                "repeated": number,
            }
    return {**value, "summary": f"{value['summary']}; {times} runs, all the same byte by byte", "repeated": times}


def explain(outcome: Outcome, path: Path) -> None:
    """The verdict, the console's excerpt and the next step, on stderr."""
    err.print(f"kernloop: {mark(outcome.verdict)}: {escape(outcome.summary)}")
    if outcome.kind:
        err.print(f"  kind {outcome.kind}{escape(f', function {outcome.function}' if outcome.function else '')}")
    first = outcome.evidence[0] if outcome.evidence else None
    if first and first.lines:
        # Only a newline ends a line here, as for the parser that counted them.
        lines = (path / first.path).read_bytes().decode(errors="replace").split("\n")
        for line in lines[first.lines[0] - 1 : first.lines[1]][:14]:
            err.print(f"  [dim]|[/] {escape(line.rstrip())}")
        err.print(f"  {path / first.path}, lines {first.lines[0]} to {first.lines[1]}")
    else:
        err.print(f"  evidence: {path}")
    if (path / REPORT).exists():
        err.print(f"  report: {path / REPORT}")
    if outcome.next:
        err.print(f"  [bold]next:[/] {escape(outcome.next)}")


def _tail(path: Path) -> dict[str, object]:
    data = path.read_bytes() if path.exists() else b""
    return {
        "text": data[-_TAIL:].decode(errors="replace"),
        "bytes": len(data),
        "cut": len(data) > _TAIL,
        "path": str(path),
    }
