# SPDX-License-Identifier: Apache-2.0
"""The console of a guest under watch: its lines to crashes, and to the moments that others wait for."""

from __future__ import annotations

import asyncio

from kernloop.report.crash import Crash
from kernloop.report.engine import ConsoleParser

__all__ = ["Console"]

_INIT = "kernloop-init: "


class Console:
    """Feed it lines as they come.

    `panic` and `sysrq` are set when the kernel says so, `panicked` when a dead one has no more to say; `init_said` is
    the last complaint of our init, `last_line` the event loop's time of the last line.
    """

    def __init__(self) -> None:
        self._found: dict[int, Crash] = {}
        self.panic = asyncio.Event()
        self.panicked = asyncio.Event()
        self.last_line = 0.0
        self.sysrq = asyncio.Event()
        self.init_said = ""
        self._parser = ConsoleParser()

    def feed(self, line: str) -> None:
        self.last_line = asyncio.get_running_loop().time()
        self._take(self._parser.feed(line))
        if "Kernel panic - not syncing" in line:
            self.panic.set()
            # The last line of vpanic() (kernel/panic.c), when all is printed; not where the machine resets.
            if "---[ end Kernel panic" in line:
                self.panicked.set()
        if line.startswith(_INIT):
            self.init_said = line.removeprefix(_INIT)
        if "sysrq: Show" in line:
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

    def replay(self, text: bytes) -> None:
        """What a restored guest printed before it was frozen."""
        for line in text.split(b"\n")[:-1]:
            self.feed(line.rstrip(b"\r").decode(errors="replace"))


def _ordered(found: dict[int, Crash]) -> tuple[Crash, ...]:
    return tuple(found[start] for start in sorted(found))
