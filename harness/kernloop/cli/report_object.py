# SPDX-License-Identifier: Apache-2.0
"""A report of `kernloop report` as JSON and as lines for people."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from kernloop.cli.output import escape, out
from kernloop.kernel import hangs
from kernloop.present import plain
from kernloop.present.account import place
from kernloop.present.decoded import decoded_lines
from kernloop.present.logs import Log, scx_of
from kernloop.present.text import printable
from kernloop.report.advice import next_step
from kernloop.report.causes import Cause, causes
from kernloop.report.crash import Crash
from kernloop.report.hang import Hang, tells_of_hang
from kernloop.runs import read_json

if TYPE_CHECKING:
    from kernloop.report.symbols import Decoded

__all__ = ["hang_in", "print_crash", "report_object", "reports_object"]

_SCHEMA = "kernloop.report/1"
_PANIC = b"Kernel panic - not syncing"
# kernloop's own NMI ends a kernel that does not answer (vm/session.py).
_NMI = "NMI: Not continuing"
_ASKED = b"sysrq: Show "
Shown = tuple[Crash, "Decoded | None"]


def report_object(log: Log, shown: Sequence[Shown], crashes: int) -> dict[str, Any]:
    """The first report of a log that has so many; `kind` is None where nothing crashed."""
    head = {"schema": _SCHEMA, "source": log.name, **_run(log)}
    about = _object(log, *shown[0], None) if shown else {"kind": None, "hang": plain(hang_in(log, None))}
    return {**head, **about, "panicked": _PANIC in log.data, "crashes": crashes}


def reports_object(log: Log, shown: Sequence[Shown]) -> dict[str, Any]:
    """All reports of a log, the first cause first."""
    found = causes([crash for crash, _ in shown])
    return {
        "schema": "kernloop.reports/1",
        "source": log.name,
        **_run(log),
        "panicked": _PANIC in log.data,
        "reports": [_object(log, *one, cause) for one, cause in zip(shown, found, strict=True)],
    }


# What the run that a console is of was, and how it was judged.
def _run(log: Log) -> dict[str, Any]:
    if log.run is None:
        return {}
    spec, verdict = read_json(log.run / "spec.json"), read_json(log.run / "verdict.json")
    known = {"id": log.run.name, **{name: spec.get(name) for name in ("verb", "kernel", "command")}}
    known |= {name: verdict.get(name) for name in ("verdict", "summary")}
    return {"run": {name: value for name, value in known.items() if value}}


def _object(log: Log, crash: Crash, decoded: Decoded | None, cause: Cause | None) -> dict[str, Any]:
    return {
        "schema": _SCHEMA,
        "kind": crash.kind,
        "family": crash.family,
        "severity": crash.severity.value,
        "title": crash.title,
        "function": crash.function,
        "alt_titles": list(crash.alt_titles),
        "corrupted": bool(crash.corrupted),
        "reason": crash.corrupted or None,
        "panicked": crash.panicked,
        "fingerprint": crash.fingerprint,
        "message": crash.message,
        "frames": [vars(frame) for frame in crash.frames],
        "modules": list(crash.modules),
        "tainted": crash.tainted or None,
        "cpu": crash.cpu,
        "comm": crash.comm,
        "pid": crash.pid,
        "start": crash.start,
        "end": crash.end,
        "start_line": crash.start_line,
        "end_line": crash.end_line,
        "details": plain(crash.details) if crash.details else None,
        "scx": plain(scx_of(log, crash)),
        "hang": plain(hang_in(log, crash)),
        "cause": plain(cause) if cause else None,
        "excerpt": list(crash.excerpt),
        "decoded": plain(decoded),
        "next": _next(log, crash, decoded),
    }


def hang_in(log: Log, crash: Crash | None) -> Hang | None:
    """Which CPU spins where and who waits for what: of a report about a hang, or of a console that was asked for its
    tasks and CPUs. None where the report is about something else.
    """
    about = crash is not None and (crash.family == "hang" or _NMI in crash.message)
    if not about and _ASKED not in log.data and not (crash is None and tells_of_hang(log.data)):
        return None
    if log.run:
        return hangs.seen(log.run)
    return hangs.in_console(log.data[crash.start if crash and about else 0 :])


def print_crash(log: Log, crash: Crash, decoded: Decoded | None) -> None:
    """The report for people."""
    out.print(f"[bold red]{escape(crash.title)}[/]")
    at = f", function {crash.function}" if crash.function else ""
    out.print(f"  kind {crash.kind}{escape(at)}, fingerprint {crash.fingerprint}")
    who = f", CPU {crash.cpu}, {crash.comm}[{crash.pid}]" if crash.pid is not None else ""
    out.print(f"  {escape(log.name)} lines {crash.start_line} to {crash.end_line}{escape(who)}")
    if crash.corrupted:
        out.print(f"  [yellow]corrupted:[/] {escape(crash.corrupted)}")
    # The decoded trace stands for the console's.
    instead = decoded is not None and decoded.guilty is not None
    for line in takewhile(_above_trace, crash.excerpt) if instead else crash.excerpt:
        out.print(f"  | {escape(line)}")
    for line in decoded_lines(decoded) if decoded else ():
        out.print(f"  {escape(printable(line))}")
    if hung := hang_in(log, crash):
        out.print(f"  hang: {escape(hung.summary)}")
    if ended := scx_of(log, crash):
        for name in ("message", "cause", "cure", "placement"):
            if said := getattr(ended, name):
                out.print(f"  {name}: {escape(said)}")
    out.print(f"  [bold]next:[/] {escape(_next(log, crash, decoded))}")


def _next(log: Log, crash: Crash, decoded: Decoded | None) -> str:
    lines = decoded is not None and decoded.guilty is not None
    return next_step(crash, place(log.run, log.name), decoded=lines)


def _above_trace(line: str) -> bool:
    return not line.strip().startswith("Call Trace:")
