# SPDX-License-Identifier: Apache-2.0
"""What a VM's supervisor does for its clients: one method an operation, named as in kernloop.vm.wire's `op`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from inspect import signature
from pathlib import Path
from typing import Any

from kernloop.errors import HarnessError, UsageError
from kernloop.vm import dump, saved, stub, wire
from kernloop.vm.backends import KGDB_HINT, Backend, missing_kgdb
from kernloop.vm.commands import Commands
from kernloop.vm.connection import hang_up
from kernloop.vm.life import Life, State
from kernloop.vm.memory import memory_file, ram, registers, vmcoreinfo
from kernloop.vm.pieces import search
from kernloop.vm.request import VmRequest
from kernloop.vm.session import End, Session

__all__ = ["Server"]

_CLOSE_SECONDS = 2.0
_REQUEST_SECONDS = 30.0
# A panicked kernel writes its log for some seconds at most, and a dump of it may be written first.
_SETTLE_SECONDS = 40.0
_VERSION_HINT = "is the client of another version of kernloop?"
# A key waits for what the one before it prints, at the speed of a serial port.
_SYSRQ_SECONDS = 10.0
# Nobody reads a guest's memory for longer without being stuck.
_HOLD_SECONDS = 600.0
_SYSRQ_KEYS = re.compile(r"[0-9a-zA-Z]{1,16}")


class Server:
    """Serves one guest. `stopped` is set by whoever wants the VM to end, and `why` says who."""

    def __init__(self, request: VmRequest, made: Backend, session: Session, stopped: asyncio.Event) -> None:
        self.request = request
        self.guest = made.guest
        self._made = made
        self.session = session
        self.why = "stopped by a signal"
        self._stopped = stopped
        self._serving: set[asyncio.Task[None]] = set()
        self._doing = ""
        self._life = Life(session, request)
        # Not set while a reader holds the guest.
        self._moves = asyncio.Event()
        self._moves.set()
        self._commands = Commands(self._life, made, self._moves)
        self._began = time.monotonic()
        self._last = self._began
        self._clients = 0
        self._operations: dict[str, Callable[..., Awaitable[dict[str, Any]]]] = {
            "info": self._info,
            "job": self._commands.job,
            "kill": self._commands.kill,
            "wait": self._wait,
            "sysrq": self._sysrq,
            "nmi": self._nmi,
            "pause": self._pause,
            "resume": self._resume,
            "dump": self._dump,
            "snapshot": self._snapshot,
            "stop": self._stop,
            "kgdb": self._kgdb,
        }
        if request.kgdb:
            # Before this a boot's deadline counts: nobody could look.
            session.console.on_debugger = lambda: session.held_by_kgdb(True)
        self._vmcoreinfo = b""

    def info(self) -> dict[str, Any]:
        """What `vm list` and `vm start` tell."""
        hello, state = self.session.hello, self._life.state
        return {
            "state": "no answer" if self.session.machine.stopped else state,
            "backend": self.request.backend,
            "kernel": self.guest.kernel.ref,
            "release": hello.release,
            "build_id": hello.build_id,
            "cpus": self.request.topology.cpus,
            "memory": self.request.memory,
            "seed": self.request.seed,
            "pid": self.session.machine.pid,
            "supervisor": os.getpid(),
            "uptime": round(time.monotonic() - self._began, 1),
            "jobs": self._commands.states,
            "reports": [crash.title for crash in self.session.console.crashes],
            "crash": self._life.crash(),
            "next": self._life.next,
            "console_bytes": self._log.stat().st_size,
            "times": {name: round(seconds, 3) for name, seconds in self.session.times.items()},
        }

    async def until_over(self) -> End:
        """Serve until the VM is stopped, gone, or idle for too long. A guest that panics stays, paused."""
        session = self.session
        never: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        panic = asyncio.create_task(session.first(never, 1e9, End.DEADLINE))
        stop = asyncio.create_task(self._stopped.wait())
        idle = asyncio.create_task(self._idle())
        try:
            while True:
                waits: set[asyncio.Future[Any]] = {stop, idle, session.machine.ended}
                if panic.done() and session.in_debugger:
                    waits.add(session.machine.moves.next)
                await asyncio.wait(waits if panic.done() else {*waits, panic}, return_when=asyncio.FIRST_COMPLETED)
                # One that waits in its debugger goes on to be looked at there.
                held = self.session.in_debugger
                if panic.done() and not held and not self._life.over and panic.result() is End.PANIC:
                    await session.hold()
                    self._life.become(State.PANICKED)
                if panic.done() and not self._life.over and panic.result() is End.DEADLINE:
                    await session.interrogate()
                    await session.hold()
                    self._life.become(State.HUNG)
                if session.machine.ended.done():
                    self.why = ""
                    return End.GONE
                if stop.done() or idle.done():
                    return {State.PANICKED: End.PANIC, State.HUNG: End.DEADLINE}.get(self._life.fate, End.COMMAND)
        finally:
            for task in (panic, stop, idle):
                task.cancel()
            await asyncio.gather(panic, stop, idle, return_exceptions=True)

    async def close(self) -> None:
        """End what is still being served; each client that listens is told."""
        await self._life.debugger.close()
        self._life.become(State.STOPPED)
        # Where QEMU is gone they know by themselves how it went.
        if not self.session.machine.ended.done():
            self._commands.abandon(self.why)
        serving: set[asyncio.Task[Any]] = {*self._commands.following, *self._serving}
        if serving:
            _, late = await asyncio.wait(serving, timeout=_CLOSE_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*serving, return_exceptions=True)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection: one request."""
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        self._clients += 1
        try:
            async with asyncio.timeout(_REQUEST_SECONDS):
                text = await reader.readline()
            if text.endswith(b"\n"):
                answer = await self._answer(text, reader, writer)
                if answer:
                    writer.write(wire.line(answer))
                writer.close()
                await writer.wait_closed()
        except (OSError, ValueError):
            pass  # a client that goes away, or is none
        finally:
            self._clients -= 1
            self._last = time.monotonic()
            self._serving.discard(task)
            # What a client has not read by now that must go, it will not: closing would wait for it. A transport that
            # has sent all it had while it closed has no loop any more (asyncio/selector_events.py, _write_ready).
            with contextlib.suppress(AttributeError):
                writer.transport.abort()

    async def _answer(self, text: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> dict[str, Any]:
        message = json.loads(text)
        try:
            if not isinstance(message, dict):
                raise UsageError("a request is an object", hint=_VERSION_HINT)
            name = message.pop("op", "")
            if name == "exec":
                _fit(self._commands.exec, reader, writer, **message)
                return {"result": await self._commands.exec(reader, writer, **message)}
            if name == "memory":
                _fit(self._memory, writer, **message)
                return await self._memory(writer, **message)
            if name == "gdbstub":
                _fit(self._gdbstub, writer, **message)
                return await self._gdbstub(writer, **message)
            if name not in self._operations:
                raise UsageError(f"a VM cannot {name!r}", hint=_VERSION_HINT)
            _fit(self._operations[name], **message)
            return {"result": await self._operations[name](**message)}
        except HarnessError as error:
            return wire.failure(error)
        except OSError as error:
            said = error.strerror or type(error).__name__  # a time-out of asyncio's has no words
            what = f"{said}: {error.filename}" if error.filename else said
            return wire.failure(HarnessError(f"{name}: {what}", hint="is there room on the disk? kernloop runs gc"))

    async def _info(self) -> dict[str, Any]:
        await self.session.console_caught_up()
        return self.info()

    # Until the console has a line that fits `pattern` after byte `since`, or the kernel reports something, or the guest
    # is off. `cursor` is where the next wait should begin.
    async def _wait(self, what: str, pattern: str, since: int, timeout: float) -> dict[str, Any]:
        wanted = re.compile(pattern.encode()) if what == "pattern" else None
        deadline = time.monotonic() + timeout
        console = self.session.console
        before = len(console.crashes) if what == "report" and since < 0 else 0
        machine = self.session.machine
        while True:
            news: set[asyncio.Future[Any]] = {machine.console_news.next, self._life.changed.next}
            late = time.monotonic() >= deadline
            over = self._life.over
            # QEMU writes what it has sent to us into the log a moment later.
            behind = not await self._logged(machine.console_bytes)
            if wanted is not None:
                found = search(self._log, wanted, since)
                since = found["cursor"]
                if found["matched"]:
                    return {**found, "state": self._life.state}
            elif what == "report" and (new := console.crashes[before:]):
                crash = new[0]
                return {
                    "matched": True,
                    "line": crash.title,
                    "lines": [crash.start_line, crash.end_line],
                    "cursor": self._log.stat().st_size,
                    "state": self._life.state,
                }
            if over or late:
                cursor = since if wanted is not None else self._log.stat().st_size
                return {"matched": over and what == "exit", "line": "", "cursor": cursor, "state": self._life.state}
            left = max(deadline - time.monotonic(), 0)
            await asyncio.wait(news, timeout=min(left, 1) if behind else left, return_when=asyncio.FIRST_COMPLETED)

    # Whether the log has the first `count` bytes of this machine, within a second.
    async def _logged(self, count: int) -> bool:
        for _ in range(100):
            if self._log.stat().st_size - self.session.printed_before >= count:
                return True
            await asyncio.sleep(0.01)
        return False

    async def _sysrq(self, keys: str) -> dict[str, Any]:
        if not _SYSRQ_KEYS.fullmatch(keys):
            raise UsageError(
                f"{keys!r} are no SysRq keys", hint="l CPUs' backtraces, w blocked tasks, t all tasks, c crash, s sync"
            )
        self._life.must_run()
        before = self._log.stat().st_size
        self.session.run.note("sysrq", keys=keys)
        # One at a time: a break that comes while a key is still in the serial port's FIFO takes both away, and so may
        # one that comes while the kernel still prints its answer.
        for place, key in enumerate(keys, 1):
            if not await self.session.press(key):
                break
            if place < len(keys):
                await self.session.until_quiet(_SYSRQ_SECONDS)
        return {"cursor": before}

    async def _nmi(self) -> dict[str, Any]:
        self._life.must_run()
        before = self._log.stat().st_size
        self.session.run.note("nmi")
        await self.session.machine.qmp("inject-nmi")
        return {"cursor": before}

    async def _pause(self) -> dict[str, Any]:
        self._life.must_run(alone=True)
        async with self._alone("pausing it"), self.session.looking:
            await self.session.machine.qmp("stop")
            self._life.become(State.PAUSED)
        return {"state": self._life.state}

    async def _resume(self) -> dict[str, Any]:
        if self.session.in_debugger:
            self._life.must_run()
        if self._life.state in (State.PANICKED, State.HUNG):
            raise UsageError(
                f"the kernel has {self._life.state}: nothing would go on", hint="kernloop vm dump, then vm stop"
            )
        async with self._alone("resuming it"):
            await self.session.machine.qmp("cont")
            self._life.become(State.RUNNING)
            self._life.tell_time()
        return {"state": self._life.state}

    async def _dump(self, path: str, elf: bool = False) -> dict[str, Any]:
        async with self._alone("writing its memory to a file"):
            self.session.run.note("dump", path=path)
            try:
                release = self.session.hello.release
                return await dump.take(self.session.machine, Path(path), self.request.memory, release, elf=elf)
            finally:
                self._life.tell_time()

    # The guest's memory, to be read by the client itself. With `hold` the guest stands still for as long as the client
    # stays connected: it cannot forget to let it go on. The answer has a descriptor with it, so it is sent from here.
    async def _memory(self, writer: asyncio.StreamWriter, *, hold: bool) -> dict[str, Any]:
        machine = self.session.machine
        await self._until_still()
        if hold and self._life.state is State.RUNNING:
            self._life.must_run(alone=True)
        with contextlib.ExitStack() as stack:
            gone = stack.enter_context(hang_up(writer))
            if not self._vmcoreinfo:
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="kernloop-memory-"))
                self._vmcoreinfo = await vmcoreinfo(machine, Path(folder))
            regions = await ram(machine)
            file = memory_file(machine)
            stack.callback(os.close, file)
            running = self._life.state is State.RUNNING
            about = {
                "state": self._life.state,
                "held": hold and running,
                "vmcoreinfo": wire.pack(self._vmcoreinfo),
                "ram": [[one.start, one.size, one.host] for one in regions],
                "registers": await registers(machine),
            }
            end = writer.get_extra_info("socket").fileno()
            if not hold or not running:
                wire.send_with_file(end, {"result": about}, file)
                return {}
            async with self._alone("standing still, to be read"):
                async with self.session.looking:
                    await machine.qmp("stop")
                    self.session.paused = True
                self._moves.clear()
                try:
                    about["registers"] = await registers(machine)
                    wire.send_with_file(end, {"result": about}, file)
                    signs: set[asyncio.Future[Any]] = {gone, machine.ended}
                    await asyncio.wait(signs, timeout=_HOLD_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    self.session.paused = self._life.state is State.PAUSED
                    self._moves.set()
                    if not machine.ended.done():
                        await machine.qmp("cont")
                        self._life.tell_time()
        return {}

    # A kernel that panics is told so while it may still write its log, and one that hangs is asked for its last words:
    # it is read, or a debugger comes, when it stands still. Whether it does not yet.
    async def _until_still(self) -> bool:
        ended = self.session.machine.ended
        async with self.session.looking:
            pass
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SETTLE_SECONDS):
                while self._life.dying and not ended.done():
                    signs: set[asyncio.Future[Any]] = {self._life.changed.next, ended}
                    await asyncio.wait(signs, return_when=asyncio.FIRST_COMPLETED)
        return self._life.dying

    # QEMU's gdbstub, for as long as the client stays connected: a debugger that dies cannot leave the guest stopped.
    async def _gdbstub(self, writer: asyncio.StreamWriter) -> dict[str, Any]:
        if await self._until_still():
            raise HarnessError(f"{self.request.name} is being asked for its last words", hint="try again")
        if self._life.state in (State.PAUSED, State.IN_KGDB):
            self._life.must_run()
        with hang_up(writer) as gone:
            async with stub.opened(self.session, dead=self._life.state.over):
                writer.write(wire.line({"result": {"state": self._life.state, "socket": stub.NAME}}))
                stopped = asyncio.create_task(self._stopped.wait())
                try:
                    signs: set[asyncio.Future[Any]] = {gone, self.session.machine.ended, stopped}
                    await asyncio.wait(signs, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    stopped.cancel()
            if not self.session.machine.ended.done():
                self._life.tell_time()
        return {}

    async def _snapshot(self, tag: str) -> dict[str, Any]:
        self._life.must_run(alone=True)
        if self._made.share is not None:
            raise UsageError(
                "a guest with the host's files cannot be saved: they would change under it", hint="use --backend micro"
            )
        machine = self.session.machine
        async with self._alone(f"saving it as {tag}"):
            self.session.run.note("snapshot", tag=tag)
            with saved.making(tag, self.request.memory) as folder:
                async with machine.agent_at_rest(real_time=self.request.seed is None):
                    try:
                        await machine.save(folder / "state", without_shared_ram=False)
                        (folder / "console").write_bytes(self._log.read_bytes())
                    finally:
                        await machine.go_on()
                # A thread, for the guest goes on and wants to be heard meanwhile.
                size = await asyncio.to_thread(
                    saved.seal, folder, self._by_digest(), self.guest.key(), machine.next_job
                )
        return {"tag": tag, "bytes": size}

    # What needs the machine as it is is done one at a time; whoever comes second need not wait for gigabytes.
    @contextlib.asynccontextmanager
    async def _alone(self, what: str) -> AsyncIterator[None]:
        if self._doing:
            raise HarnessError(f"{self.request.name} is busy: {self._doing}", hint="try again when that is done")
        self._doing = what
        try:
            yield
        finally:
            self._doing = ""

    # One command to KGDB (kernloop.vm.kgdb).
    async def _kgdb(self, do: str, words: dict[str, Any], timeout: float) -> dict[str, Any]:
        if not self.request.kgdb:
            missing = missing_kgdb(self.guest.kernel)
            raise UsageError(
                f"{self.request.name} was started without a port for KGDB"
                + (f", and its kernel has none: CONFIG_{missing}" if missing else ""),
                hint=KGDB_HINT if missing else "kernloop vm start --kgdb --kernel tree:DIR",
            )
        if do == "state":
            return {**self._life.debugger.told(), **self._life.instead_of_kgdb()}
        if do == "end" and self._life.state.over:
            # What GDB has left to do is to go.
            await self._life.debugger.close()
            return {**self._life.debugger.told(), **self._life.instead_of_kgdb()}
        if self.session.debugged:
            raise UsageError(f"gdb is at {self.request.name}", hint=f"kernloop debug gdb {self.request.name} detach")
        if self._life.state not in (State.RUNNING, State.STARTING, State.IN_KGDB):
            raise UsageError(f"{self.request.name} is {self._life.state}", hint=self._life.next)
        return await self._life.debugger.do(do, words, timeout)

    async def _stop(self) -> dict[str, Any]:
        self.why = "stopped"
        self._stopped.set()
        return {"state": "stopping"}

    # "newest" may be another kernel tomorrow.
    def _by_digest(self) -> VmRequest:
        return VmRequest.of_json({**self.request.as_json(), "kernel": f"sha256:{self.guest.kernel.digest}"})

    @property
    def _log(self) -> Path:
        return self.session.run.path / "console.log"

    # A VM that nobody talks to and that does nothing ends by itself.
    async def _idle(self) -> None:
        while True:
            left = max(self._last, self._commands.last) + self.request.idle - time.monotonic()
            if self._clients or self._commands.running:
                left = max(left, min(self.request.idle, 5.0))
            elif left <= 0:
                self.why = f"stopped: nobody used it for {self.request.idle:g} s"
                return
            await asyncio.sleep(left)


# Raises UsageError when `operation` does not take these words.
def _fit(operation: Callable[..., Any], *words: Any, **named: Any) -> None:
    try:
        signature(operation).bind(*words, **named)
    except TypeError as error:
        raise UsageError(f"a VM was asked wrongly: {error}", hint=_VERSION_HINT) from None
