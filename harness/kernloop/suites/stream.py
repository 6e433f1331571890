# SPDX-License-Identifier: Apache-2.0
"""The KTAP of programs that run one after the other in a guest, as kselftest's own runner writes it, while it happens.

What the programs write stands behind `# `, between the line that names the program and its result
(tools/testing/selftests/kselftest/runner.sh): the file is whole up to the moment when a guest dies.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import BinaryIO

from kernloop.report.ktap import KtapParser, Report

__all__ = ["Stream"]

_MAX_LINE = 4000


class Stream:
    """`listeners` hear the paths of the test that was under way and of the one that now is; `since` is when that was.

    `seconds` has how long each took.
    """

    def __init__(self, file: BinaryIO, *listeners: Callable[[tuple[str, ...], tuple[str, ...]], None]) -> None:
        self.parser = KtapParser()
        self.since = time.monotonic()
        self.seconds: dict[tuple[str, ...], float] = {}
        self.listeners = list(listeners)
        self._file = file
        self._running: tuple[str, ...] = ()
        self._rest = b""

    def line(self, text: str) -> None:
        """A line of the stream's own."""
        self._file.write(text.encode(errors="replace") + b"\n")
        self._file.flush()
        self.parser.feed(text)
        now = self.parser.running
        if now != self._running:
            moment = time.monotonic()
            if self._running:
                self.seconds[self._running] = self.seconds.get(self._running, 0.0) + moment - self.since
            before, self._running, self.since = self._running, now, moment
            for hear in self.listeners:
                hear(before, now)

    def output(self, data: bytes) -> None:
        """A piece of what a program wrote."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _MAX_LINE:
            lines.append(self._rest)
            self._rest = b""
        for line in lines:
            self.line("# " + line.decode(errors="replace"))

    def end_of_output(self) -> None:
        """The program has ended, perhaps in the middle of a line."""
        if self._rest:
            self.output(b"\n")

    def finish(self) -> Report:
        """What came of it; a line that a dying guest did not end counts."""
        self.end_of_output()
        return self.parser.finish()
