# SPDX-License-Identifier: Apache-2.0
"""What a VM's supervisor does for its clients: one method an operation, named as in kernloop.vm.wire's `op`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import select
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from inspect import signature
from pathlib import Path
from typing import Any

from kernloop.errors import HarnessError, UsageError
from kernloop.report.crash import most_severe
from kernloop.report.severity import Severity
from kernloop.vm import dump, saved, wire
from kernloop.vm.backends import Backend
from kernloop.vm.frames import run_request
from kernloop.vm.jobs import LiveJob
from kernloop.vm.machine import Machine
from kernloop.vm.news import News
from kernloop.vm.request import VmRequest
from kernloop.vm.session import End, Session
from kernloop.vm.stuck import FILE, worst

__all__ = ["Server"]

# So much output waits for a slow client; then the command does.
_UNSENT_MAX = 4 << 20
_CLOSE_SECONDS = 2.0
_REQUEST_SECONDS = 30.0
# Of so many commands that have ended the results are at hand.
_KEPT_JOBS = 256
_VERSION_HINT = "is the client of another version of kernloop?"
# A key waits for what the one before it prints, at the speed of a serial port.
_SYSRQ_SECONDS = 10.0
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
        }

    @property
    def busy(self) -> bool:
        """Whether a command runs."""
        return any(not job.ended.done() for job in self._jobs.values())

    def info(self) -> dict[str, Any]:
        """What `vm list` and `vm start` tell."""
        hello = self.session.machine.hello.result()
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
            "console_bytes": self._log.stat().st_size,
            "times": {name: round(seconds, 3) for name, seconds in self.session.times.items()},
        }

    @property
    def _state(self) -> str:
        # A command that dies of a panic may be told so before the guest is held.
        # The NMI that a dead kernel gets makes it panic.
        return "panicked" if self._told not in _OVER and self.session.console.panic.is_set() else self._told

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
                await asyncio.wait(waits if panic.done() else {*waits, panic}, return_when=asyncio.FIRST_COMPLETED)
                if panic.done() and self._told not in _OVER and panic.result() is End.PANIC:
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
                    return {"panicked": End.PANIC, "hung": End.DEADLINE}.get(self._state, End.COMMAND)
        finally:
            for task in (panic, stop, idle):
                task.cancel()
            await asyncio.gather(panic, stop, idle, return_exceptions=True)

    async def close(self) -> None:
        """End what is still being served; each client that listens is told."""
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
                writer.write(wire.line(await self._answer(text, reader, writer)))
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
            if name not in self._operations:
                raise UsageError(f"a VM cannot {name!r}", hint=_VERSION_HINT)
            _fit(self._operations[name], **message)
            return {"result": await self._operations[name](**message)}
        except HarnessError as error:
            return wire.failure(error)
        except OSError as error:
            what = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
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
        self._must_run()
        job = await self._begun(argv, cwd or self._made.cwd, {**self._made.env, **env}, stdin=stdin)
        end = asyncio.create_task(job.follow(timeout))
        self._following.add(end)
        end.add_done_callback(self._job_over)
        if background:
            return {"job": job.number, "running": True}
        writer.write(wire.line({"job": job.number}))
        with _hang_up(writer) as gone:
            helpers = {asyncio.create_task(self._feed(job, reader))} if stdin else set()
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
        self._must_run()
        async with self._alone("pausing it"):
            await self.session.machine.qmp("stop")
            self._become("paused")
        return {"state": self._state}

    async def _resume(self) -> dict[str, Any]:
        if self._state in ("panicked", "hung"):
            raise UsageError(
                f"the kernel has {self._state}: nothing would go on", hint="kernloop vm dump, then vm stop"
            )
        async with self._alone("resuming it"):
            await self.session.machine.qmp("cont")
            self._become("running")
            self._tell_time()
        return {"state": self._state}

    async def _dump(self, path: str) -> dict[str, Any]:
        async with self._alone("writing its memory to a file"):
            self.session.run.note("dump", path=path)
            try:
                release = self.session.machine.hello.result().release
                return await dump.take(self.session.machine, Path(path), self.request.memory, release)
            finally:
                self._tell_time()

    async def _snapshot(self, tag: str) -> dict[str, Any]:
        self._must_run()
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

    async def _stop(self) -> dict[str, Any]:
        self.why = "stopped"
        self._stopped.set()
        return {"state": "stopping"}

    # "newest" may be another kernel tomorrow.
    def _by_digest(self) -> VmRequest:
        return VmRequest.of_json({**self.request.as_json(), "kernel": f"sha256:{self.guest.kernel.digest}"})

    def _must_run(self) -> None:
        if self._state == "panicked":
            crashes = self.session.console.crashes
            raise HarnessError(
                f"the kernel of {self.request.name} has panicked" + (f": {crashes[-1].title}" if crashes else ""),
                hint=f"kernloop vm console {self.request.name}; vm dump; then vm stop",
            )
        if self._state == "hung":
            raise HarnessError(
                f"the kernel of {self.request.name} hangs: {worst(self.session.stuck)}",
                hint=f"{self.session.run.path}/{FILE}; vm dump; then vm stop",
            )
        if self._state != "running":
            raise UsageError(f"{self.request.name} is {self._state}", hint=f"kernloop vm resume {self.request.name}")

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
