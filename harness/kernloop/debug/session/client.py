# SPDX-License-Identifier: Apache-2.0
"""drgn on a VM or a vmcore, for everyone who asks: the command line, MCP servers, tests, scripts.

>>> session = attach("a")                                     # doctest: +SKIP
>>> session.evaluate("prog['init_task'].comm")["value"]        # doctest: +SKIP
{'type': 'char [16]', 'value': 'swapper/0'}
>>> session.why_hung(hold=True)["summary"]                     # doctest: +SKIP
'deadlock: ...'

The first question of anyone opens the session, which takes a second; its owner (kernloop.debug.session.owner) keeps it,
and ends by itself. Answers are what kernloop.debug.told makes.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kernloop.debug import owners
from kernloop.errors import HarnessError, UsageError
from kernloop.host.cache import exclusive
from kernloop.host.paths import state_dir
from kernloop.vm import client, wire

__all__ = ["FOLDER", "SECONDS", "Session", "attach", "stamp"]

FOLDER = "drgn"
# What a question may take where nobody says.
SECONDS = 300.0
# On top of it: an answer that was ended comes at once, but for code that will not be (kernloop.debug.session.watch).
_ANSWER_SECONDS = 15.0
_START_SECONDS = 120.0
_MODULE = "kernloop.debug.session.owner"


@dataclass(frozen=True)
class Session:
    """Of the VM or vmcore called `name`. `folder` has the socket. Methods raise UsageError, SubjectError where the
    question is at fault, HarnessError, also when the session ends meanwhile: the next question opens another."""

    name: str
    folder: Path
    core: Path | None = None
    run: Path | None = None

    def evaluate(
        self,
        expression: str,
        *,
        depth: int = 3,
        elements: int = 32,
        since: int = 0,
        hold: bool = False,
        timeout: float = SECONDS,
    ) -> dict[str, Any]:
        """The value of `expression` in the names of kernloop.debug.ask: `type`, `value`, `next`, `count`, `text`."""
        words = {"expression": expression, "depth": depth, "elements": elements, "since": since, "hold": hold}
        return self.ask("evaluate", words, timeout)

    def script(
        self,
        path: Path,
        *,
        depth: int = 3,
        elements: int = 32,
        since: int = 0,
        hold: bool = False,
        timeout: float = SECONDS,
        printed: Callable[[str], None] | None = None,
    ) -> dict[str, Any]:
        """As `evaluate`, of what the script leaves in `result`; what it prints goes to `printed`, else to `output`."""
        words = {"depth": depth, "elements": elements, "since": since, "hold": hold, "quiet": printed is None}
        return self.ask("script", {"path": str(path.absolute()), **words}, timeout, printed)

    def why_hung(self, *, hold: bool = False, timeout: float = SECONDS) -> dict[str, Any]:
        return self.ask("why_hung", {"hold": hold}, timeout)

    def locks(self, *, hold: bool = False, timeout: float = SECONDS) -> dict[str, Any]:
        return self.ask("locks", {"hold": hold}, timeout)

    def state(self) -> dict[str, Any]:
        """The owner's `pid`, and how many questions it has answered."""
        return self.ask("state", {}, _ANSWER_SECONDS)

    def close(self) -> None:
        """End the session, if there is one."""
        try:
            with wire.connect(self.folder) as connection:
                connection.send({"op": "close"})
                for message in connection.messages(_ANSWER_SECONDS):
                    if "result" in message:
                        return
        except (OSError, wire.Unreachable):
            return

    def ask(
        self, op: str, words: dict[str, Any], timeout: float, printed: Callable[[str], None] | None = None
    ) -> dict[str, Any]:
        """One question; it is ended after `timeout` seconds."""
        question = {"op": op, "timeout": timeout, "cwd": _cwd(), **words}
        deadline = time.monotonic() + timeout
        while True:
            begun = False
            with self._connected() as connection:
                try:
                    connection.send(question)
                    for message in connection.messages(timeout + _ANSWER_SECONDS):
                        begun = True
                        if "error" in message:
                            raise wire.raised(message["error"])
                        if "result" in message:
                            return dict(message["result"])
                        if printed is not None and "out" in message:
                            printed(message["out"])
                except wire.Unreachable:
                    # One that is about to end still takes connections: what it has not begun, another can do.
                    if begun or time.monotonic() > deadline:
                        raise self._silent() from None

    # The session's, which is started where there is none.
    def _connected(self) -> wire.Connection:
        try:
            return wire.connect(self.folder)
        except OSError:
            pass
        lock = f"drgn-{hashlib.sha256(os.fsencode(self.folder)).hexdigest()[:16]}"
        with exclusive(lock, what=f"opening {self.name}", seconds=_START_SECONDS):
            try:
                return wire.connect(self.folder)
            except OSError:
                self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            wanted: dict[str, Any] = {
                "name": self.name,
                "folder": str(self.folder),
                "run": str(self.run or ""),
                "core": "",
            }
            if self.core is not None:
                wanted |= {"core": str(self.core), "stamp": stamp(self.core)}
            owners.start(_MODULE, wanted, what="drgn's owner", hint="ask again")
            return wire.connect(self.folder)

    def _silent(self) -> HarnessError:
        return HarnessError(
            f"the session at {self.name} has ended, or is busy with another question",
            hint="ask again: if it has ended, that opens another; kernloop vm list tells whether the VM lives",
        )


def attach(subject: str | Path) -> Session:
    """The session at a VM, by its name, or at a vmcore. Nothing is started before the first question.

    Raises UsageError when there is none of that name.
    """
    path = Path(subject).absolute()
    if path.is_file():
        name = hashlib.sha256(repr((str(path), stamp(path))).encode()).hexdigest()[:16]
        return Session(path.name, state_dir() / FOLDER / name, core=path)
    if isinstance(subject, Path) or "/" in subject:
        raise UsageError(f"there is no file {subject}", hint="kernloop vm dump NAME makes one")
    vm = client.find(subject)
    return Session(vm.name, vm.run / FOLDER, run=vm.run)


def stamp(path: Path) -> list[int]:
    """What makes the file at `path` another one."""
    info = path.stat()
    return [info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns]


def _cwd() -> str:
    try:
        return str(Path.cwd())
    except OSError:
        return "/"
