# SPDX-License-Identifier: Apache-2.0
"""`kernloop debug`: the group, and `debug pstore`: what a kernel that crashed had kept of its log."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from kernloop import runs
from kernloop.cli import (
    debug_bpftrace,
    debug_crash,
    debug_drgn,
    debug_ftrace,
    debug_gdb,
    debug_kgdb,
    debug_oops,
    debug_page,
    debug_triage,
)
from kernloop.cli.output import JsonFlag, escape, fail, out, print_json
from kernloop.debug.pstore import Entry, entries
from kernloop.errors import HarnessError

app = typer.Typer(
    help="Looking into a kernel: GDB, KGDB, drgn, crash, tracers, why it hangs, what it kept.", no_args_is_help=True
)
app.command("triage")(debug_triage.triage)
app.command("why-hung")(debug_drgn.why_hung)
app.command("why-oops")(debug_oops.why_oops)
app.command("locks")(debug_drgn.locks)
app.command("drgn")(debug_drgn.drgn)
app.command("gdb")(debug_gdb.gdb)
app.command("kgdb")(debug_kgdb.kgdb)
app.command("crash")(debug_crash.crash)
app.command("bpftrace")(debug_bpftrace.bpftrace)
app.command("ftrace")(debug_ftrace.ftrace)
app.command("page")(debug_page.page)


@app.command()
def pstore(
    run: Annotated[str, typer.Argument(help="A run's id, the beginning of one, or: last")] = "last",
    as_json: JsonFlag = False,
) -> None:
    """The records in ERST and ramoops of a run, and their crashes.

    Exit status: 0 also when there is none, 2 no such run.
    """
    try:
        path = runs.find(run)
    except HarnessError as error:
        raise fail(error, as_json=as_json) from None
    found = entries(path)
    if as_json:
        print_json({"schema": "kernloop.pstore/1", "run": str(path), "records": [_row(entry) for entry in found]})
        return
    if not found:
        out.print(f"{path.name}: the kernel kept nothing in pstore")
    for entry in found:
        record = entry.record
        why = f", {record.why} #{record.count}" if record.why else ""
        lines = record.text.count("\n")
        out.print(f"[bold]{record.name}[/]{why}, {lines} lines  {escape(str(entry.path))}")
        for one in entry.found:
            crash = one.crash
            where = f" in {crash.function}" if crash.function and crash.function not in crash.title else ""
            also = "on the console, too" if one.on_console else "[yellow]not on the console[/]"
            place = f"lines {crash.start_line} to {crash.end_line}"
            out.print(f"  {escape(crash.title + where)}  [dim]{place}[/], {also}")


def _row(entry: Entry) -> dict[str, Any]:
    record = entry.record
    return {
        "name": record.name,
        "store": record.store,
        "kind": record.kind,
        "why": record.why or None,
        "count": record.count or None,
        "time": record.time or None,
        "compressed": record.compressed,
        "path": str(entry.path),
        "lines": record.text.count("\n"),
        "reports": [
            {
                "kind": one.crash.kind,
                "title": one.crash.title,
                "function": one.crash.function,
                "severity": one.crash.severity.value,
                "lines": [one.crash.start_line, one.crash.end_line],
                "on_console": one.on_console,
            }
            for one in entry.found
        ],
    }
