# SPDX-License-Identifier: Apache-2.0
"""Verbs that record in a VM for a while: each is a process that outlives the server, its answer a file of the VM's run
directory. Whoever asks for it there gets it, also another server."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kernloop.errors import UsageError
from kernloop.host import process
from kernloop.vm import client
from kernloop.vm.client import VM

__all__ = ["Recording", "begin", "find"]

_FOLDER = "traces"
_ANSWER, _SAID, _PID = "answer.json", "stderr", "pid"
_POLL_SECONDS = 0.05


class Recording:
    """One, by its folder. While it is under way its process has a lock on the answer."""

    def __init__(self, vm: VM, path: Path) -> None:
        self.id = f"{vm.name}/{path.name}"
        self._path = path

    @property
    def live(self) -> bool:
        with (self._path / _ANSWER).open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    @property
    def doing(self) -> str:
        """The last that it said of its progress."""
        lines = (self._path / _SAID).read_text(errors="replace").strip().splitlines()
        return lines[-1].removeprefix("kernloop: ") if lines else ""

    def wait(self, seconds: float) -> bool:
        """Whether it is over within `seconds`."""
        deadline = time.monotonic() + seconds
        while live := self.live:
            if time.monotonic() > deadline:
                break
            time.sleep(_POLL_SECONDS)
        return not live

    def end(self) -> None:
        """End it as Ctrl-C does: what there is so far is its answer."""
        with contextlib.suppress(OSError, ValueError):
            end = os.pidfd_open(int((self._path / _PID).read_text()))
            try:
                if self.live:  # it has the lock, so the number is its own
                    signal.pidfd_send_signal(end, signal.SIGINT)
            finally:
                os.close(end)

    def answer(self) -> dict[str, Any]:
        """The object that it printed, when it is over."""
        with contextlib.suppress(ValueError):
            value = json.loads((self._path / _ANSWER).read_text(errors="replace"))
            if isinstance(value, dict):
                return value
        return {"verdict": "infra", "summary": f"kernloop ended without an answer: {self.doing or 'no word'}"}


def begin(vm: VM, words: Sequence[str]) -> Recording:
    """`kernloop WORDS --json` under way. Raises HarnessError."""
    path = _new(vm.run / _FOLDER)
    with (path / _ANSWER).open("wb") as answer, (path / _SAID).open("wb") as said:
        # The process inherits the lock, and drops it however it ends.
        fcntl.flock(answer, fcntl.LOCK_EX)
        command = [sys.executable, "-m", "kernloop", *words, "--json"]
        with open(os.devnull, "rb") as nothing:  # noqa: PTH123 it has no path
            child = process.detach(command, stdin=nothing.fileno(), stdout=answer.fileno(), stderr=said.fileno())
        (path / _PID).write_text(str(child.pid))
        # No zombie of ours once it is over.
        threading.Thread(target=child.wait, daemon=True).start()
    return Recording(vm, path)


def find(id: str) -> Recording:
    """The one that is called `id`, as VM/NUMBER. Raises UsageError."""
    name, _, number = id.partition("/")
    vm = client.last(name)
    path = vm.run / _FOLDER / number
    if not number.isdecimal() or not (path / _ANSWER).exists():
        known = sorted((vm.run / _FOLDER).glob("*"), key=lambda one: int(one.name))
        newest = f"the newest is {name}/{known[-1].name}" if known else "trace begins one"
        raise UsageError(f"no recording is called {id!r}", hint=newest)
    return Recording(vm, path)


def _new(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    number = 1
    while True:
        try:
            (folder / str(number)).mkdir()
            return folder / str(number)
        except FileExistsError:
            number += 1
