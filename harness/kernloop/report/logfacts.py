# SPDX-License-Identifier: Apache-2.0
"""What a console log says of its own machine: the kernel, its command line, the hardware.

The banner and the command line are printed once a boot (init/main.c), release, version and preemption model with every
stack (lib/dump_stack.c, dump_stack_print_info). What is not there stays empty.

>>> of_log(b"CPU: 0 PID: 1 Comm: sh Not tainted 7.3.4 #1 PREEMPT(lazy)\\n").version
'#1 PREEMPT(lazy)'
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .lines import split_lines, without_escapes

__all__ = ["LogFacts", "of_log"]

# How far before a report its stack's head may stand, and how far behind its header; bytes of a line.
_REACH = 16 << 10
_MAX = 1000
_BANNER = b"Linux version "
_COMMAND = re.compile(rb"[Cc]ommand line: ")
_HEAD = re.compile(
    r"\bComm: .{0,40}?(?:Not tainted|Tainted: [A-Z ]{1,40}?) +(?P<release>\d+\.\d\S*) (?P<version>#[^\r\n]{1,120})"
)
_HARDWARE = re.compile(r"Hardware name: (?P<hardware>[^\r\n]{1,200})")


@dataclass(frozen=True)
class LogFacts:
    """`banner` is the line `Linux version ...`, `version` the build's number, date and preemption model."""

    release: str = ""
    version: str = ""
    banner: str = ""
    command_line: str = ""
    hardware: str = ""

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """What is known, for people."""
        told = {
            "release": f"{self.release} {self.version}".strip(),
            "banner": self.banner,
            "command line": self.command_line,
            "hardware": self.hardware,
        }
        return tuple((name, text) for name, text in told.items() if text)


def of_log(log: bytes, start: int = 0, end: int | None = None) -> LogFacts:
    """What `log` says of the boot that the bytes from `start` to `end` (a report's) are of."""
    end = len(log) if end is None else end
    around = "\n".join(split_lines(log[start : min(end + 200, start + _REACH)].decode(errors="replace")))
    around = without_escapes(around)
    head, hardware = _HEAD.search(around), _HARDWARE.search(around)
    # With no reports the whole is looked at: the last boot is the one that counts.
    before = start if start else end
    at = log.rfind(_BANNER, 0, before)
    banner = _line(log, at)
    release = head["release"] if head else banner.removeprefix(_BANNER.decode()).partition(" ")[0]
    command = _COMMAND.search(log, at, before) if at >= 0 else None
    return LogFacts(
        release,
        " ".join(head["version"].split()) if head else "",
        banner,
        _line(log, command.end()) if command else "",
        hardware["hardware"].strip() if hardware else "",
    )


# From `at` to the end of its line.
def _line(log: bytes, at: int) -> str:
    if at < 0:
        return ""
    text = log[at : at + _MAX].decode(errors="replace")
    return without_escapes(text.partition("\n")[0]).strip()
