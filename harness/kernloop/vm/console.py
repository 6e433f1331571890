# SPDX-License-Identifier: Apache-2.0
"""The console of a guest under watch: its lines to crashes, and to the moments that others wait for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from kernloop.report.crash import Crash
from kernloop.report.engine import ConsoleParser
from kernloop.report.severity import Severity

__all__ = ["Console"]

_INIT = "kernloop-init: "
# kdb_local() in kernel/debug/kdb/kdb_main.c: from there on the kernel waits for whoever debugs it.
_ENTERING = "Entering kdb"
# By then a report has said what it is, and the task is still where it crashed: it prints.
_IN_REPORT = ("RIP: 0010:", "Call Trace:")


class Console:
    """Feed it lines as they come.

    `panic` and `sysrq` are set when the kernel says so, `oops` while it reports a crash that need not be its end yet,
    `panicked` when a dead one has no more to say; `init_said` is the last complaint of our init, `last_line` the event
    loop's time of the last line. `on_debugger` is called when the kernel enters its own debugger and nobody is
    connected to that. While `answering` it is kdb that prints, for one who asked: the log and the registers of a crash
    are no news then.
    """

    def __init__(self) -> None:
        self._found: dict[int, Crash] = {}
        self.panic = asyncio.Event()
        self.panicked = asyncio.Event()
        self.oops = asyncio.Event()
        self.last_line = 0.0
        self.sysrq = asyncio.Event()
        self.init_said = ""
        self.on_debugger: Callable[[], None] = lambda: None
        self.answering = False
        self._parser = ConsoleParser()

    def feed(self, line: str) -> None:
        self.last_line = asyncio.get_running_loop().time()
        if line.startswith(_ENTERING):
            self.on_debugger()
        if self.answering:
            # Lines are counted all the same.
            line = ""
        self._take(self._parser.feed(line))
        if "Kernel panic - not syncing" in line:
            self.panic.set()
            # The last line of vpanic() (kernel/panic.c), when all is printed; not where the machine resets.
            if "---[ end Kernel panic" in line:
                self.panicked.set()
        elif not self.oops.is_set() and any(word in line for word in _IN_REPORT):
            self._look_for_oops(self._parser.so_far())
        if line.startswith(_INIT):
            self.init_said = line.removeprefix(_INIT)
        if "sysrq: " in line:
            self.sysrq.set()

    @property
    def crashes(self) -> tuple[Crash, ...]:
        """What is known of by now, in the order of the console; also of a report that is still being printed."""
        return _ordered({**self._found, **{crash.start_line: crash for crash in self._parser.so_far()}})

    def finish(self) -> tuple[Crash, ...]:
        while crash := self._parser.finish():
            self._take(crash)
        return _ordered(self._found)

    # A crash that a later panic makes fatal comes a second time, from the same line.
    def _take(self, crash: Crash | None) -> None:
        if crash is not None:
            self._found[crash.start_line] = crash
            self._look_for_oops((crash,))

    def _look_for_oops(self, crashes: Iterable[Crash]) -> None:
        if not self.panic.is_set() and any(crash.severity is Severity.OOPS for crash in crashes):
            self.oops.set()

    def replay(self, text: bytes) -> None:
        """What a restored guest printed before it was frozen."""
        for line in text.split(b"\n")[:-1]:
            self.feed(line.rstrip(b"\r").decode(errors="replace"))


def _ordered(found: dict[int, Crash]) -> tuple[Crash, ...]:
    return tuple(found[start] for start in sorted(found))
