# SPDX-License-Identifier: Apache-2.0
"""Console text to crashes, one line at a time: the same code serves a live console and a file.

A header of the oops table opens an event; what follows is collected until the kernel closes the report (`---[ end
trace`, kernel/panic.c), talks of something else for a while, or announces the next one. A panic that only makes an
earlier report fatal ("Fatal exception", "panic_on_warn set") belongs to that report. Reports of several tasks or CPUs
may be under way at once, where printk says who writes. Nothing here raises on any text: lines may be cut, interleaved
or missing.

>>> [crash.title for crash in parse_console(["[    7.1] Kernel panic - not syncing: sysrq triggered crash"])]
['kernel panic: sysrq triggered crash']
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable
from dataclasses import replace

from .crash import Crash, most_severe
from .event import Event
from .frames import parse_frame
from .lines import Line, is_printk, read_line
from .oops_table import CONSEQUENCE, Row, match_header, may_hold_header
from .patterns import Pattern
from .severity import Severity

__all__ = ["ConsoleParser", "Crash", "most_severe", "parse_console"]

# Bounds: of an event's lines, of foreign lines that end it, of its tail after the end marker, of events at once.
_MAX_LINES = 3000
_MAX_FOREIGN = 64
_TAIL_LINES = 32
_MAX_EVENTS = 16
_MAX_EXCERPT = 40
# How far below its herald the header that tells more is.
_HERALD_REACH = 8
# How long a report that has no trace yet takes in what the same task says as its own.
_MERGE_REACH = 200

_END = Pattern(r"^---\[ end ")
# printk was interrupted in the line before, and says it again (kernel/printk/printk.c until 4.15).
_REPLAY = "** replaying previous printk message **"
# What a cloud's serial port says when it is gone.
_CUT_OFF = "serialport: VM disconnected"


class ConsoleParser:
    """Feed it a console; each call gives back the crash that this line completed, if any.

    `pending` is the crash so far of the first event still open: what a watcher of a live console reports when the guest
    falls silent. `finish()` closes it; where several are open, each call closes one more.
    """

    def __init__(self) -> None:
        self._number = 0
        self._offset = 0
        self._events: dict[str, Event] = {}
        self._done: deque[Crash] = deque()
        self._last: Crash | None = None
        self._booted = False

    @property
    def pending(self) -> Crash | None:
        return next((event.crash() for event in self._events.values() if not event.hollow), None)

    def so_far(self) -> tuple[Crash, ...]:
        """All that is known by now of reports that have not ended, in their order."""
        return (*self._done, *(event.crash() for event in self._events.values() if not event.hollow))

    @property
    def idle(self) -> bool:
        """Whether no event is open and no crash waits: only a header can change anything now."""
        return not self._events and not self._done

    def skip(self, lines: int, size: int, booted: bool) -> None:
        """Pass over lines of which the caller knows that none holds a header; only while idle."""
        self._number += lines
        self._offset += size
        self._booted |= booted

    def feed(self, raw: str, size: int | None = None, suspect: bool | None = None) -> Crash | None:
        """Take one line (with or without its newline); a crash comes back once its report has ended.

        `size` is what the line takes on the console, its newline included, where that is not its length in characters;
        `suspect` whether it holds a word of the table, if that is known.
        """
        self._number += 1
        start = self._offset
        self._offset += len(raw) + (not raw.endswith("\n")) if size is None else size
        if suspect is None:
            suspect = may_hold_header(raw)
        if not suspect and not self._events:
            self._booted = self._booted or is_printk(raw)
            return self._done.popleft() if self._done else None
        line = read_line(raw)
        if _REPLAY in line.text:
            started = self._number - 1
            self._events = {key: event for key, event in self._events.items() if event.start != started}
        if _CUT_OFF in line.text:
            for event in self._events.values():
                event.cut = True
        found = match_header(line.text, line.printk) if suspect else None
        if found and found[0].kind == "unexpected-reboot" and not self._booted:
            found = None
        self._booted = self._booted or line.printk
        if found is None or not self._header(*found, line, start):
            for event in list(self._events.values()):
                self._continue(event, line, start)
        return self._done.popleft() if self._done else None

    def finish(self) -> Crash | None:
        """The console has ended (or the guest is paused): the first event still open, if any."""
        while self._events:
            self._close(next(iter(self._events.values())))
        return self._done.popleft() if self._done else None

    # A header: of the report under way, of a new one, or (False) nothing that changes what the line is.
    def _header(self, row: Row, match: re.Match[str], line: Line, start: int) -> bool:
        event = self._events.get(line.context)
        if event and event.row.heralds and self._near(event) and row is not event.row:
            event.taken_over(row, match, line)
            self._extend(event, line, start)
            return True
        if event and self._belongs(event, row, line):
            event.panicked |= row.severity is Severity.PANIC
            self._extend(event, line, start)
            if event.tail is not None:
                event.tail = _TAIL_LINES
            for other in list(self._events.values()):
                if other is not event:
                    self._continue(other, line, start)
            return True
        if CONSEQUENCE.search(line.text):
            fatal = event or next((e for e in self._events.values() if e.row.severity is not Severity.EJECTED), None)
            if fatal and fatal.row.severity not in (Severity.PANIC, Severity.EJECTED):
                fatal.panicked = True
                self._extend(fatal, line, start)
                return True
            if event:
                self._close(event)
            if self._last and self._last.severity is not Severity.EJECTED:
                self._last = _made_fatal(self._last, line.text, self._number, self._offset)
                self._done.append(self._last)
                return True
        elif event:
            self._close(event)
        for other in list(self._events.values()):
            self._continue(other, line, start)
        if len(self._events) >= _MAX_EVENTS:
            self._close(next(iter(self._events.values())))
        self._events[line.context] = Event.opened(row, match, line, self._number, start, self._offset)
        return True

    def _near(self, event: Event) -> bool:
        return not event.has_body and self._number - event.start <= _HERALD_REACH

    # Whether a header is part of the report under way: its second sentence, or the panic that it ends in.
    def _belongs(self, event: Event, row: Row, line: Line) -> bool:
        if event.row.severity is Severity.EJECTED or row.severity is Severity.EJECTED:
            return False
        if row.severity is Severity.PANIC:
            if event.row.severity is Severity.PANIC:
                return False
            return bool(CONSEQUENCE.search(line.text)) or event.row.severity is Severity.OOPS
        if event.row.severity is Severity.PANIC:
            return False
        if row.follows:
            return True
        near = self._number - event.start < _MERGE_REACH
        return near and bool(line.caller) and not (event.frames or event.rip or event.row.bare)

    def _extend(self, event: Event, line: Line, start: int) -> None:
        event.collect(line)
        event.lines.append(line.text)
        event.end, event.end_byte, event.foreign = self._number, self._offset, 0
        if self._number - event.start >= _MAX_LINES:
            self._close(event)

    def _continue(self, event: Event, line: Line, start: int) -> None:
        text = line.text
        if event.row.severity is Severity.EJECTED:
            self._continue_ejected(event, text)
            return
        if not event.concerns(line) or not event.collect(line):
            event.foreign += 1
            if event.foreign >= _MAX_FOREIGN:
                self._close(event)
            return
        if text.strip():
            event.end, event.end_byte = self._number, self._offset
            event.lines.append(text)
        if event.tail is None:
            event.foreign = 0
        else:
            # Behind the end what looks like a part of a report keeps it open no longer: a boot's lines do as well.
            event.tail -= 1
        if _END.match(text):
            event.tail = _TAIL_LINES
        if event.tail == 0 or self._number - event.start >= _MAX_LINES:
            self._close(event)

    # sched_ext prints the reason, the message and the stack at once (kernel/sched/ext/ext.c, scx_log_sched_disable).
    def _continue_ejected(self, event: Event, text: str) -> None:
        prefix = f"sched_ext: {event.match['what']}: "
        if not event.frames and text.startswith(prefix):
            event.message = text.removeprefix(prefix).strip()
        elif frame := parse_frame(text):
            event.frames.append(frame)
        else:
            self._close(event)
            return
        event.lines.append(text)
        event.end, event.end_byte = self._number, self._offset

    def _close(self, event: Event) -> None:
        self._events = {context: other for context, other in self._events.items() if other is not event}
        if not event.hollow:
            self._last = event.crash()
            self._done.append(self._last)


def parse_console(lines: Iterable[str]) -> tuple[Crash, ...]:
    """All crashes of a whole console, in order; a report that a later panic made fatal appears once, as a panic."""
    parser = ConsoleParser()
    found = [crash for line in lines if (crash := parser.feed(line))]
    while last := parser.finish():
        found.append(last)
    latest = {crash.start_line: crash for crash in found}
    return tuple(latest[start] for start in sorted(latest))


def _made_fatal(crash: Crash, text: str, number: int, offset: int) -> Crash:
    excerpt = (*crash.excerpt[: _MAX_EXCERPT - 1], text[:300])
    return replace(crash, severity=Severity.PANIC, panicked=True, end_line=number, end=offset, excerpt=excerpt)
