# SPDX-License-Identifier: Apache-2.0
"""One line of a console or log, freed of what printk, a log daemon and a terminal put around it.

printk's own prefixes come from kernel/printk/printk.c: `info_print_prefix()` writes `<level>`, `[seconds.micros]` and,
with CONFIG_PRINTK_CALLER, `[T123]` (a task) or `[C1]` (a CPU in interrupt context), in this order; the extended form of
/dev/kmsg and netconsole is `info_print_ext_header()`. dmesg has human and relative times and names of levels;
journalctl and syslog daemons write date, host and `kernel:`, with or without printk's own time behind it.

>>> read_line("[   14.221206][  T123] sysrq: Trigger a crash\\r")
Line(text='sysrq: Trigger a crash', timestamp=14.221206, caller='T123', level=None, kernel=False)
>>> read_line("Nov 21 20:15:09 vm kernel: BUG: soft lockup").kernel
True
"""

from __future__ import annotations

from dataclasses import dataclass

from .patterns import Pattern

__all__ = ["Line", "is_printk", "read_line", "split_lines", "without_escapes"]

# Longer than any line that printk or a verifier writes, short enough that any number in it can be converted.
_MAX_LENGTH = 4000

# CSI and OSC sequences (firmware and systemd write both), then any two-byte escape.
_ANSI = Pattern(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[ -/]*[0-~]")
_CONTROL = Pattern(r"[\x00-\x08\x0b-\x1f\x7f]")

_LEVEL = Pattern(r"<([0-9]{1,3})>")
# Old kernels put the caller inside: `[    1.234567,0]` (arm64 vendor trees); dmesg -d the time since the line before.
_STAMP = Pattern(r"\[ *([0-9]{1,9}\.[0-9]{1,9})(?:,[0-9]+| <[ +]*[0-9.]+>)?\]")
_CALLER = Pattern(r"\s?\[ *([TC][0-9]{1,9})\](?= |$)")
_KMSG = Pattern(r"(?P<level>\d{1,3}),\d{1,20},(?P<usec>\d{1,18}),[-c+](?:,caller=(?P<caller>[TC]\d{1,9}))?[^;]{0,80};")
_FACILITY = Pattern(r"[a-z]{3,9}\d? *:(?P<level>emerg|alert|crit|err|warn|notice|info|debug) *: ")
_LEVELS = ("emerg", "alert", "crit", "err", "warn", "notice", "info", "debug")

_CLOCK = r"\d\d:\d\d:\d\d(?:[.,]\d{1,9})?"
_ISO = rf"\d{{4}}-\d\d-\d\d[T ]{_CLOCK}(?:Z|[+-]\d\d:?\d\d)?"
_DAY = r"[A-Z][a-z]{2}"
# dmesg -T, -e (relative to the line before) and what terminal programs put in brackets.
_HUMAN = Pattern(rf"\[(?:{_DAY} {_DAY} [ \d]\d {_CLOCK} \d{{4}}|{_DAY} ?[ \d]\d \d\d:\d\d|{_ISO}| *\+\d+\.\d+)\] ?")
# A log daemon's: date of syslog, journalctl (short-full, short-unix), ISO; then host and who said it.
_DATED = Pattern(rf"(?:{_DAY} [ \d]\d {_CLOCK}|(?:{_DAY} )?{_ISO}(?: [A-Z]{{2,5}})?|\d{{9,11}}\.\d{{6}}) ")
_SAID_BY_KERNEL = Pattern(r"(?:[\w.:-]{1,64} )?kernel(?:\[\d+\])?: ?")
_SAID_BY_PROGRAM = Pattern(r"[\w.-]{1,64} [\w.@:/-]{1,64}\[\d+\]: ")
# printk's own form, to the digit: believed in the middle of a line as well, behind what a program left without newline.
_INSIDE = Pattern(r"(?:<[0-9]{1,3}>)?\[ {0,4}\d{1,7}\.\d{6}\](?=[ \[])")
_PRINTK = Pattern(r"\[ *[0-9]{1,9}\.[0-9]{1,9}\]|\bkernel: ")


@dataclass(frozen=True)
class Line:
    """`text` keeps its own indentation, since a stack frame is told by it; `kernel`: a log says that the kernel wrote
    it, without printk's own prefix."""

    text: str
    timestamp: float | None = None
    caller: str | None = None
    level: int | None = None
    kernel: bool = False

    @property
    def printk(self) -> bool:
        """Whether the kernel wrote it, for sure."""
        return self.kernel or self.timestamp is not None or self.caller is not None or self.level is not None

    @property
    def context(self) -> str:
        """Who wrote it, as far as can be told: a task, a CPU, the kernel, or somebody."""
        return self.caller or ("kernel" if self.printk else "")


def is_printk(raw: str) -> bool:
    """Whether a line of the console carries a prefix of the kernel's: a cheap test."""
    return _PRINTK.search(raw) is not None


def read_line(raw: str, *, behind: bool = True) -> Line:
    """Split one console line; a line that printk did not write comes back with its text alone.

    `behind`: what the kernel wrote behind the rest of somebody else's line is the line.
    """
    text = without_escapes(raw.rstrip("\r\n"))
    if "\r" in text:
        text = text.rsplit("\r", 1)[1]
    text = text[:_MAX_LENGTH]
    if not text.isprintable():
        text = _CONTROL.sub("", text)
    return _own(text) or _wrapped(text) or (_behind(text) if behind else None) or Line(text)


# printk's prefix at the very beginning.
def _own(text: str) -> Line | None:
    level = timestamp = caller = None
    if text[:1] == "<" and (mark := _LEVEL.match(text)):
        level, text = int(mark[1]) & 7, text[mark.end() :]
    if text[:1] == "[":
        if mark := _STAMP.match(text):
            timestamp, text = float(mark[1]), text[mark.end() :]
        if mark := _CALLER.match(text):
            caller, text = mark[1], text[mark.end() :]
        if timestamp is not None or caller is not None:
            text = text.removeprefix(" ")
    if level is None and timestamp is None and caller is None:
        return None
    if timestamp is not None and caller is None:
        if "kernel" in text and (mark := _SAID_BY_KERNEL.match(text)) and mark[0].count(" ") == 2:
            inner = _own(text[mark.end() :]) or Line(text[mark.end() :])  # journalctl -o short-monotonic
            return Line(inner.text, timestamp, inner.caller, inner.level)
        if "]: " in text and _SAID_BY_PROGRAM.match(text):
            return Line(text)
    return Line(text, timestamp, caller, level)


# Behind what dmesg, a log daemon or a terminal program put in front.
def _wrapped(text: str) -> Line | None:
    if mark := _KMSG.match(text):
        return Line(text[mark.end() :], int(mark["usec"]) / 1e6, mark["caller"], int(mark["level"]) & 7)
    at, level, kernel = 0, None, False
    if mark := _FACILITY.match(text):
        at, level = mark.end(), _LEVELS.index(mark["level"])
    if mark := _HUMAN.match(text, at):
        at, kernel = mark.end(), True
    elif mark := _DATED.match(text, at):
        said = _SAID_BY_KERNEL.match(text, mark.end())
        if said is None and not _own(text[mark.end() :]):
            return None
        at, kernel = (said or mark).end(), True
    if at == 0:
        return None
    inner = _own(text[at:]) or Line(text[at:])
    level = inner.level if level is None else level
    return Line(inner.text, inner.timestamp, inner.caller, level, kernel=kernel and not inner.printk)


# Behind the rest of a line of somebody else, or of a prefix that lost bytes.
def _behind(text: str) -> Line | None:
    mark = _INSIDE.search(text) if "]" in text else None
    return _own(text[mark.start() :]) if mark else None


def without_escapes(text: str) -> str:
    """`text` without a terminal's escape sequences."""
    return _ANSI.sub("", text) if "\x1b" in text else text


def split_lines(text: str) -> list[str]:
    """The lines of a program's output, without carriage returns and none longer than any parser need look at."""
    return [line.rstrip("\r")[:_MAX_LENGTH] for line in text.split("\n")]
