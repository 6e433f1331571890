# SPDX-License-Identifier: Apache-2.0
"""The supervisor's side of KGDB: whether the guest runs or sits in its own debugger, and who is at that: GDB
(kernloop.vm.gdb_in_tmux), or its shell kdb alone (kernloop.vm.kdb).

The kernel is brought into KGDB by SysRq g on the console; both reach it by the second serial port, a socket in the run
directory, one at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import tempfile
from collections.abc import AsyncIterator, Callable
from enum import StrEnum
from pathlib import Path
from typing import Any

from kernloop.errors import HarnessError, UsageError
from kernloop.kernel import debugfiles
from kernloop.vm import kdb
from kernloop.vm.gdb_in_tmux import Gdb
from kernloop.vm.qemu import KGDB
from kernloop.vm.session import Session
from kernloop.vm.stuck import in_debugger, look

__all__ = ["Debugger", "State"]

# The rest of the SysRq's handler, and the other CPUs' way into KGDB; the same way out again, until the agent answers.
_ENTER_SECONDS = 8.0
_AGAIN_SECONDS = 1.5
_LEAVE_SECONDS = 8.0
_TURN_SECONDS = 5.0
# What sysrq_handle_dbg() says where kdb does not take over (kernel/debug/debug_core.c).
_ENTERED = re.compile(r"Entering KGDB|KGDB or \$3#33 for KDB")
_STEPS = ("step", "next", "stepi", "nexti", "finish", "continue")
# What changes hands is not GDB's to pass on (kdb_main_loop() in kernel/debug/kdb/kdb_main.c).
_NOT_BY_GDB = ("go", "ss", "cpu", "kgdb")
_OTHER_CPU = re.compile(r'use "cpu (\d+)"')
_MOST_GOES = 4


class State(StrEnum):
    """`off`: no debugger, and the guest runs. `running`: it runs, and may stop. `lost`: GDB is gone, or does not answer
    any more. The others are the VM's: nobody can come to its kernel."""

    OFF = "off"
    RUNNING = "running"
    IN_KGDB = "in-kgdb"
    LOST = "lost"
    IN_GDB = "in-gdb"
    PAUSED = "paused"
    PANICKED = "panicked"
    HUNG = "hung"
    EXITED = "exited"

    @property
    def here(self) -> bool:
        """Whether the debugger was entered and not ended."""
        return self in (State.RUNNING, State.IN_KGDB, State.LOST)


