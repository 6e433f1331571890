# SPDX-License-Identifier: Apache-2.0
"""One line of a serial console, freed of what printk and a terminal put around it.

printk's prefixes come from kernel/printk/printk.c: `info_print_prefix()` writes `<level>`, `[seconds.micros]` and, with
CONFIG_PRINTK_CALLER, `[T123]` (a task) or `[C1]` (a CPU in interrupt context), in this order. `dmesg -r` and /dev/kmsg
readers keep the level; a serial console drops it.

>>> read_line("[   14.221206][  T123] Kernel panic - not syncing: sysrq triggered crash\\r")
Line(text='Kernel panic - not syncing: sysrq triggered crash', timestamp=14.221206, caller='T123', level=None)
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
# Old kernels put the caller inside: `[    1.234567,0]` (arm64 vendor trees) or `[    1.234567] [T1]`.
_STAMP = Pattern(r"\[ *([0-9]{1,9}\.[0-9]{1,9})(?:,[0-9]+)?\]")
_CALLER = Pattern(r"\s?\[ *([TC][0-9]{1,9})\]")
# What may stand before printk's prefix: the log of a syslog daemon or journald, a prompt, printk's word on lost lines.
# What has been read is not read in another way (`++`): of many prompts in a line there are too many ways.
_BEFORE = Pattern(
    r"^(?:\*\* \d+ printk messages dropped \*\* |[^\[]{0,80} login: |[A-Z][a-z]{2} +\d+ [\d:]{8} \S+ kernel: "
    r"|\d{4}-\d\d-\d\d[T ][\d:.,+-]\S* (?:\S+ )?kernel(?:\[\d+\])?: )++(?=(?:<[0-9]{1,3}>)?\[ *\d+\.\d+)"
)
_PRINTK = Pattern(r"(?:<[0-9]{1,3}>)?\[ *[0-9]{1,9}\.[0-9]{1,9}\]")


@dataclass(frozen=True)
class Line:
    """`text` keeps its own indentation, since a stack frame is told by it."""

    text: str
    timestamp: float | None = None
    caller: str | None = None
    level: int | None = None

    @property
    def context(self) -> str:
        """Who wrote it, as far as can be told: a task, a CPU, the kernel, or somebody."""
        return self.caller or ("" if self.timestamp is None else "kernel")


def is_printk(raw: str) -> bool:
    """Whether a line of the console carries printk's prefix: a cheap test."""
    return _PRINTK.match(raw) is not None


def read_line(raw: str) -> Line:
    """Split one console line; a line that printk did not write comes back with its text alone."""
    text = raw.rstrip("\r\n")
    text = without_escapes(text)
    if "\r" in text:
        text = text.rsplit("\r", 1)[1]
    text = text[:_MAX_LENGTH]
    if not text.isprintable():
        text = _CONTROL.sub("", text)
    level = timestamp = caller = None
    if text[:1] not in ("[", "<") and (mark := _BEFORE.match(text)):
        text = text[mark.end() :]
    if mark := _LEVEL.match(text):
        level, text = int(mark[1]) & 7, text[mark.end() :]
    if mark := _STAMP.match(text):
        timestamp, text = float(mark[1]), text[mark.end() :]
        if mark := _CALLER.match(text):
            caller, text = mark[1], text[mark.end() :]
        text = text.removeprefix(" ")
    return Line(text, timestamp, caller, level)


def without_escapes(text: str) -> str:
    """`text` without a terminal's escape sequences."""
    return _ANSI.sub("", text) if "\x1b" in text else text


def split_lines(text: str) -> list[str]:
    """The lines of a program's output, without carriage returns and none longer than any parser need look at."""
    return [line.rstrip("\r")[:_MAX_LENGTH] for line in text.split("\n")]
