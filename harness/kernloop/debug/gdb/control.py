# SPDX-License-Identifier: Apache-2.0
"""The guest under GDB as a state machine: going on, stepping, stopping; each wait has an end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from kernloop.debug.gdb.mi import Record, Value, quoted
from kernloop.debug.gdb.process import Gdb
from kernloop.debug.gdb.state import Frame, Reason, Session, State
from kernloop.errors import HarnessError, UsageError
from kernloop.vm.news import News

__all__ = ["STEPS", "Control", "frame_of", "text_of"]

_STOP_SECONDS = 10.0
_MOST_STEPS = 1000
STEPS = {
    "step": "-exec-step",
    "next": "-exec-next",
    "stepi": "-exec-step-instruction",
    "nexti": "-exec-next-instruction",
    "finish": "-exec-finish",
    "until": "-exec-until",
}
# GDB's words for why it stopped (GDB manual, "GDB/MI Async Records").
_REASONS = {
    "breakpoint-hit": Reason.BREAKPOINT,
    "watchpoint-trigger": Reason.WATCHPOINT,
    "read-watchpoint-trigger": Reason.WATCHPOINT,
    "access-watchpoint-trigger": Reason.WATCHPOINT,
    "watchpoint-scope": Reason.WATCHPOINT,
    "end-stepping-range": Reason.STEP,
    "function-finished": Reason.FINISHED,
    "location-reached": Reason.LOCATION,
}
# What QEMU says for the monitor's stop, its watchdog and a panic (gdb_vm_state_change() in its gdbstub/system.c).
_SIGNALS = {"SIGINT": Reason.INTERRUPTED, "SIGTRAP": Reason.INTERRUPTED, "SIGALRM": Reason.WATCHDOG}
_PANIC_SIGNALS = ("?", "0", "SIGUNKNOWN")


class Control:
    """`session` is what it is in now; `changed` is told of each new one."""

    def __init__(self, gdb: Gdb) -> None:
        self.gdb = gdb
        self.session = Session(State.STOPPED, Reason.INTERRUPTED)
        self.changed = News()
        # While we stop the guest for a moment ourselves, that is nobody's news.
        self._quiet = False
        self._moment: asyncio.Future[Record] | None = None
        self._stepping = ""
        # We are going: what ends is not lost.
        self.leaving = False
        # QEMU's end of the connection has gone: with QEMU, or alone.
        self.closed = asyncio.Event()
        # Why the guest cannot go on, if it cannot.
        self.dead: Reason | None = None
        gdb.on_news = self._on_news

    def over(self, state: State, why: str) -> None:
        """The VM has ended, or the session has."""
        if not self.session.state.over:
            self._become(Session(state, stops=self.session.stops, why=why))

    async def wait(self, since: int, timeout: float) -> None:
        """Until there was a stop after number `since`, the session is over, or `timeout` has passed."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while self.session.state is State.RUNNING or (
            self.session.state is State.STOPPED and self.session.stops <= since
        ):
            left = deadline - loop.time()
            if left <= 0:
                return
            await asyncio.wait({self.changed.next}, timeout=left)

    async def go_on(self, timeout: float) -> None:
        """Let the guest go on, and wait for its next stop. Raises UsageError when it runs already or is dead."""
        self.must_be_stopped()
        self._must_live()
        before = self.session.stops
        self._stepping = ""
        await self._resume("-exec-continue")
        await self.wait(before, timeout)

    async def step(self, how: str, timeout: float, count: int, where: str) -> None:
        """`count` steps of a kind of STEPS, while each ends as a step does; it may still run when time is over."""
        if not 0 < count <= _MOST_STEPS:
            raise UsageError(f"{count} steps", hint=f"1 to {_MOST_STEPS}")
        if (how == "until") != bool(where):
            raise UsageError("until takes a place to stop at, the others none", hint="as in until ext.c:8110")
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        for _ in range(count):
            self.must_be_stopped()
            self._must_live()
            before = self.session.stops
            self._stepping = how
            await self._resume(f"{STEPS[how]} {quoted(where)}" if where else STEPS[how])
            await self.wait(before, deadline - loop.time())
            if self.session.state is not State.STOPPED or self.session.reason is not Reason.STEP:
                return

    # GDB says that the guest runs behind its answer ("^running", then "*running"), and who asks meanwhile would be told
    # that it stands still, or not be heard: whoever is answered may rely on it.
    async def _resume(self, command: str) -> None:
        before = self.session.stops
        await self.gdb.ask(command)
        deadline = asyncio.get_running_loop().time() + _STOP_SECONDS
        while self.session.state is State.STOPPED and self.session.stops == before:
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                raise HarnessError("the guest does not go on", hint="kernloop vm list")
            await asyncio.wait({self.changed.next}, timeout=left)

    async def interrupt(self) -> None:
        """Stop the guest, whatever it does: QEMU stops it, no interrupt in it. Raises HarnessError when that fails."""
        if self.session.state is State.RUNNING:
            before = self.session.stops
            await self.gdb.ask("-exec-interrupt --all")
            await self.wait(before, _STOP_SECONDS)
            if self.session.state is State.RUNNING:
                raise HarnessError(
                    f"the guest has not stopped within {_STOP_SECONDS:g} s", hint="does QEMU run? kernloop vm list"
                )

    @contextlib.asynccontextmanager
    async def still(self) -> AsyncIterator[None]:
        """In the block the guest stands still; one that ran goes on after it, unless it came to a stop of its own."""
        self.must_be_there()
        if self.session.state is not State.RUNNING:
            yield
            return
        self._quiet = True
        self._moment = asyncio.get_running_loop().create_future()
        try:
            await self.gdb.ask("-exec-interrupt --all")
            signs: set[asyncio.Future[Any]] = {self._moment, self.gdb.ended}
            await asyncio.wait(signs, timeout=_STOP_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if not self._moment.done():
                raise HarnessError(
                    f"the guest has not stopped within {_STOP_SECONDS:g} s", hint="does QEMU run? kernloop vm list"
                )
            try:
                yield
            finally:
                if self.session.state is State.RUNNING:
                    await self.gdb.ask("-exec-continue")
        finally:
            self._quiet, self._moment = False, None

    def must_be_stopped(self) -> None:
        """Raises UsageError when it is not."""
        self.must_be_there()
        if self.session.state is State.RUNNING:
            raise UsageError("the guest runs", hint="interrupt it, or wait for a breakpoint")

    def must_be_there(self) -> None:
        """Raises HarnessError when the session is over."""
        if self.session.state.over:
            raise HarnessError(f"the session is {self.session.state}: {self.session.why}", hint="kernloop vm list")

    def _must_live(self) -> None:
        if Reason.PANIC in (self.session.reason, self.dead):
            raise UsageError("the kernel has panicked: nothing goes on", hint="backtrace; kernloop vm dump; vm stop")
        if self.dead is not None:
            raise UsageError("the kernel hangs: it was stopped for good", hint="cpus; kernloop vm dump; vm stop")

    def _become(self, session: Session) -> None:
        self.session = session
        self.changed.tell()

    def _on_news(self, record: Record) -> None:
        if record.kind == "exec" and record.word == "stopped":
            self._on_stop(record)
        elif record.kind == "exec" and record.word == "running" and not self._quiet:
            if self.session.state is State.STOPPED:
                self._become(Session(State.RUNNING, stops=self.session.stops))
        elif record.word == "thread-group-exited" and not self.leaving:
            self.closed.set()

    def _on_stop(self, record: Record) -> None:
        # What stops for several reasons at once says each thing again: the first counts.
        values = {
            name: value[0] if isinstance(value, list) and value and name != "stopped-threads" else value
            for name, value in record.values.items()
        }
        reason = self.dead or self._reason(text_of(values.get("reason")), text_of(values.get("signal-name")))
        if self._quiet and self._moment is not None and not self._moment.done():
            self._moment.set_result(record)
            if reason is Reason.INTERRUPTED:
                return
            # It came to a breakpoint before our interrupt came to it: that is a stop of its own.
            self._quiet = False
        thread, number = text_of(values.get("thread-id")), text_of(values.get("bkptno"))
        frame = values.get("frame")
        stopped = Session(
            State.STOPPED,
            reason,
            self.session.stops + 1,
            int(thread) - 1 if thread.isdigit() else None,
            int(number) if number.isdigit() else _watched(values),
            frame_of(frame) if isinstance(frame, dict) else None,
            "" if reason is Reason.INTERRUPTED else _detail(values),
        )
        self._become(stopped)

    def _reason(self, word: str, signal: str) -> Reason:
        if word in _REASONS:
            return _REASONS[word]
        if self._stepping and signal in ("SIGTRAP", ""):
            # Of a function without debugging information it says no more.
            return {"finish": Reason.FINISHED, "until": Reason.LOCATION}.get(self._stepping, Reason.STEP)
        if signal in _PANIC_SIGNALS:
            return Reason.PANIC
        return _SIGNALS.get(signal, Reason.SIGNAL if signal else Reason.INTERRUPTED)


def text_of(value: Value | None) -> str:
    """A value that is a text; "" for another, or none."""
    return value if isinstance(value, str) else ""


def frame_of(value: dict[str, Value]) -> Frame:
    """A frame of a stack."""
    args = value.get("args")
    named = [one for one in args if isinstance(one, dict)] if isinstance(args, list) else []
    return Frame(
        int(text_of(value.get("level")) or 0),
        int(text_of(value.get("addr")) or "0", 16),
        "" if value.get("func") == "??" else text_of(value.get("func")),
        text_of(value.get("file")),
        int(text_of(value.get("line")) or 0),
        tuple((text_of(one.get("name")), text_of(one.get("value"))) for one in named),
    )


def _watched(values: Any) -> int | None:
    for name in ("wpt", "hw-rwpt", "hw-awpt"):
        found = values.get(name)
        if isinstance(found, dict) and text_of(found.get("number")).isdigit():
            return int(text_of(found["number"]))
    return None


def _detail(values: Any) -> str:
    told = [f"{name}={text}" for name in ("old", "new", "value") if (text := _in_value(values, name))]
    told += [f"{name}={text}" for name in ("return-value", "signal-meaning") if (text := text_of(values.get(name)))]
    return ", ".join(told)


def _in_value(values: Any, name: str) -> str:
    found = values.get("value")
    return text_of(found.get(name)) if isinstance(found, dict) else ""
