# SPDX-License-Identifier: Apache-2.0
"""GDB at a VM, for everyone who debugs one: the command line, MCP servers, tests, scripts.

>>> gdb = attach(client.find("a"))                    # doctest: +SKIP
>>> gdb.ask("break", where="scx_enable")               # doctest: +SKIP
>>> gdb.ask("wait", since=0, timeout=50).session       # doctest: +SKIP
Session(state=<State.STOPPED: 'stopped'>, reason=<Reason.BREAKPOINT: 'breakpoint'>, ...)

Nothing here holds the session: its owner does (kernloop.debug.gdb.owner). Any process of this user finds it again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from kernloop import runs
from kernloop.debug import owners
from kernloop.debug.gdb.owner import FOLDER, LAST
from kernloop.debug.gdb.state import Session, State
from kernloop.errors import HarnessError, UsageError
from kernloop.host.cache import exclusive
from kernloop.vm import wire
from kernloop.vm.client import VM

__all__ = ["Answer", "Gdb", "attach", "find", "last"]

_START_SECONDS = 180.0
# What an operation may take on top of what it waits for.
_ANSWER_SECONDS = 120.0
# Those that ask GDB for nothing, or only to stop the guest.
_QUICK = frozenset({"state", "wait", "interrupt", "detach"})
_QUICK_SECONDS = 20.0
_GONE_SECONDS = 10.0
_POLL_SECONDS = 0.02
# kernloop.vm.stub.NAME: importing that takes asyncio, which no client needs.
_STUB = "gdbstub"


@dataclass(frozen=True)
class Answer:
    """What an operation found, and what the session is in after it; see the operation's own words."""

    session: Session
    found: Mapping[str, Any]


class Gdb:
    """A session, by its VM's run directory. It may be over: then its state says so, and nothing else is answered."""

    def __init__(self, vm: VM) -> None:
        self.vm = vm

    def ask(self, op: str, *, timeout: float | None = None, **words: Any) -> Answer:
        """One operation of kernloop.debug.gdb.looks, .stops or .owner; those that wait do for `timeout` at most.

        Raises UsageError for what makes no sense now, HarnessError when the owner does not answer.
        """
        if timeout is not None:
            words["timeout"] = timeout
        grace = _QUICK_SECONDS if op in _QUICK else _ANSWER_SECONDS
        try:
            with wire.connect(self.vm.run / FOLDER) as connection:
                connection.send({"op": op, **words})
                message = next(connection.messages((timeout or 0) + grace))
        except (OSError, wire.Unreachable) as error:
            # The last thing that a process drops is not its socket.
            ends = isinstance(error, (ConnectionRefusedError, FileNotFoundError, wire.Gone))
            return Answer(self._over(_GONE_SECONDS if ends else 0), {})
        if "error" in message:
            raise wire.raised(message["error"])
        return Answer(Session.of_json(message["result"]["session"]), message["result"]["found"])

    def _over(self, seconds: float) -> Session:
        deadline = time.monotonic() + seconds
        while not (session := last(self.vm)).state.over:
            if time.monotonic() > deadline:
                raise HarnessError(
                    "the session's owner does not answer", hint=f"is pid {_pid(self.vm)} stopped? kill it, attach anew"
                )
            time.sleep(_POLL_SECONDS)
        return session

    def detach(self) -> Session:
        """End the session: breakpoints are taken out, the guest goes on."""
        self.ask("detach")
        deadline = time.monotonic() + _GONE_SECONDS
        # The supervisor closes the stub behind the owner: until then it lets no other debugger in.
        while not (session := last(self.vm)).state.over or (self.vm.run / _STUB).exists():
            if time.monotonic() > deadline:
                raise HarnessError("the session has not ended", hint=f"is pid {_pid(self.vm)} stopped?")
            time.sleep(_POLL_SECONDS)
        return session


def last(vm: VM) -> Session:
    """What the session at `vm` is in by its own last words, if it is over: `lost` too where its owner was killed."""
    noted = runs.read_json(vm.run / FOLDER / LAST)
    pid = int(noted.pop("pid", 0))
    noted.pop("gdb", None)
    if not noted:
        raise UsageError(f"gdb was never at {vm.name}", hint=f"kernloop debug gdb {vm.name} attach")
    session = Session.of_json(noted)
    if session.state.over:
        return session
    if not runs.is_live(vm.run):
        return Session(State.EXITED, stops=session.stops, why="the VM has ended")
    if not owners.alive(pid):
        return Session(State.LOST, stops=session.stops, why="the session's owner was killed")
    return session


def find(vm: VM) -> Gdb | None:
    """The session at `vm`, None when there is none that lives."""
    try:
        with wire.connect(vm.run / FOLDER):
            return Gdb(vm)
    except OSError:
        return None


def attach(vm: VM, *, say: Callable[[str], None] = lambda what: None) -> Gdb:
    """The session at `vm`, started if there is none; a guest that runs stands still for a moment.

    Raises HarnessError, UsageError when the VM is paused or another debugger is at it.
    """
    with exclusive(f"gdb-{vm.run.name}", what="attaching gdb", seconds=_START_SECONDS):
        found = find(vm)
        if found is not None:
            return found
        owners.start(
            "kernloop.debug.gdb.owner",
            {"name": vm.name, "run": str(vm.run)},
            what="gdb's owner",
            hint=f"kernloop runs show {vm.run.name}",
            say=say,
        )
        return Gdb(vm)


def _pid(vm: VM) -> int:
    return int(runs.read_json(vm.run / FOLDER / LAST).get("pid", 0))
