# SPDX-License-Identifier: Apache-2.0
"""The process that has a guest's memory, or a vmcore, open: a question is answered in milliseconds, as symbols, types
and drgn itself are there.

Started detached by a client (kernloop.debug.owners), reached by a socket in a folder of the VM's run directory, a
connection a question (kernloop.vm.wire). It answers one question after the other, in its main thread: that is where
Python lets code be ended. It ends with the VM, when the vmcore is another file, and when nobody has asked for a while.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import select
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import Any

from drgn import FaultError, Program

from kernloop import runs
from kernloop.debug import ask, told, whyhung
from kernloop.debug.owners import leave_client, tell
from kernloop.debug.session.client import stamp
from kernloop.debug.session.watch import Stopped, Watch
from kernloop.debug.target import about, look_again, of_memory, open_core
from kernloop.errors import HarnessError, UsageError
from kernloop.host import owned
from kernloop.sched.obj.btf import BtfError
from kernloop.vm import wire
from kernloop.vm.answers import GuestMemory
from kernloop.vm.client import VM

__all__ = ["main"]

_IDLE_SECONDS = 600.0
_POLL_SECONDS = 1.0
_REQUEST_SECONDS = 5.0
_PIECE = 16 << 10


def main() -> None:
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # a terminal's, of the client that started us
    wanted = json.loads(sys.stdin.read())
    folder = Path(wanted["folder"])
    try:
        with ExitStack() as stack:
            subject: _Guest | _Core
            if wanted["core"]:
                subject = _Core(Path(wanted["core"]), wanted["stamp"])
                stack.enter_context(owned.folder(folder))
                stack.callback(shutil.rmtree, folder, ignore_errors=True)
            else:
                subject = _Guest(VM(wanted["name"], Path(wanted["run"])), stack)
            with _sense(wanted["name"]):
                subject.open()
            stack.enter_context(owned.folder(folder / wire.SOCKET))
            listener = stack.enter_context(wire.bind(folder))
            stack.callback((folder / wire.SOCKET).unlink, missing_ok=True)
            tell({"up": {"pid": os.getpid()}})
            leave_client(folder / "owner.log")
            _Owner(wanted["name"], subject).serve(listener)
    except HarnessError as error:
        tell(wire.failure(error))
        raise SystemExit(error.exit_code) from None


class _Core:
    """A vmcore."""

    def __init__(self, path: Path, known: list[int]) -> None:
        self._path, self._known = path, known
        self.prog: Program

    def open(self) -> None:
        self.prog = open_core(self._path)

    @property
    def there(self) -> bool:
        try:
            return stamp(self._path) == self._known
        except OSError:
            return False

    def asked(self, hold: bool) -> AbstractContextManager[Program]:
        if hold and not about(self.prog).still:
            raise UsageError("a kernel cannot stand still for a process of its own", hint="--hold is for VMs")
        return nullcontext(self.prog)


class _Guest:
    """A VM, whose memory stays open until `stack` ends."""

    def __init__(self, vm: VM, stack: ExitStack) -> None:
        self._vm = vm
        self._memory = stack.enter_context(ExitStack())
        self._opened: GuestMemory
        self.prog: Program

    def open(self) -> None:
        self._memory.close()
        self._opened = self._memory.enter_context(self._vm.memory())
        self.prog = of_memory(self._vm, self._opened)

    @property
    def there(self) -> bool:
        return runs.is_live(self._vm.run)

    @contextlib.contextmanager
    def asked(self, hold: bool) -> Iterator[Program]:
        """For one question; with `hold` the guest stands still until the block ends."""
        with self._vm.memory(hold=hold) as now:
            # A kernel that has booted since lies elsewhere.
            if (now.vmcoreinfo, now.ram) != (self._opened.vmcoreinfo, self._opened.ram):
                self.open()
            look_again(self.prog, now)
            yield self.prog


class _Owner:
    def __init__(self, name: str, subject: _Guest | _Core) -> None:
        self._name = name
        self._subject = subject
        self._watch = Watch()
        self._questions = 0
        self._operations: dict[str, Callable[..., dict[str, Any]]] = {
            "state": self._state,
            "evaluate": self._evaluate,
            "script": self._script,
            "why_hung": self._why_hung,
            "locks": self._locks,
        }

    def serve(self, listener: socket.socket) -> None:
        last = time.monotonic()
        while self._subject.there and time.monotonic() - last < _IDLE_SECONDS:
            if not select.select([listener], [], [], _POLL_SECONDS)[0]:
                continue
            client, _ = listener.accept()
            # What is written to a client that has gone is nobody's loss.
            with client, contextlib.suppress(OSError, ValueError, Stopped):
                client.settimeout(_REQUEST_SECONDS)
                with client.makefile("rb") as file:
                    message = json.loads(file.readline(wire.LINE_MAX))
                client.sendall(wire.line({"begun": True}))
                if message["op"] == "close":
                    client.sendall(wire.line({"result": {}}))
                    return
                client.sendall(wire.line(self._answer(client, **message)))
            last = time.monotonic()

    def _answer(self, client: socket.socket, op: str, timeout: float, cwd: str, **words: Any) -> dict[str, Any]:
        try:
            if op not in self._operations:
                raise UsageError(f"a session cannot {op!r}", hint="is the client of another version of kernloop?")
            with contextlib.suppress(OSError):
                os.chdir(cwd)  # a script's own files are where its caller is
            self._questions += 1
            printed = _Printed(client)
            with self._watch.question(client, timeout), _sense(self._name), contextlib.redirect_stdout(printed):
                found = self._operations[op](**words)
            printed.flush()
            return {"result": found}
        except HarnessError as error:
            return wire.failure(error)
        except TypeError as error:
            return wire.failure(UsageError(f"it was asked wrongly: {error}", hint="is it another version's client?"))
        finally:
            os.chdir("/")

    def _state(self) -> dict[str, Any]:
        return {"pid": os.getpid(), "questions": self._questions - 1}

    def _evaluate(
        self, *, expression: str, depth: int, elements: int, since: int = 0, hold: bool = False
    ) -> dict[str, Any]:
        with self._subject.asked(hold) as prog:
            limits = ask.Limits(depth=depth, elements=elements)
            return told.answer(prog, ask.evaluate(prog, expression, limits, since))

    def _script(
        self, *, path: str, depth: int, elements: int, since: int = 0, hold: bool = False, quiet: bool = False
    ) -> dict[str, Any]:
        with self._subject.asked(hold) as prog:
            limits = ask.Limits(depth=depth, elements=elements)
            return told.answer(prog, ask.run(prog, Path(path), quiet, limits, since))

    def _why_hung(self, *, hold: bool = False) -> dict[str, Any]:
        with self._subject.asked(hold) as prog:
            return told.hung(whyhung.investigate(prog))

    def _locks(self, *, hold: bool = False) -> dict[str, Any]:
        with self._subject.asked(hold) as prog:
            return told.locks(prog)


class _Printed(io.TextIOBase):
    """What a script prints goes to who asked, as it comes."""

    def __init__(self, client: socket.socket) -> None:
        self._client = client
        self._rest = ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self._rest += text
        if len(self._rest) >= _PIECE:
            self.flush()
        return len(text)

    def flush(self) -> None:
        text, self._rest = self._rest, ""
        if text:
            self._client.sendall(wire.line({"out": text}))


@contextlib.contextmanager
def _sense(name: str) -> Iterator[None]:
    try:
        yield
    except (FaultError, LookupError, BtfError) as error:
        hint = "it changed while it was read: try again, or with --hold; or it is damaged"
        raise HarnessError(f"the memory of {name} does not make sense: {error}", hint=hint) from None
