# SPDX-License-Identifier: Apache-2.0
"""One report under way: which lines of the console are part of it, and the crash that it becomes.

A report's lines come from one task or one CPU. Where printk says which (CONFIG_PRINTK_CALLER), lines of others are
left out; where it does not, all that printk writes counts, and no line that a program wrote.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from .analysis import analyse
from .crash import Crash
from .frames import Frame, guilty, parse_frame, rip_function
from .kinds import family
from .lines import Line
from .oops_table import Row, is_unknown, match_header
from .patterns import Pattern
from .severity import Severity
from .stackline import program_counter
from .titles import alternatives, fingerprint

__all__ = ["Event"]

# Bounds: of what is looked at, of what is kept of it for the reader, of frames.
MAX_TEXT = 1500
_MAX_EXCERPT = 40
_MAX_FRAMES = 64
# A panic or a second deadlock behind so many lines is the echo of the report, with the same trace once more.
_ENOUGH, _ENOUGH_KMSAN = 22, 16
# No crash, but a trace of their own in the middle of another: fault injection, and allocations that failed.
_INTRUDER = Pattern(r"FAULT_INJECTION: forcing a failure|vmalloc: allocation failure:|FAULT_FLAG_ALLOW_RETRY missing")
_ECHO = Pattern(r"Kernel panic - not syncing|WARNING: possible circular locking dependency detected")

_PROCESS = Pattern(
    r"\bCPU: (?P<cpu>\d{1,6}) (?:UID: \d+ )?PID: (?P<pid>\d{1,10}) "
    r"(?:Comm: (?P<comm>.+?)(?: (?:Not tainted|Tainted: )|$))?"
)
_REGISTERS = Pattern(
    r"^(?:(?![RE]?IP)[RE]?[A-Z0-9]{1,3}|FS|GS|PKRU|DR\d|CR\d|EFLAGS|ORIG_RAX): {0,2}[0-9a-f]{4}|^RSP: |^Code: "
)
# Lines that end a trace; that prove a body (registers, the start of a trace); that only keep a report open.
_PART = Pattern(
    r"""^\s*+(?:(?P<finish></TASK>|Allocated\ by|Freed\ by|Last\ potentially|Modules\ linked|---\[\ end
    |The\ buggy\ address|->\ \#)
    |(?P<solid>RIP:\ 00(?:33|2b|23):|(?:(?![RE]?IP)[RE]?[A-Z0-9]{1,3}|FS|GS|PKRU|DR\d|CR\d|EFLAGS|ORIG_RAX)
    :\ {0,2}[0-9a-f]{4}|RSP:\ |Code:\ |Call\ [Tt]race:|<(?:TASK|IRQ|NMI|SOFTIRQ|\#DF)>|[Bb]acktrace:|stack\ backtrace:)
    |Hardware\ name|Workqueue|R?IP|Oops|Sched_ext|CR2|Kernel\ Offset|task:|(?:Not\ t|T)ainted|Read\ |Write\ |Dumping
    |PGD|\#PF|</?(?:TASK|IRQ|NMI|SOFTIRQ)|in_atomic|preempt|locks?\ held|no\ locks|\d+\ locks?
    |Memory\ state|====|----|"echo\ 0|rcu:|Sending\ NMI|NMI\ backtrace|irq\ event|but\ task|which\ lock|the\ existing
    |other\ info|Possible\ unsafe|CPU\d|\*\*\*\ DEADLOCK|lock\(|\(t=|\(detected\ by|page:|flags:|raw:|Rebooting\ in)""",
    re.VERBOSE,
)
_LOUD = Pattern(
    r"^(?:RIP|IP|CPU|Sched_ext|Workqueue|Hardware name|Call Trace|Read |Write |task:|---\[ end|PGD|#PF|The buggy|-> #)"
)
_MODULE = Pattern(r"(?:^|\s)([\w-]+)(?=\(|\s|$)")
# `? ` before the function, behind an address and the name of a stack that may be there.
_STALE = Pattern(r"^\s*+(?:\(?\[<?[0-9a-f]+>?\]\s*)*(?:<\w+>\s*)?\? ")
# One letter a flag, each at its place (kernel/panic.c print_tainted), then the release.
_TAINTED = Pattern(r"\bTainted: (?P<flags>[A-Z](?: *[A-Z](?![\w.]))*)")


@dataclass
class Event:
    """What is known so far of a report."""

    row: Row
    match: re.Match[str]
    header: Line
    start: int
    end: int
    start_byte: int
    end_byte: int
    message: str
    lines: list[str]
    text: list[str]
    stale: list[tuple[int, str]] = field(default_factory=list)
    rip: Frame | None = None
    frames: list[Frame] = field(default_factory=list)
    cpu: int | None = None
    comm: str | None = None
    pid: int | None = None
    tainted: str = ""
    modules: tuple[str, ...] = ()
    panicked: bool = False
    trace_done: bool = False
    has_body: bool = False
    echo: bool = False
    all_cpus: bool = False
    cut: bool = False
    foreign: int = 0
    tail: int | None = None

    @classmethod
    def opened(cls, row: Row, match: re.Match[str], line: Line, number: int, start: int, end: int) -> Event:
        known = match.groupdict()
        return cls(
            row,
            match,
            line,
            number,
            number,
            start,
            end,
            line.text.strip(),
            [line.text],
            [line.text],
            cpu=_number(known.get("cpu")),
            comm=known.get("comm"),
            pid=_number(known.get("pid")),
            panicked=row.severity is Severity.PANIC,
        )

    def taken_over(self, row: Row, match: re.Match[str], line: Line) -> None:
        """A header that tells more than the one that opened the report."""
        self.row, self.match, self.text = row, match, []
        self.panicked |= row.severity is Severity.PANIC
        known = match.groupdict()
        self.cpu, self.pid = _number(known.get("cpu")), _number(known.get("pid"))
        self.comm = known.get("comm")

    @property
    def hollow(self) -> bool:
        """A word of alarm without a body: a note of the kernel, or of a program that writes to /dev/kmsg.

        Not where a line begins with `BUG:`, nor in a log with levels, which is not what a console shows.
        """
        if self.has_body or self.frames or not is_unknown(self.row):
            return False
        return self.match.start() > 0 if self.row.kind == "bug" else self.header.level is None

    def concerns(self, line: Line) -> bool:
        """Whether a line comes from where the report comes from."""
        if line.context == self.header.context:
            return True
        return self.all_cpus and line.context.startswith("C")

    def collect(self, line: Line) -> bool:
        """Take in one line of the report; False when it does not look like a part of one."""
        text = line.text
        if self.row.severity is not Severity.EJECTED:
            self._analysed(line)
        if "CPU" in text:
            if "Sending NMI from CPU" in text:
                self.all_cpus = True
            if process := _PROCESS.search(text):
                self._process(process, text)
                return True
        if "+0x" in text:
            if frame := parse_frame(text):
                self.has_body = True
                if not self.trace_done and len(self.frames) < _MAX_FRAMES:
                    self.frames.append(frame)
                return True
            if rip := rip_function(text):
                self.has_body = True
                # Below frames it is where an interrupt or a fault came from.
                self.rip = self.rip or (None if self.frames else rip)
                return True
        part = _PART.match(text)
        if part is None:
            return not text.strip()
        if part.lastgroup == "finish":
            if text.startswith("Modules linked in:"):
                self.modules = self.modules or tuple(_MODULE.findall(text[len("Modules linked in:") :]))
            self.trace_done = self.trace_done or bool(self.frames)
        else:
            self.has_body |= part.lastgroup == "solid"
        return True

    def _process(self, process: re.Match[str], text: str) -> None:
        self.has_body = True
        if self.pid is None or self.comm is None or self.cpu is None:
            self.cpu = int(process["cpu"])
            self.comm = process["comm"] or self.comm
            self.pid = int(process["pid"])
        if tainted := _TAINTED.search(text):
            self.tainted = self.tainted or " ".join(tainted["flags"].split())

    # Lines for the analysis: without frames that may be stale, and without the echo of the report in a panic.
    def _analysed(self, line: Line) -> None:
        text = line.text
        if self.echo or len(self.text) >= MAX_TEXT:
            return
        if "<EOI>" not in text:
            if " ? " in text and (stale := _STALE.match(text)):
                self.stale.append((len(self.text), text[stale.end() :]))
                return
            if text.endswith(" (unreliable)"):
                return
        if len(self.text) >= (_ENOUGH_KMSAN if "KMSAN" in self.row.header else _ENOUGH) and _ECHO.search(text):
            self.echo = True
            return
        if not line.caller and _INTRUDER.search(text):
            self.echo = True
            return
        if "Disabling lock debugging due to kernel taint" not in text:
            self.text.append(text)

    # A jump to where no code is leaves nothing to unwind from: all frames are uncertain, and the first is the caller.
    def _likely(self) -> list[str]:
        if self.rip is not None or not self.frames or any(frame.reliable for frame in self.frames):
            return []
        if not any(program_counter(text) == "" for text in self.text):
            return []
        lines = list(self.text)
        for at, text in reversed(self.stale):
            lines.insert(at, f" {text}")
        return lines

    def crash(self) -> Crash:
        """The crash that this report is, as far as it goes."""
        from .details import details  # late: most consoles have no crash

        found = analyse(self.text or [self.header.text])
        if likely := self._likely():
            found = replace(analyse(likely), corrupted=found.corrupted)
        row = found.row or self.row
        function, title, kind = found.function, found.title, found.kind
        more = details(kind, self.text)
        if row.severity is Severity.EJECTED:
            words = {"what": "", "reason": ""} | {name: text for name, text in found.groups if text}
            function, title = None, row.title.format(**words)
        elif kind == "workqueue-lockup" and more and (running := [work for work in more.works if work.running]):
            function = running[0].function  # the trace is the watchdog's
        elif function is None and not row.needs and (not found.corrupted or row.severity is Severity.PANIC):
            function = guilty([self.rip] if self.rip else []) or guilty(self.frames)
        return Crash(
            kind,
            Severity.PANIC if self.panicked else row.severity,
            title,
            function,
            self.message,
            self.cpu,
            self.comm,
            self.pid,
            self.start,
            self.end,
            tuple(self.frames),
            _excerpt(self.lines),
            self.panicked,
            family(kind),
            alternatives(kind, title, function),
            found.corrupted or ("the console was cut off while it was printed" if self.cut else ""),
            fingerprint(kind, function, self.frames),
            self.modules,
            self.tainted,
            self.start_byte,
            self.end_byte,
            more,
        )


# The lines that a reader needs: registers, code bytes and stale frames go, and so does all below the bound.
def _excerpt(lines: list[str]) -> tuple[str, ...]:
    kept = [
        text for text in lines if text.strip() and not _REGISTERS.match(text) and not text.lstrip().startswith("? ")
    ]
    if len(kept) > _MAX_EXCERPT:
        loud = [text for text in kept[_MAX_EXCERPT // 2 :] if _LOUD.match(text) or match_header(text)]
        rest = _MAX_EXCERPT - min(len(loud), _MAX_EXCERPT // 4)
        shown = set(kept[:rest])
        kept = kept[:rest] + [text for text in loud if text not in shown]
    return tuple(text[:300] for text in kept[:_MAX_EXCERPT])


def _number(digits: str | None) -> int | None:
    return int(digits[:18]) if digits else None
