# SPDX-License-Identifier: Apache-2.0
"""`kernloop debug bpftrace`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from kernloop.cli.output import JsonFlag, escape, fail, out, print_json, progress
from kernloop.cli.vm_shared import NameArgument, interruptible
from kernloop.errors import HarnessError

if TYPE_CHECKING:
    from kernloop.debug.tracers.bpftrace import Traced
    from kernloop.debug.tracers.bpftrace_output import Bucket, Map, Row

__all__ = ["bpftrace"]

_SCHEMA = "kernloop.bpftrace/1"
_BAR = 40


def bpftrace(
    name: NameArgument,
    program: Annotated[str, typer.Argument(help="The program, or a file NAME.bt.")],
    seconds: Annotated[float, typer.Option(min=0.1, help="So long from when it is compiled.")] = 5.0,
    rows: Annotated[
        int, typer.Option(min=1, help="So many elements of a map, and lines; the heaviest, the last.")
    ] = 40,
    as_json: JsonFlag = False,
) -> None:
    """A bpftrace program on a VM: maps and histograms as data.

    Ctrl-C ends it early and keeps what there is. 0: it ran, even if events were lost, which is told. 1: bpftrace does
    not take the program, or the kernel does not have its probes. 2: bad input, or a kernel without BTF. 125: it could
    not be run.
    """
    from kernloop.debug.tracers import bpftrace as library
    from kernloop.vm import client

    try:
        with progress(quiet=as_json) as say, interruptible() as stop:
            text = library.program_text(program)
            found = library.trace(client.find(name), text, seconds, stop=stop, say=say)
    except HarnessError as error:
        raise fail(error, as_json=as_json, schema=_SCHEMA) from None
    if as_json:
        print_json(_json(found, name, rows))
    else:
        _show(found, rows)


def _json(found: Traced, name: str, rows: int) -> dict[str, Any]:
    output = found.output
    return {
        "schema": _SCHEMA,
        "summary": _summary(found),
        "next": _next(found),
        "vm": name,
        "stopped": found.stopped,
        "note": found.note,
        "complete": found.complete,
        "lost": output.lost,
        "probes": output.attached,
        "maps": [
            {
                "name": one.name,
                "kind": one.kind,
                "elements": len(one.rows),
                "rows": [_row(row) for row in one.rows[:rows]],
            }
            for one in output.maps
        ],
        "lines": list(output.lines[-rows:]),
        "lines_in_all": len(output.lines),
        "values": list(output.values[-rows:]),
        "complaints": list(found.complaints[:rows]),
        "bpftrace": found.version,
        "raw": str(found.raw),
    }


def _row(row: Row) -> dict[str, Any]:
    value = [_bucket(one) for one in row.value if one.count] if isinstance(row.value, tuple) else row.value
    return {
        **({"key": row.key} if row.key else {}),
        **({"stack": list(row.stack)} if row.stack else {}),
        "value": value,
    }


def _bucket(found: Bucket) -> dict[str, int | None]:
    return {"low": found.low, "high": found.high, "count": found.count}


def _summary(found: Traced) -> str:
    output = found.output
    if output.attached is None:
        return found.note or "it was ended before its probes were attached"
    parts = [f"{output.attached} probe{'s' if output.attached != 1 else ''}"]
    parts += [f"{len(output.maps)} map{'s' if len(output.maps) != 1 else ''}"] if output.maps else []
    parts += [f"{len(output.lines)} lines"] if output.lines else []
    parts += [f"{output.lost} events lost"] if output.lost else []
    return ", ".join(parts)


def _next(found: Traced) -> str:
    if found.stopped == "guest":
        return f"the VM ended meanwhile ({found.note}); kernloop vm list"
    if found.stopped == "killed":
        return "it took no notice of its end, so its maps are not here: count less often, or trace fewer seconds"
    if found.output.lost:
        return "events were lost: count in a map instead of printing, or narrow the probe with /condition/"
    if found.output.attached and not found.output.maps and not found.output.lines and not found.output.values:
        return "nothing was counted or printed: is the function called? debug ftrace VM --functions NAME shows it"
    return ""


def _show(found: Traced, rows: int) -> None:
    for line in found.output.lines[-rows:]:
        out.print(escape(line))
    for value in found.output.values[-rows:]:
        out.print(escape(str(value)))
    for one in found.output.maps:
        _show_map(one, rows)
    for complaint in found.complaints[:rows]:
        out.print(f"[yellow]{escape(complaint)}[/]")
    out.print(escape(_summary(found)))
    out.print(f"all of it  {escape(str(found.raw))}")
    if following := _next(found):
        out.print(f"  [bold]next[/]     {escape(following)}")


def _show_map(found: Map, rows: int) -> None:
    out.print(f"[bold]{escape(found.name)}[/]")
    for row in found.rows[:rows]:
        key = " <- ".join(filter(None, (row.key, *row.stack)))
        if isinstance(row.value, tuple):
            out.print(f"  {escape(key)}" if key else "")
            most = max((one.count for one in row.value), default=0) or 1
            for one in row.value:
                if one.count:
                    low, high = ("" if bound is None else bound for bound in (one.low, one.high))
                    out.print(f"    {low:>12} .. {high:<12} {one.count:>8} {'#' * (_BAR * one.count // most)}")
        else:
            out.print(f"  {escape(key)}: {escape(str(row.value))}" if key else f"  {escape(str(row.value))}")
    if len(found.rows) > rows:
        out.print(f"  [dim]and {len(found.rows) - rows} more: --rows {len(found.rows)}[/]")