class Debugger:
    """KGDB in the guest of `session`. `on_change` is called whenever the guest stops in it or goes on."""

    def __init__(self, session: Session, name: str, on_change: Callable[[], None]) -> None:
        self._session = session
        self._name = name
        self._on_change = on_change
        self._gdb = Gdb(session.run, name, self._on_event, self._on_lost)
        self._news = asyncio.Event()
        self._stop: dict[str, Any] | None = None
        # Whether GDB has the kernel, or had it before it went on; whether kdb was told anything.
        self._connected = False
        self._told_kdb = False
        # Whether GDB's stub takes the port when the kernel stops, and not kdb.
        self._stub = False
        self._lost = ""
        self._busy = asyncio.Lock()
        self._listening: asyncio.Task[None] | None = None

    @property
    def state(self) -> State:
        if self._lost:
            return State.LOST
        if self._session.in_kgdb:
            return State.IN_KGDB
        return State.RUNNING if self._told_kdb else State.OFF

    @property
    def attended(self) -> bool:
        """Whether somebody is at the guest that stands in it: GDB, or who asks kdb."""
        return self._connected or (self._told_kdb and not self._lost)

    def told(self, found: dict[str, Any] | None = None) -> dict[str, Any]:
        """What each command tells, and what it has `found`."""
        return {
            "state": self.state,
            "why": self._why,
            "next": self._next,
            "still": self._session.in_kgdb,
            "watch": self._gdb.watch,
            "gdb": self._gdb.version,
            "stop": self._stop if self._session.in_kgdb else None,
            "result": found or {},
        }

    async def do(self, what: str, words: dict[str, Any], seconds: float) -> dict[str, Any]:
        """One command of a client. Raises HarnessError."""
        async with self._turn():
            if what == "enter":
                return self.told(await self._enter(seconds, **words))
            if what == "end":
                return self.told(await self._end(seconds))
            if not self._session.in_kgdb:
                raise UsageError(
                    f"{self._name} is not in its debugger: {self._lost or self.state}",
                    hint=f"kernloop debug kgdb {self._name} enter",
                )
            if what == "monitor" and not self._connected:
                return self.told(await self._ask_kdb(seconds, **words))
            if not self._connected:
                raise UsageError(
                    f"{self._name} is in KGDB, and GDB is not there: {self._lost or 'it has not been asked for'}",
                    hint=f"kernloop debug kgdb {self._name} enter; without GDB, its shell: kdb COMMAND",
                )
            if what not in _STEPS:
                if what == "monitor":
                    _must_be_passed_on(self._name, **words)
                return self.told(await self._gdb.ask(what, seconds, **words))
            self._news.clear()
            await self._gdb.ask("go", seconds, how=what)
        # Who waits for a stop keeps nobody from making one.
        await self._stopped(seconds)
        return self.told()

    async def close(self) -> None:
        """End GDB and tmux, as the VM ends."""
        await self._stop_listening()
        await self._end_gdb()

    async def _end_gdb(self) -> None:
        self._connected = False
        await self._gdb.close()

    # A breakpoint that a GDB has left stops the guest with nobody there: its stub says so at the port, to us then.
    def _listen(self) -> None:
        if self._lost and self._listening is None and not self._busy.locked() and not self._session.in_kgdb:
            self._listening = asyncio.create_task(self._hear())

    async def _hear(self) -> None:
        with contextlib.suppress(HarnessError, OSError):
            async with kdb.opened(self._session.run.path, KGDB) as port:
                await port.entered()
            self._holds(True)

    async def _stop_listening(self) -> None:
        listening, self._listening = self._listening, None
        if listening is not None:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)

    @property
    def _why(self) -> str:
        if not self._lost:
            return ""
        left = "and the guest stands in KGDB" if self._session.in_kgdb else "its breakpoints are still in the kernel"
        return f"{self._lost}; {left}"

    @property
    def _next(self) -> str:
        base = f"kernloop debug kgdb {self._name}"
        match self.state:
            case State.LOST:
                return f"{base} end takes its breakpoints out, lets the guest go on; {base} enter: another GDB"
            case State.IN_KGDB if self._connected:
                return f"{base} backtrace; then continue, or end"
            case State.IN_KGDB:
                return f"{base} kdb COMMAND, or {base} enter: GDB; {base} end lets the guest go on"
        return f"{base} enter"

    # One at a time; most take a moment only.
    @contextlib.asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        try:
            await asyncio.wait_for(self._busy.acquire(), _TURN_SECONDS)
        except TimeoutError:
            raise HarnessError(
                "another command of KGDB is under way", hint=f"kernloop debug kgdb {self._name} state"
            ) from None
        try:
            await self._stop_listening()
            yield
        finally:
            self._busy.release()
            self._listen()

    # From a guest that runs, or from one that an oops, a panic or a breakpoint has brought in.
    async def _enter(self, seconds: float, *, gdb: bool = True) -> dict[str, Any]:
        session = self._session
        if self._connected:
            if not session.in_kgdb:
                self._news.clear()
                async with self._knocking():
                    await self._stopped(_ENTER_SECONDS)
                if not session.in_kgdb:
                    raise self._deaf()
            return {}
        lost = self._lost
        await self._forget()
        try:
            if gdb:
                await self._gdb.start(self._vmlinux())
            async with self._port() as port:
                if not session.in_kgdb:
                    await self._bring_in(port)
                has_kdb = await self._prompt(port)
                if not has_kdb and not await self._sits():
                    self._holds(False)
                    raise HarnessError(f"{self._name} is not in KGDB any more", hint="enter again")
                if not has_kdb and not gdb:
                    raise self._no_kdb()
                if has_kdb and gdb:
                    await port.hand_over()
            self._told_kdb = True
            if gdb:
                self._stub = True
                self._stop = await self._gdb.ask("connect", seconds)
                self._connected = True
        except BaseException:
            await self._forget()
            self._lost = lost
            raise
        return {}

    # As if GDB had not been there; where the guest is does not change.
    async def _forget(self) -> None:
        await self._end_gdb()
        self._lost = ""
        self._stop = None

    async def _bring_in(self, port: kdb.Port) -> None:
        log = self._session.run.path / "console.log"
        since = log.stat().st_size
        machine = self._session.machine
        entered = asyncio.create_task(port.entered())
        try:
            async with asyncio.timeout(_ENTER_SECONDS), self._knocking():
                while not entered.done() and not _ENTERED.search(_tail(log, since)):
                    signs: set[asyncio.Future[Any]] = {entered, machine.console_news.next, machine.ended}
                    await asyncio.wait(signs, return_when=asyncio.FIRST_COMPLETED)
                    if machine.ended.done():
                        raise HarnessError(f"{self._name} has ended", hint="kernloop vm list")
        except TimeoutError:
            if not await self._sits():
                raise self._deaf() from None
        finally:
            entered.cancel()
            await asyncio.gather(entered, return_exceptions=True)
        self._holds(True)

    # A guest that goes on as before has lost the break: see Session.press.
    @contextlib.asynccontextmanager
    async def _knocking(self) -> AsyncIterator[None]:
        machine = self._session.machine
        self._session.run.note("kgdb-enter")
        await machine.send_break("g")

        async def again() -> None:
            while True:
                await asyncio.sleep(_AGAIN_SECONDS)
                await machine.ask_for_life()
                await machine.send_break("g")

        knocks = asyncio.create_task(again())
        try:
            yield
        finally:
            knocks.cancel()
            await asyncio.gather(knocks, return_exceptions=True)

    def _deaf(self) -> HarnessError:
        return HarnessError(
            f"the kernel of {self._name} does not take SysRq g",
            hint=f"the CPU that serves the console has its interrupts off: kernloop debug gdb {self._name} interrupt",
        )

    def _no_kdb(self) -> UsageError:
        return UsageError(
            f"the kernel of {self._name} has no kdb: CONFIG_KGDB_KDB",
            hint=f"kernloop debug kgdb {self._name} enter brings GDB; the fragment kgdb has both",
        )

    # By the vCPUs' stacks: what nobody has told us.
    async def _sits(self) -> bool:
        async with self._session.looking:
            try:
                with tempfile.TemporaryDirectory(prefix="kernloop-kgdb-") as folder:
                    return in_debugger(await look(self._session.machine, Path(folder)))
            finally:
                await self._session.machine.qmp("cont")

    async def _stopped(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._news.wait(), seconds)

    # GDB and tmux end first: its breakpoints go with the way from its stub to kdb, kdb's own by `bc`.
    async def _end(self, seconds: float) -> dict[str, Any]:
        if self.state is State.OFF:
            return {}
        if self._connected and not self._session.in_kgdb:
            await self._enter(seconds)
        lost = self._lost
        await self._forget()
        self._lost = lost
        async with self._port() as port:
            if not self._session.in_kgdb:
                await self._bring_in(port)
            if await self._prompt(port):
                await port.ask("bc *")
                if said := await self._let_go(port, "go"):
                    raise HarnessError(f"kdb does not go on: {said}", hint=f"kernloop debug kgdb {self._name} kdb go")
            elif await port.detach() or not await self._sits():
                self._holds(False)
            else:
                raise HarnessError("KGDB does not answer", hint="kernloop vm stop; kernloop debug gdb shows where")
        self._lost = ""
        self._told_kdb = False
        return {}

    # kdb itself, where GDB is not there.
    async def _ask_kdb(self, seconds: float, *, command: str) -> dict[str, Any]:
        kdb.checked(command)
        word = command.split()[0]
        if word == "kgdb":
            raise UsageError("GDB is what the kernel would wait for", hint=f"kernloop debug kgdb {self._name} enter")
        async with self._port() as port:
            if not await self._prompt(port):
                raise self._no_kdb()
            self._told_kdb = True
            if word == "go":
                return {"text": await self._let_go(port, command)}
            try:
                async with asyncio.timeout(seconds):
                    return {"text": await port.ask(command)}
            except TimeoutError:
                raise HarnessError(
                    f"kdb has not answered {word} within {seconds:g} s",
                    hint=f"kernloop debug kgdb {self._name} state; a longer --timeout",
                ) from None

    # What kdb says when it stays, or is back at once: "" when the guest goes on.
    async def _let_go(self, port: kdb.Port, command: str) -> str:
        session, machine = self._session, self._session.machine
        await session.console_caught_up()
        entries, said = session.kgdb_entries, ""
        for _ in range(_MOST_GOES):
            back = asyncio.create_task(port.ask(command))
            panic = asyncio.create_task(machine.panicked.wait())
            signs: set[asyncio.Future[Any]] = {machine.ask_for_life(), back, panic, machine.ended}
            try:
                await asyncio.wait(signs, timeout=_LEAVE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                if not back.done():
                    if await self._stays(signs):
                        raise HarnessError("kdb does not let the guest go", hint="kernloop vm stop")
                    # It may have met a breakpoint since: then the console has said so.
                    await session.console_caught_up()
                    self._holds(session.kgdb_entries > entries)
                    return ""
                said = back.result()
            finally:
                back.cancel()
                panic.cancel()
                await asyncio.gather(back, panic, return_exceptions=True)
            # It wants to be told twice after an oops, and where it came in: kdb_go() in kernel/debug/kdb/kdb_main.c.
            if other := _OTHER_CPU.search(said):
                await port.ask(f"cpu {other[1]}")
            elif "a second time" not in said:
                break
        return said

    # A guest that still boots has nobody who answers: it is looked at.
    async def _stays(self, signs: set[asyncio.Future[Any]]) -> bool:
        return not any(one.done() for one in signs) and await self._sits()

    # Bring kdb to its prompt; whether it is there. With that the stub has taken out what GDB has left.
    async def _prompt(self, port: kdb.Port) -> bool:
        if self._stub:
            await port.step_back()
        has_kdb = await port.prompt(stub=self._stub)
        self._stub = self._stub and not has_kdb
        return has_kdb

    # Nobody else is at the port: what kdb prints there comes on the console as well, and is no news of the kernel's.
    @contextlib.asynccontextmanager
    async def _port(self) -> AsyncIterator[kdb.Port]:
        run, console = self._session.run, self._session.console
        self._must_have_port()
        async with kdb.opened(run.path, KGDB) as port:
            console.answering = True
            try:
                yield port
            finally:
                await self._session.console_caught_up()
                console.answering = False

    def _must_have_port(self) -> None:
        if not (self._session.run.path / KGDB).exists():
            raise UsageError(
                f"{self._name} was started without a serial port for KGDB", hint="kernloop vm start --kgdb --name NAME"
            )

    # With the build-id of what runs; a guest that still boots has not told it.
    def _vmlinux(self) -> Path:
        session = self._session
        hello = session.machine.hello
        build_id = hello.result().build_id if hello.done() else session.guest.kernel.build_id
        vmlinux = debugfiles.vmlinux(session.run.path, build_id)
        if vmlinux is None:
            raise UsageError(
                "there is no vmlinux with debugging information of this kernel",
                hint="without GDB: enter --kdb; or build it here: kernloop kernel build DIR --fragment kgdb",
            )
        return vmlinux

    def _on_event(self, message: dict[str, Any]) -> None:
        stopped = message["event"] == "stopped"
        if stopped:
            self._stop = message
        self._holds(stopped)
        if stopped:
            self._news.set()

    def _on_lost(self, why: str) -> None:
        self._lost = why
        self._connected = False
        self._news.set()
        self._listen()
        self._on_change()

    def _holds(self, held: bool) -> None:
        if held != self._session.in_kgdb:
            self._session.held_by_kgdb(held)
            self._on_change()


def _tail(log: Path, since: int) -> str:
    with log.open("rb") as file:
        file.seek(since)
        return file.read().decode(errors="replace")


# Raises UsageError for what kdb cannot do while GDB has the kernel.
def _must_be_passed_on(name: str, *, command: str) -> None:
    kdb.checked(command)
    if command.split()[0] in _NOT_BY_GDB:
        raise UsageError(
            f"GDB has the kernel: kdb cannot {command}", hint=f"kernloop debug kgdb {name} continue, or step"
        )
