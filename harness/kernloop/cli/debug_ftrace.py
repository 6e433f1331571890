# SPDX-License-Identifier: Apache-2.0
"""`kernloop debug ftrace`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from kernloop.cli.output import JsonFlag, escape, fail, out, print_json, progress
from kernloop.cli.vm_shared import NameArgument, interruptible
from kernloop.errors import HarnessError

if TYPE_CHECKING:
    from kernloop.debug.tracers.ftrace import Traced
    from kernloop.debug.tracers.ftrace_lines import Line

__all__ = ["ftrace"]

_SCHEMA = "kernloop.ftrace/1"
# Names in the sums.
_NAMES = 30


def ftrace(
    name: NameArgument,
    functions: Annotated[
        list[str] | None, typer.Option(metavar="GLOB", help="vfs_read, 'scx_*', '!scx_bpf_*' for all but. Repeat it.")
    ] = None,
    graph: Annotated[bool, typer.Option("--graph", help="Their calls with what each took, nested.")] = False,
    tree: Annotated[
        list[str] | None, typer.Option(metavar="FUNCTION", help="All that it calls, nested, with times. Repeat it.")
    ] = None,
    events: Annotated[
        list[str] | None,
        typer.Option(metavar="EVENT", help="sched_switch, 'irq:*', 'sched_switch:prev_pid==0'. Repeat it."),
    ] = None,
    condition: Annotated[
        str, typer.Option("--filter", metavar="EXPR", help="Of events without one of their own: 'prev_prio < 100'.")
    ] = "",
    seconds: Annotated[float, typer.Option(min=0.01, help="So long, in the guest's time.")] = 2.0,
    rows: Annotated[int, typer.Option(min=0, help="So many lines of the trace; the file has all.")] = 60,
    most: Annotated[int, typer.Option("--mb", min=1, max=60, help="At most so many MB of text.")] = 16,
    as_json: JsonFlag = False,
) -> None:
    """Functions and events of a VM traced: counts, times, lines.

    Ctrl-C ends it early and keeps what there is. 0: traced, even if events were lost, which is told. 2: bad input, or
    what the kernel does not have. 125: it could not be traced.
    """
    from kernloop.debug.tracers import ftrace as library
    from kernloop.vm import client

    try:
        with progress(quiet=as_json) as say, interruptible() as stop:
            found = library.trace(
                client.find(name),
                seconds,
                functions=functions or (),
                graph=graph,
                tree=tree or (),
                events=events or (),
                condition=condition,
                most=most << 20,
                limit=rows,
                stop=stop,
                say=say,
            )
    except HarnessError as error:
        raise fail(error, as_json=as_json, schema=_SCHEMA) from None
    if as_json:
        print_json(_json(found, name))
    else:
        _show(found)


def _json(found: Traced, name: str) -> dict[str, Any]:
    return {
        "schema": _SCHEMA,
        "summary": _summary(found),
        "next": _next(found),
        "vm": name,
        "tracer": found.tracer,
        "stopped": found.stopped,
        "note": found.note,
        "complete": found.complete,
        "lost": found.lost,
        "lines": found.count,
        "sums": [
            {
                "name": one.name,
                "count": one.count,
                **({} if one.total_us is None else {"us": one.total_us, "max_us": one.max_us}),
            }
            for one in found.sums[:_NAMES]
        ],
        "names": len(found.sums),
        "trace": [_line(line) for line in found.lines],
        "cursor": found.cursor,
        "raw": str(found.raw),
    }


def _line(line: Line) -> dict[str, Any]:
    value = {
        "kind": line.kind,
        "name": line.name,
        "time": line.time,
        "cpu": line.cpu,
        "comm": line.comm,
        "pid": line.pid,
        "caller": line.parent,
        "us": line.us,
        "depth": line.depth,
        "text": line.text,
    }
    return {name: content for name, content in value.items() if content not in ("", None)}


def _summary(found: Traced) -> str:
    text = f"{found.count} lines, {len(found.sums)} names"
    if found.sums:
        first = found.sums[0]
        text += f"; most: {first.name}, {first.count} times"
        text += (
            f", {first.total_us:.0f} us in all, {first.max_us:.0f} at most"
            if first.total_us is not None and first.max_us
            else ""
        )
    return text + (f"; {found.lost} events lost" if found.lost else "")


def _next(found: Traced) -> str:
    if found.stopped == "guest":
        return f"the VM ended meanwhile ({found.note}); kernloop vm list"
    if found.lost:
        return "events were lost: name fewer functions, filter the events, or trace fewer seconds"
    if found.stopped == "size":
        return "it was full before its time: raise --mb, or name fewer functions"
    if not found.count:
        return "nothing was traced: is it called at all? Run something that calls it meanwhile (vm exec --background)"
    if found.count > len(found.lines):
        return f"kernloop debug page {found.raw} --since {found.cursor}"
    return ""


def _show(found: Traced) -> None:
    from rich.table import Table

    out.print(escape(_summary(found)))
    if found.sums:
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("name")
        for column in ("times", "us in all", "us at most"):
            table.add_column(column, justify="right")
        for one in found.sums[:_NAMES]:
            times = ("", "") if one.total_us is None else (f"{one.total_us:.3f}", f"{one.max_us:.3f}")
            table.add_row(escape(one.name), str(one.count), *times)
        out.print(table)
    for line in found.lines:
        out.print(escape(_text(line)))
    out.print(f"trace      {escape(str(found.raw))}")
    if following := _next(found):
        out.print(f"  [bold]next[/]     {escape(following)}")


def _text(line: Line) -> str:
    if line.kind == "lost":
        return f"CPU {line.cpu}: {line.text} events lost"
    indent = "  " * (line.depth or 0)
    took = "" if line.us is None else f"  {line.us:.3f} us"
    tail = {"function": f" <- {line.parent}", "event": f": {line.text}", "enter": " {", "leave": " }"}.get(
        line.kind, ""
    )
    return f"{line.time:.6f} [{line.cpu}] {line.comm}-{line.pid}  {indent}{line.name}{tail}{took}"
