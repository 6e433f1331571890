# SPDX-License-Identifier: Apache-2.0
"""The state of a VM that lives: what its kernel came to, who keeps it still, and what to do about that."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from kernloop.errors import HarnessError, UsageError
from kernloop.report.crash import most_severe
from kernloop.report.severity import Severity
from kernloop.vm.kgdb import Debugger
from kernloop.vm.kgdb import State as KgdbState
from kernloop.vm.news import News
from kernloop.vm.request import VmRequest
from kernloop.vm.session import Session
from kernloop.vm.stuck import FILE, worst

__all__ = ["Life", "State"]


class State(StrEnum):
    """`starting`: it has waited for its debugger, and boots on. `in-gdb`, `in-kgdb`: a debugger at QEMU's gdbstub or
    the kernel's own keeps it still. `hung`: the watchdog has found it so. `stopped`: the VM ends."""

    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    IN_GDB = "in-gdb"
    IN_KGDB = "in-kgdb"
    PANICKED = "panicked"
    HUNG = "hung"
    STOPPED = "stopped"

    @property
    def over(self) -> bool:
        """Whether the kernel does nothing any more."""
        return self in (State.PANICKED, State.HUNG, State.STOPPED)


class Life:
    """Of the VM of `session`. `changed` is told whenever its state may have."""

    def __init__(self, session: Session, request: VmRequest) -> None:
        self.session = session
        self.request = request
        self.changed = News()
        self.debugger = Debugger(session, request.name, self.changed.tell)
        # What the supervisor has seen or was told to do.
        self._told = State.RUNNING

    @property
    def over(self) -> bool:
        """Whether the guest is held for good: its last words have been heard."""
        return self._told.over

    @property
    def state(self) -> State:
        return State.IN_KGDB if self.session.in_kgdb and not self.over else self.fate

    @property
    def fate(self) -> State:
        """Its state, were nobody at its own debugger."""
        # A command that dies of a panic may be told so before the guest is held.
        # The NMI that a dead kernel gets makes it panic.
        if not self.over and self.session.console.panic.is_set():
            return State.PANICKED
        if not self.over and self.session.machine.ended.done():
            return State.STOPPED
        if self._told is State.RUNNING and self.session.in_gdb:
            return State.IN_GDB
        booting = self._told is State.RUNNING and not self.session.machine.hello.done()
        return State.STARTING if booting else self._told

    @property
    def dying(self) -> bool:
        """Whether the kernel is dead, and still being asked for its last words."""
        return not self.over and (self.state is State.PANICKED or self.session.hung.is_set())

    def become(self, state: State) -> None:
        """The supervisor has seen to it that the VM is in this state."""
        self._told = state
        self.session.paused = state is State.PAUSED
        self.changed.tell()

    def tell_time(self) -> None:
        """The guest's clock stood still with it."""
        if self.state is State.RUNNING and self.request.seed is None:
            self.session.machine.wake(real_time=True)

    def crash(self) -> dict[str, Any] | None:
        """The worst that the kernel reported, if it is a crash: `verdict` is what stopping the VM now would give."""
        found = most_severe(self.session.console.crashes)
        if found is None or found.severity not in (Severity.PANIC, Severity.OOPS):
            return None
        return {
            "verdict": found.severity,
            "kind": found.kind,
            "title": found.title,
            "function": found.function,
            "lines": [found.start_line, found.end_line],
        }

    @property
    def next(self) -> str:
        """What to do about the state that it is in, "" when it simply runs."""
        name, run = self.request.name, self.session.run.path
        match self.state:
            case State.PANICKED:
                return f"kernloop vm console {name}; vm dump; then vm stop"
            case State.HUNG:
                return f"{run}/{FILE}; vm dump; then vm stop"
            case State.PAUSED:
                return f"kernloop vm resume {name}"
            case State.IN_GDB:
                return f"kernloop debug gdb {name} continue, or detach"
            case State.IN_KGDB if self.debugger.attended:
                return f"kernloop debug kgdb {name} continue, or: kernloop debug kgdb {name} end"
            case State.IN_KGDB:
                return f"kernloop debug kgdb {name} end, or to look: kernloop debug kgdb {name} enter"
        return f"kernloop debug kgdb {name} end" if self.debugger.state is KgdbState.LOST else ""

    def must_run(self, *, alone: bool = False) -> None:
        """Raises HarnessError or UsageError unless the guest runs; with `alone` also when a debugger is at it, for what
        stops the guest itself and lets it go on."""
        name, state = self.request.name, self.state
        if state is State.PANICKED:
            crashes = self.session.console.crashes
            also = f": {crashes[-1].title}" if crashes else ""
            raise HarnessError(f"the kernel of {name} has panicked{also}", hint=self.next)
        if state is State.HUNG:
            raise HarnessError(f"the kernel of {name} hangs: {worst(self.session.stuck)}", hint=self.next)
        if state is State.STOPPED:
            raise HarnessError(f"the VM {name} has ended", hint=f"kernloop runs show {self.session.run.path.name}")
        if state is State.IN_GDB:
            raise UsageError(f"{name} stands still in gdb", hint=self.next)
        if state is State.IN_KGDB:
            left = "" if self.debugger.attended else ", and nobody is there"
            raise UsageError(f"{name} sits in its kernel's debugger{left}: nothing runs", hint=self.next)
        if alone and self.session.debugged:
            raise UsageError(f"gdb is at {name}", hint=f"kernloop debug gdb {name} detach")
        if state is not State.RUNNING:
            raise UsageError(f"{name} is {state}", hint=self.next or "kernloop vm list")

    def instead_of_kgdb(self) -> dict[str, Any]:
        """What counts where nobody could come to the kernel: it is dead, or another keeps it still."""
        state = self.state
        if state in (State.RUNNING, State.STARTING, State.IN_KGDB):
            return {}
        found = most_severe(self.session.console.crashes)
        why = {State.PANICKED: found.title if found else "", State.HUNG: str(worst(self.session.stuck) or "")}
        told = KgdbState.EXITED if state is State.STOPPED else KgdbState(state)
        return {"state": told, "why": why.get(state, ""), "next": self.next, "still": True, "stop": None}
