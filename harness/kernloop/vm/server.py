# SPDX-License-Identifier: Apache-2.0
"""What a VM's supervisor does for its clients: one method an operation, named as in kernloop.vm.wire's `op`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import select
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from inspect import signature
from pathlib import Path
from typing import Any

from kernloop.errors import HarnessError, UsageError
from kernloop.report.crash import most_severe
from kernloop.report.severity import Severity
from kernloop.vm import dump, saved, stub, wire
from kernloop.vm.backends import KGDB_HINT, Backend, missing_kgdb
from kernloop.vm.frames import run_request
from kernloop.vm.jobs import LiveJob
from kernloop.vm.kgdb import Debugger, State
from kernloop.vm.machine import Hello, Machine
from kernloop.vm.memory import memory_file, ram, registers, vmcoreinfo
from kernloop.vm.news import News
from kernloop.vm.request import VmRequest
from kernloop.vm.session import End, Session
from kernloop.vm.stuck import FILE, worst

__all__ = ["IN_GDB", "Server"]

# The state of a VM that a debugger at QEMU's gdbstub keeps still.
IN_GDB = "in-gdb"
# It has waited for its debugger, and boots on.
STARTING = "starting"

# So much output waits for a slow client; then the command does.
_UNSENT_MAX = 4 << 20
_CLOSE_SECONDS = 2.0
# So often a client whose command's guest stands still hears that nothing is wrong.
_STILL_SECONDS = 15.0
_REQUEST_SECONDS = 30.0
# A panicked kernel writes its log for some seconds at most, and a dump of it may be written first.
_SETTLE_SECONDS = 40.0
# Of so many commands that have ended the results are at hand.
_KEPT_JOBS = 256
_VERSION_HINT = "is the client of another version of kernloop?"
# A key waits for what the one before it prints, at the speed of a serial port.
_SYSRQ_SECONDS = 10.0
# Nobody reads a guest's memory for longer without being stuck.
_HOLD_SECONDS = 600.0
# The kernel does nothing any more; `hung` is what the watchdog has found.
_OVER = ("panicked", "hung", "stopped")
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
        self._jobs: dict[int, LiveJob] = {}
        self._last_job = 0
        self._serving: set[asyncio.Task[None]] = set()
        self._following: set[asyncio.Task[Any]] = set()
        self._doing = ""
        self._told = "running"
        self._changed = News()
        self._began = time.monotonic()
        self._last = self._began
        self._clients = 0
        self._operations: dict[str, Callable[..., Awaitable[dict[str, Any]]]] = {
            "info": self._info,
            "job": self._job,
            "kill": self._kill,
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
        self._debugger = Debugger(session, request.name, self._changed.tell)
        self._vmcoreinfo = b""
        # Not set while a reader holds the guest.
        self._moves = asyncio.Event()
        self._moves.set()

    @property
    def busy(self) -> bool:
        """Whether a command runs."""
        return any(not job.ended.done() for job in self._jobs.values())

    def info(self) -> dict[str, Any]:
        """What `vm list` and `vm start` tell."""
        hello = self._hello
        return {
            "state": "no answer" if self.session.machine.stopped else self._state,
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
            "jobs": {str(number): "ended" if job.ended.done() else "running" for number, job in self._jobs.items()},
            "reports": [crash.title for crash in self.session.console.crashes],
            "crash": self._crash(),
            "next": self._next,
            "console_bytes": self._log.stat().st_size,
            "times": {name: round(seconds, 3) for name, seconds in self.session.times.items()},
        }

    # What the kernel's files say, until it says so itself.
    @property
    def _hello(self) -> Hello:
        hello, kernel = self.session.machine.hello, self.guest.kernel
        return hello.result() if hello.done() else Hello(kernel.release, kernel.build_id)

    @property
    def _state(self) -> str:
        return State.IN_KGDB if self.session.in_kgdb and self._told not in _OVER else self._fate

    @property
    def _fate(self) -> str:
        # A command that dies of a panic may be told so before the guest is held.
        # The NMI that a dead kernel gets makes it panic.
        if self._told not in _OVER and self.session.console.panic.is_set():
            return "panicked"
        if self._told == "running" and self.session.in_gdb:
            return IN_GDB
        return STARTING if self._told == "running" and not self.session.machine.hello.done() else self._told

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
                if panic.done() and not held and self._told not in _OVER and panic.result() is End.PANIC:
                    await session.hold()
                    self._become("panicked")
                if panic.done() and self._told not in _OVER and panic.result() is End.DEADLINE:
                    await session.interrogate()
                    await session.hold()
                    self._become("hung")
                if session.machine.ended.done():
                    self.why = ""
                    return End.GONE
                if stop.done() or idle.done():
                    return {"panicked": End.PANIC, "hung": End.DEADLINE}.get(self._fate, End.COMMAND)
        finally:
            for task in (panic, stop, idle):
                task.cancel()
            await asyncio.gather(panic, stop, idle, return_exceptions=True)

    async def close(self) -> None:
        """End what is still being served; each client that listens is told."""
        await self._debugger.close()
        self._become("stopped")
        # Where QEMU is gone they know by themselves how it went.
        for job in [] if self.session.machine.ended.done() else self._jobs.values():
            job.abandon(self.why)
        serving: set[asyncio.Task[Any]] = {*self._following, *self._serving}
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
                _fit(self._exec, reader, writer, **message)
                return {"result": await self._exec(reader, writer, **message)}
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

    async def _exec(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        argv: list[str],
        timeout: float | None,
        cwd: str,
        env: dict[str, str],
        stdin: bool,
        background: bool,
    ) -> dict[str, Any]:
        if self._state == STARTING and (came := await self.session.up()) is not End.COMMAND:
            raise HarnessError(f"{self.request.name} has not booted: {came}", hint=f"{self._log}; kernloop vm stop")
        self._must_run()
        # A command's time does not begin before the guest can do anything.
        await self._moves.wait()
        job = await self._begun(argv, cwd or self._made.cwd, {**self._made.env, **env}, stdin=stdin)
        end = asyncio.create_task(job.follow(timeout))
        self._following.add(end)
        end.add_done_callback(self._job_over)
        if background:
            return {"job": job.number, "running": True}
        writer.write(wire.line({"job": job.number}))
        with _hang_up(writer) as gone:
            helpers = {asyncio.create_task(self._tell_still(writer))}
            if stdin:
                helpers.add(asyncio.create_task(self._feed(job, reader)))
            job.on_bytes = _sender(self.session.machine, job, writer, helpers)
            signs: set[asyncio.Future[Any]] = {end, gone}
            try:
                await asyncio.wait(signs, return_when=asyncio.FIRST_COMPLETED)
                if not end.done():
                    job.kill()  # nobody will read what it says
                # Not to be cancelled with this connection: the job's end is others' business, too.
                result = await asyncio.shield(end)
            finally:
                job.on_bytes = lambda stream, data: None
                for task in helpers:
                    task.cancel()
                await asyncio.gather(*helpers, return_exceptions=True)
        return result.as_json()

    async def _begun(self, argv: list[str], cwd: str, env: dict[str, str], *, stdin: bool) -> LiveJob:
        run_request(argv, cwd=cwd, env=env)
        self._last_job += 1
        job = LiveJob(self.session, self.request.name, self._last_job, argv)
        try:
            self.session.run.note("exec", job=job.number, argv=argv)
            job.job = await self.session.machine.execute(
                argv, on_stdout=job.take("stdout"), on_stderr=job.take("stderr"), cwd=cwd, env=env, stdin=stdin
            )
        except BaseException:
            job.close()
            raise
        self._jobs[job.number] = job
        ended = [number for number, job in self._jobs.items() if job.ended.done()]
        for number in ended[:-_KEPT_JOBS]:
            del self._jobs[number]
        return job

    # What the client sends to the command's stdin.
    async def _feed(self, job: LiveJob, reader: asyncio.StreamReader) -> None:
        while text := await reader.readline():
            message = json.loads(text)
            if "in" in message:
                await self.session.machine.send_stdin(job.job, wire.unpack(message["in"]))
            elif "eof" in message:
                self.session.machine.close_stdin(job.job)

    # While a debugger keeps the guest still the command's time does not pass, and its client's patience shall not.
    async def _tell_still(self, writer: asyncio.StreamWriter) -> None:
        while True:
            await asyncio.wait({self.session.machine.moves.next}, timeout=_STILL_SECONDS)
            if self.session.in_debugger:
                writer.write(wire.line({"state": self._state}))

    def _job_over(self, task: asyncio.Task[Any]) -> None:
        self._following.discard(task)
        self._last = time.monotonic()

    async def _info(self) -> dict[str, Any]:
        await self.session.console_caught_up()
        return self.info()

    # The worst that the kernel reported, if it is a crash: `verdict` is the one that stopping the VM now would give.
    def _crash(self) -> dict[str, Any] | None:
        worst = most_severe(self.session.console.crashes)
        if worst is None or worst.severity not in (Severity.PANIC, Severity.OOPS):
            return None
        return {
            "verdict": worst.severity,
            "kind": worst.kind,
            "title": worst.title,
            "function": worst.function,
            "lines": [worst.start_line, worst.end_line],
        }

    async def _job(self, job: int, timeout: float) -> dict[str, Any]:
        found = self._find(job)
        with contextlib.suppress(TimeoutError):
            result = await asyncio.wait_for(asyncio.shield(found.ended), timeout)
            return {**result.as_json(), "running": False}
        return {"job": job, "running": True}

    async def _kill(self, job: int) -> dict[str, Any]:
        self._find(job).kill()
        return await self._job(job, 5.0)

    def _find(self, number: int) -> LiveJob:
        if number not in self._jobs:
            known = " ".join(map(str, self._jobs)) or "none"
            raise UsageError(
                f"there is no job {number}; there are: {known}", hint=f"see also {self.session.run.path}/jobs"
            )
        return self._jobs[number]

    # Until the console has a line that fits `pattern` after byte `since`, or the kernel reports something, or the guest
    # is off. `cursor` is where the next wait should begin.
    async def _wait(self, what: str, pattern: str, since: int, timeout: float) -> dict[str, Any]:
        wanted = re.compile(pattern.encode()) if what == "pattern" else None
        deadline = time.monotonic() + timeout
        console = self.session.console
        before = len(console.crashes) if what == "report" and since < 0 else 0
        machine = self.session.machine
        while True:
            news: set[asyncio.Future[Any]] = {machine.console_news.next, self._changed.next}
            late = time.monotonic() >= deadline
            over = self._told in _OVER
            # QEMU writes what it has sent to us into the log a moment later.
            behind = not await self._logged(machine.console_bytes)
            if wanted is not None:
                found = _search(self._log, wanted, since)
                since = found["cursor"]
                if found["matched"]:
                    return {**found, "state": self._state}
            elif what == "report" and (new := console.crashes[before:]):
                crash = new[0]
                return {
                    "matched": True,
                    "line": crash.title,
                    "lines": [crash.start_line, crash.end_line],
                    "cursor": self._log.stat().st_size,
                    "state": self._state,
                }
            if over or late:
                cursor = since if wanted is not None else self._log.stat().st_size
                return {"matched": over and what == "exit", "line": "", "cursor": cursor, "state": self._state}
            left = max(deadline - time.monotonic(), 0)
            await asyncio.wait(news, timeout=min(left, 1) if behind else left, return_when=asyncio.FIRST_COMPLETED)

    # Whether the log has the first `count` bytes of this machine, within a second.
    async def _logged(self, count: int) -> bool:
        for _ in range(100):
            if self._log.stat().st_size - self.session.printed_before >= count:
                return True
            await asyncio.sleep(0.01)
        return False

    def _become(self, state: str) -> None:
        self._told = state
        self.session.paused = state == "paused"
        self._changed.tell()

    async def _sysrq(self, keys: str) -> dict[str, Any]:
        if not _SYSRQ_KEYS.fullmatch(keys):
            raise UsageError(
                f"{keys!r} are no SysRq keys", hint="l CPUs' backtraces, w blocked tasks, t all tasks, c crash, s sync"
            )
        self._must_run()
        before = self._log.stat().st_size
        self.session.run.note("sysrq", keys=keys)
        # One at a time: a break that comes while a key is still in the serial port's FIFO takes both away, and so may
        # one that comes while the kernel still prints its answer.
        for place, key in enumerate(keys, 1):
            since = self._log.stat().st_size
            await self.session.machine.send_break(key)
            if place < len(keys):
                if not (await self._wait("pattern", "sysrq: ", since, _SYSRQ_SECONDS))["matched"]:
                    break
                await self.session.until_quiet(_SYSRQ_SECONDS)
        return {"cursor": before}

    async def _nmi(self) -> dict[str, Any]:
        self._must_run()
        before = self._log.stat().st_size
        self.session.run.note("nmi")
        await self.session.machine.qmp("inject-nmi")
        return {"cursor": before}

    async def _pause(self) -> dict[str, Any]:
        self._must_run(alone=True)
        async with self._alone("pausing it"), self.session.looking:
            await self.session.machine.qmp("stop")
            self._become("paused")
        return {"state": self._state}

    async def _resume(self) -> dict[str, Any]:
        if self.session.in_debugger:
            self._must_run()
        if self._state in ("panicked", "hung"):
            raise UsageError(
                f"the kernel has {self._state}: nothing would go on", hint="kernloop vm dump, then vm stop"
            )
        async with self._alone("resuming it"):
            await self.session.machine.qmp("cont")
            self._become("running")
            self._tell_time()
        return {"state": self._state}

    async def _dump(self, path: str, elf: bool = False) -> dict[str, Any]:
        async with self._alone("writing its memory to a file"):
            self.session.run.note("dump", path=path)
            try:
                release = self._hello.release
                return await dump.take(self.session.machine, Path(path), self.request.memory, release, elf=elf)
            finally:
                self._tell_time()

    # The guest's memory, to be read by the client itself. With `hold` the guest stands still for as long as the client
    # stays connected: it cannot forget to let it go on. The answer has a descriptor with it, so it is sent from here.
    async def _memory(self, writer: asyncio.StreamWriter, *, hold: bool) -> dict[str, Any]:
        machine = self.session.machine
        await self._until_still()
        if hold and self._state == "running":
            self._must_run(alone=True)
        with contextlib.ExitStack() as stack:
            gone = stack.enter_context(_hang_up(writer))
            if not self._vmcoreinfo:
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="kernloop-memory-"))
                self._vmcoreinfo = await vmcoreinfo(machine, Path(folder))
            regions = await ram(machine)
            file = memory_file(machine)
            stack.callback(os.close, file)
            running = self._state == "running"
            about = {
                "state": self._state,
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
                    self.session.paused = self._state == "paused"
                    self._moves.set()
                    if not machine.ended.done():
                        await machine.qmp("cont")
                        self._tell_time()
        return {}

    # A kernel that panics is told so while it may still write its log, and one that hangs is asked for its last words:
    # it is read, or a debugger comes, when it stands still. Whether it does not yet.
    async def _until_still(self) -> bool:
        ended = self.session.machine.ended
        async with self.session.looking:
            pass
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SETTLE_SECONDS):
                while self._dying and not ended.done():
                    signs: set[asyncio.Future[Any]] = {self._changed.next, ended}
                    await asyncio.wait(signs, return_when=asyncio.FIRST_COMPLETED)
        return self._dying

    @property
    def _dying(self) -> bool:
        return self._told not in _OVER and (self._state == "panicked" or self.session.hung.is_set())

    # QEMU's gdbstub, for as long as the client stays connected: a debugger that dies cannot leave the guest stopped.
    async def _gdbstub(self, writer: asyncio.StreamWriter) -> dict[str, Any]:
        if await self._until_still():
            raise HarnessError(f"{self.request.name} is being asked for its last words", hint="try again")
        if self._state in ("paused", State.IN_KGDB):
            self._must_run()
        with _hang_up(writer) as gone:
            async with stub.opened(self.session, dead=self._state in _OVER):
                writer.write(wire.line({"result": {"state": self._state, "socket": stub.NAME}}))
                stopped = asyncio.create_task(self._stopped.wait())
                try:
                    signs: set[asyncio.Future[Any]] = {gone, self.session.machine.ended, stopped}
                    await asyncio.wait(signs, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    stopped.cancel()
            if not self.session.machine.ended.done():
                self._tell_time()
        return {}

    async def _snapshot(self, tag: str) -> dict[str, Any]:
        self._must_run(alone=True)
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

    # The guest's clock stood still with it.
    def _tell_time(self) -> None:
        if self._state == "running" and self.request.seed is None:
            self.session.machine.wake(real_time=True)

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
            return {**self._debugger.told(), **self._instead_of_kgdb()}
        if do == "end" and self._state in _OVER:
            # What GDB has left to do is to go.
            await self._debugger.close()
            return {**self._debugger.told(), **self._instead_of_kgdb()}
        if self.session.debugged:
            raise UsageError(f"gdb is at {self.request.name}", hint=f"kernloop debug gdb {self.request.name} detach")
        if self._state not in ("running", STARTING, State.IN_KGDB):
            raise UsageError(f"{self.request.name} is {self._state}", hint=self._next)
        return await self._debugger.do(do, words, timeout)

    # What counts where nobody could come to the kernel: it is dead, or another keeps it still.
    def _instead_of_kgdb(self) -> dict[str, Any]:
        state = self._state
        if state in ("running", STARTING, State.IN_KGDB):
            return {}
        crash = most_severe(self.session.console.crashes)
        why = {"panicked": crash.title if crash else "", "hung": str(worst(self.session.stuck) or "")}
        state = State.EXITED if state == "stopped" else state
        return {"state": state, "why": why.get(state, ""), "next": self._next, "still": True, "stop": None}

    # What to do about the state that it is in, "" when it simply runs.
    @property
    def _next(self) -> str:
        name, run = self.request.name, self.session.run.path
        match self._state:
            case "panicked":
                return f"kernloop vm console {name}; vm dump; then vm stop"
            case "hung":
                return f"{run}/{FILE}; vm dump; then vm stop"
            case "paused":
                return f"kernloop vm resume {name}"
            case "in-gdb":
                return f"kernloop debug gdb {name} continue, or detach"
            case State.IN_KGDB if self._debugger.attended:
                return f"kernloop debug kgdb {name} continue, or: kernloop debug kgdb {name} end"
            case State.IN_KGDB:
                return f"kernloop debug kgdb {name} end, or to look: kernloop debug kgdb {name} enter"
        return f"kernloop debug kgdb {name} end" if self._debugger.state is State.LOST else ""

    async def _stop(self) -> dict[str, Any]:
        self.why = "stopped"
        self._stopped.set()
        return {"state": "stopping"}

    # "newest" may be another kernel tomorrow.
    def _by_digest(self) -> VmRequest:
        return VmRequest.of_json({**self.request.as_json(), "kernel": f"sha256:{self.guest.kernel.digest}"})

    # What stops the guest itself and lets it go on is not for a VM that has a debugger: with `alone`.
    def _must_run(self, *, alone: bool = False) -> None:
        name = self.request.name
        if self._state == "panicked":
            crashes = self.session.console.crashes
            also = f": {crashes[-1].title}" if crashes else ""
            raise HarnessError(f"the kernel of {name} has panicked{also}", hint=self._next)
        if self._state == "hung":
            raise HarnessError(f"the kernel of {name} hangs: {worst(self.session.stuck)}", hint=self._next)
        if self._state == IN_GDB:
            raise UsageError(f"{name} stands still in gdb", hint=self._next)
        if self._state == State.IN_KGDB:
            left = "" if self._debugger.attended else ", and nobody is there"
            raise UsageError(f"{name} sits in its kernel's debugger{left}: nothing runs", hint=self._next)
        if alone and self.session.debugged:
            raise UsageError(f"gdb is at {name}", hint=f"kernloop debug gdb {name} detach")
        if self._state != "running":
            raise UsageError(f"{name} is {self._state}", hint=self._next or "kernloop vm list")

    @property
    def _log(self) -> Path:
        return self.session.run.path / "console.log"

    # A VM that nobody talks to and that does nothing ends by itself.
    async def _idle(self) -> None:
        while True:
            left = self._last + self.request.idle - time.monotonic()
            if self._clients or self.busy:
                left = max(left, min(self.request.idle, 5.0))
            elif left <= 0:
                self.why = f"stopped: nobody used it for {self.request.idle:g} s"
                return
            await asyncio.sleep(left)


# Done when the other side closes its end, also while nobody reads what it sent before.
@contextlib.contextmanager
def _hang_up(writer: asyncio.StreamWriter) -> Iterator[asyncio.Future[None]]:
    loop = asyncio.get_running_loop()
    gone: asyncio.Future[None] = loop.create_future()
    with select.epoll() as poller:
        poller.register(writer.get_extra_info("socket").fileno(), select.EPOLLRDHUP)

        def told() -> None:
            loop.remove_reader(poller.fileno())
            gone.set_result(None)

        loop.add_reader(poller.fileno(), told)
        try:
            yield gone
        finally:
            loop.remove_reader(poller.fileno())


# What sends a piece of output to a client. One that does not read must not fill our memory: its command has to wait.
def _sender(
    machine: Machine, job: LiveJob, writer: asyncio.StreamWriter, helpers: set[asyncio.Task[None]]
) -> Callable[[str, bytes], None]:
    writer.transport.set_write_buffer_limits(high=_UNSENT_MAX)
    held = False

    async def until_taken() -> None:
        nonlocal held
        machine.hold_output(job.job, True)
        with contextlib.suppress(OSError):
            await writer.drain()
        held = False
        machine.hold_output(job.job, False)

    def send(stream: str, data: bytes) -> None:
        nonlocal held
        writer.write(wire.line({stream[3:]: wire.pack(data)}))
        if not held and writer.transport.get_write_buffer_size() > _UNSENT_MAX:
            held = True
            task = asyncio.create_task(until_taken())
            helpers.add(task)
            task.add_done_callback(helpers.discard)

    return send


# Raises UsageError when `operation` does not take these words.
def _fit(operation: Callable[..., Any], *words: Any, **named: Any) -> None:
    try:
        signature(operation).bind(*words, **named)
    except TypeError as error:
        raise UsageError(f"a VM was asked wrongly: {error}", hint=_VERSION_HINT) from None


# The first line after byte `since` that fits; `cursor` is behind it, or behind the last whole line.
def _search(log: Path, wanted: re.Pattern[bytes], since: int) -> dict[str, Any]:
    with log.open("rb") as file:
        at = min(max(since, 0), log.stat().st_size)
        file.seek(at)
        for text in file:
            whole = text.endswith(b"\n")
            if wanted.search(text.rstrip(b"\r\n")):
                return {"matched": True, "line": text.decode(errors="replace").rstrip(), "cursor": at + len(text)}
            if not whole:
                break
            at += len(text)
    return {"matched": False, "line": "", "cursor": at}
