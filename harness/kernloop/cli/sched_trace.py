# SPDX-License-Identifier: Apache-2.0
"""`kernloop sched trace`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kernloop.cli.output import JsonFlag, err, escape, fail, out, print_json, progress
from kernloop.cli.vm_shared import NameArgument, interruptible
from kernloop.errors import HarnessError

if TYPE_CHECKING:
    from kernloop.sched.trace.latency import Spread
    from kernloop.sched.trace.record import Recording

__all__ = ["trace"]

_SCHEMA = "kernloop.sched-trace/1"
# So many tasks are printed; JSON has all.
_ROWS = 20


def trace(
    name: NameArgument,
    seconds: Annotated[float, typer.Option(min=0.01, help="So long, in the guest's time.")] = 5.0,
    file: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="The trace; in the VM's run directory if left out.")
    ] = None,
    task: Annotated[
        str, typer.Option(metavar="RE", help="Figures and queue moves of tasks with such names only.")
    ] = "",
    most: Annotated[int, typer.Option("--mb", min=1, max=60, help="At most so many MiB are recorded.")] = 60,
    as_json: JsonFlag = False,
) -> None:
    """A VM's scheduling as a Perfetto trace, and each task's waits.

    Switches, wake-ups, migrations, and moves between dispatch queues. Ctrl-C ends it early and keeps what there is. 0:
    recorded, even if events were lost, which is told. 2: bad input. 125: it could not be recorded.
    """
    from kernloop.sched.trace import record as library
    from kernloop.vm import client

    try:
        with progress(quiet=as_json) as say, interruptible() as stop:
            vm = client.find(name)
            found = library.record(vm, seconds, out=file, task=task, most=most << 20, stop=stop, say=say)
    except HarnessError as error:
        raise fail(error, as_json=as_json, schema=_SCHEMA) from None
    if as_json:
        print_json(_json(found, name))
    else:
        _show(found)


def _json(found: Recording, name: str) -> dict[str, Any]:
    measured = found.measured
    return {
        "schema": _SCHEMA,
        "summary": _summary(found),
        "next": _next(found),
        "vm": name,
        "trace": str(found.path.absolute()),
        "bytes": found.path.stat().st_size,
        "scheduler": found.scheduler,
        "states": list(found.states),
        "seconds": round((measured.end - measured.begin) / 1e9, 6),
        "stopped": found.stopped,
        "note": found.note,
        "events": measured.events,
        "complete": found.complete,
        "lost": {"events": measured.lost, "places": measured.gaps, "probe_hits": found.missed},
        "queue_moves": list(found.queues),
        "queue_moves_why": found.why,
        "tasks": [
            {
                "pid": one.pid,
                "comm": one.comm,
                "wakeup_us": _spread(one.wakeup),
                "delay_us": _spread(one.delay),
                "slice_us": _spread(one.slice),
                "migrations": one.migrations,
                "ran_us": _us(one.ran),
                "waiting_us": _us(one.waiting),
            }
            for one in measured.tasks
        ],
        "queues": [
            {"name": one.name, "inserts": one.inserts, "most": one.depth, "stay_us": _spread(one.stay)}
            for one in measured.dsqs
        ],
        "cpus": [{"cpu": one.cpu, "switches": one.switches, "busy_us": _us(one.busy)} for one in measured.cpus],
    }


def _spread(found: Spread) -> dict[str, float]:
    if not found.count:
        return {"count": 0}
    values = {"p50": found.p50, "p90": found.p90, "p99": found.p99, "max": found.max}
    return {"count": found.count, **{name: _us(value) for name, value in values.items()}}


def _us(nanoseconds: int) -> float:
    return round(nanoseconds / 1000, 3)


def _summary(found: Recording) -> str:
    measured = found.measured
    text = f"{measured.events} events in {(measured.end - measured.begin) / 1e9:.3g} s"
    if measured.tasks:
        worst = measured.tasks[0]
        text += f"; the longest wait for a CPU: {worst.comm}[{worst.pid}], {_time(worst.delay.max)}"
        text += ", and it still waits" if worst.waiting == worst.delay.max and worst.waiting else ""
    return text


def _next(found: Recording) -> str:
    if found.stopped == "guest":
        return f"the VM ended meanwhile ({found.note}); kernloop vm list"
    if found.measured.gaps or found.measured.lost:
        return "events were lost: record fewer seconds, or a guest with more memory (rings get a sixteenth of it)"
    if found.stopped == "size":
        return "it was full before its time: raise --mb, or record fewer seconds"
    return f"open {found.path.name} at ui.perfetto.dev, which reads it in the browser"


def _time(nanoseconds: int) -> str:
    for unit, size in (("s", 10**9), ("ms", 10**6), ("us", 10**3)):
        if nanoseconds >= size:
            return f"{nanoseconds / size:.3g} {unit}"
    return f"{nanoseconds} ns"


def _show(found: Recording) -> None:
    from rich.table import Table

    measured = found.measured
    out.print(escape(_summary(found)))
    if measured.tasks:
        out.print(_tasks(found))
        if len(measured.tasks) > _ROWS:
            out.print(f"[dim]and {len(measured.tasks) - _ROWS} more tasks: --json, --task RE[/]")
    if measured.dsqs:
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("dispatch queue")
        for column in ("inserts", "most at once", "stay p50", "p99", "max"):
            table.add_column(column, justify="right")
        for queue in sorted(measured.dsqs, key=lambda one: -one.inserts)[:_ROWS]:
            stay = queue.stay
            times = [_time(value) for value in (stay.p50, stay.p99, stay.max)] if stay.count else [""] * 3
            table.add_row(queue.name, str(queue.inserts), str(queue.depth), *times)
        out.print(table)
    length = max(measured.end - measured.begin, 1)
    cpus = "  ".join(f"{one.cpu}: {100 * one.busy / length:.0f} %" for one in measured.cpus)
    out.print(f"cpus busy  {cpus}")
    out.print(f"scheduler  {escape(found.scheduler or 'none')} ({' -> '.join(dict.fromkeys(found.states))})")
    lost = f"{measured.lost or 'some'} events lost in {measured.gaps} places" if measured.gaps else "nothing lost"
    out.print(f"complete   {lost}" + (f", {found.missed} probe hits missed" if found.missed else ""))
    if found.why and len(found.queues) < 2:
        err.print(f"[yellow]queue moves are not recorded:[/] {escape(found.why)}")
    out.print(f"trace      {escape(str(found.path))} ({found.path.stat().st_size >> 10} KiB)")
    out.print(f"  [bold]next[/]     {escape(_next(found))}")


def _tasks(found: Recording) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("task")
    for column in ("run delay p50", "p90", "p99", "max", "n", "wake-up p50", "p99", "max", "slice p50", "max"):
        table.add_column(column, justify="right")
    table.add_column("moved", justify="right")
    table.add_column("ran", justify="right")
    for one in found.measured.tasks[:_ROWS]:
        delay, wakeup, piece = one.delay, one.wakeup, one.slice
        cells = [_time(value) for value in (delay.p50, delay.p90, delay.p99, delay.max)] if delay.count else [""] * 4
        cells += [str(delay.count)]
        cells += [_time(value) for value in (wakeup.p50, wakeup.p99, wakeup.max)] if wakeup.count else [""] * 3
        cells += [_time(value) for value in (piece.p50, piece.max)] if piece.count else [""] * 2
        mark = " [red]waits[/]" if one.waiting and one.waiting == delay.max else ""
        table.add_row(f"{escape(one.comm)}[{one.pid}]{mark}".replace("[" + str(one.pid), "\\[" + str(one.pid)), *cells,
                      str(one.migrations), _time(one.ran))  # fmt: skip
    return table
