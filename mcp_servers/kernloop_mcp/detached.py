# SPDX-License-Identifier: Apache-2.0
"""A verb of the command line as a process that outlives the server: its run directory has the answer."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kernloop import runs
from kernloop.host import process

__all__ = ["Detached"]


class Detached:
    """`kernloop WORDS`, with --json among them, under way. It writes to memory: no pipe of ours can break.

    `given` is what it reads from stdin.
    """

    def __init__(self, words: Sequence[str], given: str = "") -> None:
        self._out, self._err = (os.memfd_create(f"kernloop-{name}") for name in ("out", "err"))
        for fd in (self._out, self._err):
            weakref.finalize(self, os.close, fd)
        self._path: Path | None = None
        with tempfile.TemporaryFile() as stdin:
            stdin.write(given.encode())
            stdin.seek(0)
            self._child = process.detach(
                [sys.executable, "-m", "kernloop", *words], stdin=stdin.fileno(), stdout=self._out, stderr=self._err
            )

    def wait(self) -> dict[str, Any]:
        """Wait for its end; the object that it printed."""
        self._child.wait()
        text = _read(self._out)
        with contextlib.suppress(ValueError):
            value = json.loads(text)
            if isinstance(value, dict):
                return value
        return {"verdict": "infra", "summary": f"kernloop ended without an answer: {self.doing or 'no word'}"}

    @property
    def doing(self) -> str:
        """The last that it said of its progress."""
        if (path := self.run()) and (at := runs.doing(path)):
            return at
        lines = _read(self._err).strip().splitlines()
        return lines[-1].removeprefix("kernloop: ") if lines else ""

    def run(self) -> Path | None:
        """Its run directory, once there is one."""
        self._path = self._path or runs.owned_by(self._child.pid)
        return self._path

    def end(self) -> None:
        """End it as Ctrl-C does: its guest goes as well, and the run gets a verdict."""
        if self._child.poll() is None:
            self._child.send_signal(signal.SIGINT)


def _read(fd: int) -> str:
    return os.pread(fd, os.fstat(fd).st_size, 0).decode(errors="replace")
