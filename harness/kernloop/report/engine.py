# SPDX-License-Identifier: Apache-2.0
"""Console text to crashes, one line at a time: the same code serves a live console and a file.

A header of the oops table opens an event; what follows is collected until the kernel closes the report (`---[ end
trace`, kernel/panic.c), talks of something else for a while, or announces the next one. A panic that only makes an
earlier report fatal ("Fatal exception", "panic_on_warn set") belongs to that report. Nothing here raises on any text:
lines may be cut, interleaved or missing.

>>> [crash.title for crash in parse_console(["[    7.1] Kernel panic - not syncing: sysrq triggered crash"])]
['kernel panic: sysrq triggered crash']
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from .crash import Crash, most_severe
from .frames import Frame, guilty, parse_frame, rip_function
from .lines import Line, read_line
from .oops_table import CONSEQUENCE, Row, match_header, may_hold_header
from .patterns import Pattern
from .severity import Severity

__all__ = ["ConsoleParser", "Crash", "most_severe", "parse_console"]

# Bounds: of an event's lines, of what is kept of it, of foreign lines that end it, of its tail after the end marker.
_MAX_LINES = 400
_MAX_EXCERPT = 40
_MAX_FRAMES = 64
_MAX_FOREIGN = 12
_TAIL_LINES = 32

_PROCESS = Pattern(
    r"\bCPU: (?P<cpu>\d+) (?:UID: \d+ )?PID: (?P<pid>\d+) (?:Comm: (?P<comm>.+?)(?: (?:Not tainted|Tainted: )|$))?"
)
_REGISTERS = Pattern(
    r"^(?:(?![RE]?IP)[RE]?[A-Z0-9]{1,3}|FS|GS|PKRU|DR\d|CR\d|EFLAGS|ORIG_RAX): {0,2}[0-9a-f]{4}|^RSP: |^Code: "
)
_USER_MODE = Pattern(r"^RIP: 0033:|^RIP: 002b:|^RIP: 0023:")
_TRACE_START = Pattern(r"^\s*Call [Tt]race:|^\s*<(?:TASK|IRQ|NMI|SOFTIRQ|#DF)>|^Backtrace:|^stack backtrace:")
_TRACE_END = Pattern(
    r"^\s*</TASK>|^(?:Allocated by|Freed by|Last potentially|Modules linked|---\[ end|The buggy address|-> #)"
)
# Lines that belong to a report and say nothing by themselves: they only keep it open.
_BODY = Pattern(
    r"""^\s*(?:Hardware\ name|Workqueue|R?IP|Oops|Sched_ext|CR2|Kernel\ Offset|task:|(?:Not\ t|T)ainted|Read\ |Write\s
    |Dumping|PGD|\#PF|</?(?:TASK|IRQ|NMI|SOFTIRQ)|in_atomic|preempt|locks?\ held|no\ locks|\d+\ locks?|stack\ backtrace
    |Memory\ state|====|----|"echo\ 0|rcu:|Sending\ NMI|NMI\ backtrace|irq\ event|but\ task|which\ lock|the\ existing
    |other\ info|Possible\ unsafe|CPU\d|\*\*\*\ DEADLOCK|lock\(|\(t=|\(detected\ by|page:|flags:|raw:)""",
    re.VERBOSE,
)
_END = Pattern(r"^---\[ end ")
_LOUD = Pattern(
    r"^(?:RIP|IP|CPU|Sched_ext|Workqueue|Hardware name|Call Trace|Read |Write |task:|---\[ end|PGD|#PF|The buggy|-> #)"
)


# What is known so far of the event under way.
@dataclass
class _Event:
    row: Row
    match: re.Match[str]
    header: Line
    start: int
    end: int
    message: str
    lines: list[str]
    rip: Frame | None = None
    frames: list[Frame] = field(default_factory=list)
    cpu: int | None = None
    comm: str | None = None
    pid: int | None = None
    panicked: bool = False
    trace_done: bool = False
    has_body: bool = False
    foreign: int = 0
    tail: int | None = None


class ConsoleParser:
    """Feed it a console; each call gives back the crash that this line completed, if any.

    `pending` is the crash so far of an event still open: what a watcher of a live console reports when the guest falls
    silent. `finish()` closes it.
    """

    def __init__(self) -> None:
        self._number = 0
        self._event: _Event | None = None
        self._last: Crash | None = None

    @property
    def pending(self) -> Crash | None:
        return _crash(self._event) if self._event else None

    def feed(self, raw: str) -> Crash | None:
        """Take one line (with or without its newline); a crash comes back once its report has ended."""
        self._number += 1
        if self._event is None and not may_hold_header(raw):
            return None
        line = read_line(raw)
        found = match_header(line.text)
        event = self._event
        if found is None:
            return self._continue(event, line) if event else None
        row, match = found
        if event and self._belongs(event, row, line):
            event.panicked |= row.severity is Severity.PANIC
            event.lines.append(line.text)
            event.end, event.foreign = self._number, 0
            if event.tail is not None:
                event.tail = _TAIL_LINES
            return None
        done = self._close()
        last = self._last
        if last and last.severity is not Severity.EJECTED and CONSEQUENCE.search(line.text):
            self._last = _made_fatal(last, line.text, self._number)
            return self._last
        self._open(row, match, line)
        return done

    def finish(self) -> Crash | None:
        """The console has ended (or the guest is paused): the event still open, if any."""
        return self._close()

    def _open(self, row: Row, match: re.Match[str], line: Line) -> None:
        known = match.groupdict()
        self._event = _Event(
            row,
            match,
            line,
            self._number,
            self._number,
            line.text.strip(),
            [line.text],
            cpu=_number(known.get("cpu")),
            comm=known.get("comm"),
            pid=_number(known.get("pid")),
            panicked=row.severity is Severity.PANIC,
        )

    def _close(self) -> Crash | None:
        event, self._event = self._event, None
        if event is None:
            return None
        self._last = _crash(event)
        return self._last

    # Whether a header is part of the report under way: its second sentence, or the panic that it ends in.
    def _belongs(self, event: _Event, row: Row, line: Line) -> bool:
        if row.severity is Severity.PANIC:
            fatal = event.row.severity not in (Severity.EJECTED, Severity.PANIC) and CONSEQUENCE.search(line.text)
            return bool(fatal) or event.row.severity is Severity.OOPS
        if event.row.severity in (Severity.PANIC, Severity.EJECTED) or row.severity is Severity.EJECTED:
            return False
        return not event.has_body and self._number - event.start <= 8

    def _continue(self, event: _Event, line: Line) -> Crash | None:
        text = line.text
        if event.row.severity is Severity.EJECTED:
            return self._continue_ejected(event, text)
        elsewhere = bool(event.header.caller and line.caller and event.header.caller != line.caller)
        if elsewhere and event.row.severity is not Severity.HANG:
            return self._foreign(event)
        if not _collect(event, text):
            return self._foreign(event)
        if text.strip():
            event.end, event.foreign = self._number, 0
            event.lines.append(text)
        if event.tail is not None:
            event.tail -= 1
        if _END.match(text):
            event.tail = _TAIL_LINES
        if event.tail == 0 or self._number - event.start >= _MAX_LINES:
            return self._close()
        return None

    def _foreign(self, event: _Event) -> Crash | None:
        event.foreign += 1
        return self._close() if event.foreign >= _MAX_FOREIGN else None

    # sched_ext prints the reason, the message and the stack at once (kernel/sched/ext/ext.c, scx_log_sched_disable).
    def _continue_ejected(self, event: _Event, text: str) -> Crash | None:
        prefix = f"sched_ext: {event.match['what']}: "
        if not event.frames and text.startswith(prefix):
            event.message = text.removeprefix(prefix).strip()
        elif frame := parse_frame(text):
            event.frames.append(frame)
        else:
            return self._close()
        event.lines.append(text)
        event.end = self._number
        return None


def parse_console(lines: Iterable[str]) -> tuple[Crash, ...]:
    """All crashes of a whole console, in order; a report that a later panic made fatal appears once, as a panic."""
    parser = ConsoleParser()
    found = [crash for line in lines if (crash := parser.feed(line))]
    if last := parser.finish():
        found.append(last)
    latest = {crash.start_line: crash for crash in found}
    return tuple(latest[start] for start in sorted(latest))


# Take in one line of the report; False when it does not look like a part of one.
def _collect(event: _Event, text: str) -> bool:
    if process := _PROCESS.search(text):
        event.has_body = True
        if event.pid is None or event.comm is None or event.cpu is None:
            event.cpu = int(process["cpu"])
            event.comm = process["comm"] or event.comm
            event.pid = int(process["pid"])
        return True
    if _TRACE_END.match(text):
        event.trace_done = event.trace_done or bool(event.frames)
        return True
    if _TRACE_START.match(text):
        event.has_body = True
        return True
    if _USER_MODE.match(text) or _REGISTERS.match(text):
        event.has_body = True
        return True
    if rip := rip_function(text):
        event.has_body = True
        event.rip = event.rip or rip
        return True
    if frame := parse_frame(text):
        event.has_body = True
        if not event.trace_done and len(event.frames) < _MAX_FRAMES:
            event.frames.append(frame)
        return True
    return bool(_BODY.match(text)) or not text.strip()


def _crash(event: _Event) -> Crash:
    known = {name: value for name, value in event.match.groupdict().items() if value}
    function = _guilty(event, known.get("func"))
    title = event.row.title
    if function is None:
        title = title.replace(" in {func}", "").replace(" from {func}", "")
    words = {"what": "", "reason": "", **known, "func": function or ""}
    return Crash(
        event.row.kind,
        Severity.PANIC if event.panicked else event.row.severity,
        title.format(**words).strip(),
        function,
        event.message,
        event.cpu,
        event.comm,
        event.pid,
        event.start,
        event.end,
        tuple(event.frames),
        _excerpt(event.lines),
        event.panicked,
    )


# The function that the header names, else the one that the CPU was in, else the first frame; none that only reports.
def _guilty(event: _Event, named: str | None) -> str | None:
    if event.row.severity is Severity.EJECTED:
        return None
    first = ([Frame(named)] if named else []) + ([event.rip] if event.rip else [])
    return guilty(first) or guilty(event.frames)


# The lines that a reader needs: registers, code bytes and stale frames go, and so does all below the bound.
def _excerpt(lines: list[str]) -> tuple[str, ...]:
    kept = [
        text for text in lines if text.strip() and not _REGISTERS.match(text) and not text.lstrip().startswith("? ")
    ]
    if len(kept) > _MAX_EXCERPT:
        loud = [text for text in kept[_MAX_EXCERPT // 2 :] if _LOUD.match(text) or match_header(text)]
        rest = _MAX_EXCERPT - min(len(loud), _MAX_EXCERPT // 4)
        kept = kept[:rest] + [text for text in loud if text not in kept[:rest]]
    return tuple(text[:300] for text in kept[:_MAX_EXCERPT])


def _made_fatal(crash: Crash, text: str, number: int) -> Crash:
    excerpt = (*crash.excerpt[: _MAX_EXCERPT - 1], text[:300])
    return replace(crash, severity=Severity.PANIC, panicked=True, end_line=number, excerpt=excerpt)


def _number(digits: str | None) -> int | None:
    return int(digits) if digits else None
