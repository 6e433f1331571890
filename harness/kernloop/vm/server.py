# SPDX-License-Identifier: Apache-2.0
"""What a VM's supervisor does for its clients: one method an operation, named as in kernloop.vm.wire's `op`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from kernloop.errors import HarnessError, UsageError
from kernloop.report.crash import most_severe
from kernloop.report.severity import Severity
from kernloop.vm import dump, saved, wire
from kernloop.vm.frames import run_request
from kernloop.vm.jobs import LiveJob, Result
from kernloop.vm.request import VmRequest
from kernloop.vm.session import GUEST_ENV, End, Guest, Session

__all__ = ["Server"]

# So much output waits for a slow client.
_UNSENT_MAX = 16 << 20
_CLOSE_SECONDS = 2.0
_SYSRQ_KEYS = re.compile(r"[0-9a-zA-Z]{1,16}")


class Server:
    """Serves one guest. `news` is set at each line of the console, `stopped` by whoever wants the VM to end."""

    def __init__(
        self, request: VmRequest, guest: Guest, session: Session, news: asyncio.Event, stopped: asyncio.Event
    ) -> None:
        self.request = request
        self.guest = guest
        self.session = session
        self.why = "stopped by a signal"
        self._news = news
        self._stopped = stopped
        self._jobs: dict[int, LiveJob] = {}
        self._serving: set[asyncio.Task[None]] = set()
        self._following: dict[asyncio.Task[Result], LiveJob] = {}
        self._state = "running"
        self._began = time.time()
        self._last = asyncio.get_running_loop().time()
        self._clients = 0
        self._changed = asyncio.Condition()

    @property
    def busy(self) -> bool:
        """Whether a command runs."""
        return any(not job.ended.done() for job in self._jobs.values())

    def info(self) -> dict[str, Any]:
        """What `vm list` and `vm start` tell."""
        hello = self.session.machine.hello.result()
        return {
            "state": self._state,
            "backend": self.request.backend,
            "kernel": self.guest.kernel.ref,
            "release": hello.release,
            "build_id": hello.build_id,
            "cpus": self.request.topology.cpus,
            "memory": self.request.memory,
            "seed": self.request.seed,
            "pid": self.session.machine.pid,
            "supervisor": os.getpid(),
            "uptime": round(time.time() - self._began, 1),
            "jobs": {str(number): "ended" if job.ended.done() else "running" for number, job in self._jobs.items()},
            "reports": [crash.title for crash in self.session.console.crashes],
            "crash": self._crash(),
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
                await asyncio.wait(waits if panic.done() else {*waits, panic}, return_when=asyncio.FIRST_COMPLETED)
                if panic.done() and self._state != "panicked" and panic.result() is End.PANIC:
                    self._state = "panicked"
                    await session.hold()
                    await self._tell_change()
                if session.machine.ended.done():
                    return End.GONE
                if stop.done() or idle.done():
                    return End.PANIC if self._state == "panicked" else End.COMMAND
        finally:
            for task in (panic, stop, idle):
                task.cancel()
            await asyncio.gather(panic, stop, idle, return_exceptions=True)

    async def close(self) -> None:
        """End what is still being served; each client is told."""
        self._state = "stopped"
        await self._tell_change()
        for job in self._following.values():
            job.abandon.set()
        serving = [*self._following, *self._serving]
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
            text = await reader.readline()
            if text.endswith(b"\n"):
                writer.write(wire.line(await self._answer(json.loads(text), reader, writer)))
                await writer.drain()
        except (OSError, ValueError):
            pass  # a client that goes away, or is none
        finally:
            self._clients -= 1
            self._last = asyncio.get_running_loop().time()
            self._serving.discard(task)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _answer(
        self, message: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> dict[str, Any]:
        name = message.pop("op", "")
        operations: dict[str, Callable[..., Awaitable[object]]] = {
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
        try:
            if name == "exec":
                return {"result": await self._exec(message, reader, writer)}
            if name not in operations:
                raise UsageError(f"a VM cannot {name!r}", hint="is the client of another version of kernloop?")
            return {"result": await operations[name](**message)}
        except HarnessError as error:
            return wire.failure(error)

    async def _exec(
        self, message: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> dict[str, Any]:
        self._must_run()
        argv, background = message["argv"], message["background"]
        env = {**GUEST_ENV, **message["env"]}
        run_request(argv, cwd=message["cwd"], env=env)
        job = await self._begun(argv, message, env)
        end = asyncio.create_task(job.follow(message["timeout"]))
        self._following[end] = job
        end.add_done_callback(self._job_over)
        if background:
            return {"job": job.number, "running": True}
        unsent = 0

        # A client that does not read must not fill our memory: what it misses is in the job's files.
        def send(stream: str, data: bytes) -> None:
            nonlocal unsent
            if unsent or writer.transport.get_write_buffer_size() > _UNSENT_MAX:
                unsent += len(data)
            else:
                writer.write(wire.line({stream[3:]: wire.pack(data)}))

        job.on_bytes = send
        writer.write(wire.line({"job": job.number}))
        feeder = asyncio.create_task(self._feed(job, reader, stdin=message["stdin"]))
        try:
            await asyncio.wait({end, feeder}, return_when=asyncio.FIRST_COMPLETED)
            if not end.done():
                job.kill()  # the client is gone, nobody will read what it says
            result = await end
        finally:
            feeder.cancel()
            await asyncio.gather(feeder, return_exceptions=True)
        return {**result.as_json(), "unsent": unsent}

    async def _begun(self, argv: list[str], message: dict[str, Any], env: dict[str, str]) -> LiveJob:
        machine = self.session.machine
        number = len(self._jobs) + 1
        job = LiveJob(self.session, number, argv)
        self.session.run.note("exec", job=number, argv=argv)
        job.job = await machine.execute(
            argv,
            on_stdout=job.take("stdout"),
            on_stderr=job.take("stderr"),
            cwd=message["cwd"],
            env=env,
            stdin=message["stdin"],
        )
        self._jobs[number] = job
        return job

    # What the client sends to the command's stdin; returns when the client is gone.
    async def _feed(self, job: LiveJob, reader: asyncio.StreamReader, *, stdin: bool) -> None:
        while text := await reader.readline():
            message = json.loads(text)
            if not stdin:
                continue
            if "in" in message:
                await self.session.machine.send_stdin(job.job, wire.unpack(message["in"]))
            elif "eof" in message:
                self.session.machine.close_stdin(job.job)

    def _job_over(self, task: asyncio.Task[Result]) -> None:
        del self._following[task]
        self._last = asyncio.get_running_loop().time()

    async def _info(self) -> dict[str, Any]:
        await self.session.console_caught_up()
        return self.info()

    # The worst that the kernel reported, if it is a crash: `verdict` is the one that stopping the VM now would give.
    def _crash(self) -> dict[str, Any] | None:
        worst = most_severe(self.session.console.crashes)
        if worst is None or worst.severity not in (Severity.PANIC, Severity.OOPS):
            return None
        return {"verdict": worst.severity, "title": worst.title, "lines": [worst.start_line, worst.end_line]}

    async def _job(self, job: int, timeout: float) -> dict[str, Any]:
        found = self._find(job)
        with contextlib.suppress(TimeoutError):
            result = await asyncio.wait_for(asyncio.shield(found.ended), timeout)
            return {**result.as_json(), "running": False, "folder": str(found.folder)}
        return {"job": job, "running": True, "folder": str(found.folder)}

    async def _kill(self, job: int) -> dict[str, Any]:
        self._find(job).kill()
        return await self._job(job, 5.0)

    def _find(self, number: int) -> LiveJob:
        if number not in self._jobs:
            known = " ".join(map(str, self._jobs)) or "none"
            raise UsageError(f"there is no job {number}; there are: {known}", hint="kernloop vm list shows them")
        return self._jobs[number]

    # Until the console has a line that fits `pattern` after byte `since`, or the kernel reports something, or the guest
    # is off. `cursor` is where the next wait should begin.
    async def _wait(self, what: str, pattern: str, since: int, timeout: float) -> dict[str, Any]:
        wanted = re.compile(pattern.encode()) if what == "pattern" else None
        deadline = asyncio.get_running_loop().time() + timeout
        before = len(self.session.console.crashes) if what == "report" and since < 0 else 0
        while True:
            self._news.clear()
            if wanted is not None:
                found = _search(self._log, wanted, since)
                since = found["cursor"]
                if found["matched"]:
                    return {**found, "state": self._state}
            elif what == "report" and (new := self.session.console.crashes[before:]):
                crash = new[0]
                return {
                    "matched": True,
                    "line": crash.title,
                    "lines": [crash.start_line, crash.end_line],
                    "cursor": self._log.stat().st_size,
                    "state": self._state,
                }
            over = self._state in ("panicked", "stopped")
            left = deadline - asyncio.get_running_loop().time()
            if over or left <= 0:
                cursor = since if wanted is not None else self._log.stat().st_size
                matched = over and what == "exit"
                return {"matched": matched, "line": "", "cursor": cursor, "state": self._state}
            await self._some_news(left)

    async def _some_news(self, seconds: float) -> None:
        change: asyncio.Task[Any] = asyncio.create_task(self._change())
        line: asyncio.Task[Any] = asyncio.create_task(self._news.wait())
        try:
            await asyncio.wait({change, line}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            change.cancel()
            line.cancel()
            await asyncio.gather(change, line, return_exceptions=True)

    async def _change(self) -> None:
        async with self._changed:
            await self._changed.wait()

    async def _tell_change(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _sysrq(self, keys: str) -> dict[str, Any]:
        if not _SYSRQ_KEYS.fullmatch(keys):
            raise UsageError(
                f"{keys!r} are no SysRq keys", hint="l CPUs' backtraces, w blocked tasks, t all tasks, c crash, s sync"
            )
        before = self._log.stat().st_size
        self.session.run.note("sysrq", keys=keys)
        await self.session.machine.send_break(keys)
        return {"cursor": before}

    async def _nmi(self) -> dict[str, Any]:
        before = self._log.stat().st_size
        self.session.run.note("nmi")
        await self.session.machine.qmp("inject-nmi")
        return {"cursor": before}

    async def _pause(self) -> dict[str, Any]:
        self._must_run()
        await self.session.machine.qmp("stop")
        self._state = "paused"
        return {"state": self._state}

    async def _resume(self) -> dict[str, Any]:
        if self._state == "panicked":
            raise UsageError("the kernel has panicked: nothing would go on", hint="kernloop vm dump, then vm stop")
        await self.session.machine.qmp("cont")
        self._state = "running"
        return {"state": self._state}

    async def _dump(self, path: str) -> dict[str, Any]:
        self.session.run.note("dump", path=path)
        return await dump.take(self.session.machine, Path(path))

    async def _snapshot(self, tag: str) -> dict[str, Any]:
        if self._state == "panicked":
            raise UsageError("the kernel has panicked: there is nothing to go on from", hint="kernloop vm dump")
        machine = self.session.machine
        self.session.run.note("snapshot", tag=tag)
        request = self._by_digest()
        with saved.making(tag, request, self.guest.key(), machine.next_job) as folder:
            try:
                await machine.save(folder / "state", without_shared_ram=False)
                (folder / "console").write_bytes(self._log.read_bytes())
            finally:
                if self._state == "running":
                    await machine.qmp("cont")
        size = saved.load(tag).size
        return {"tag": tag, "bytes": size}

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
        if self._state != "running":
            raise UsageError(f"{self.request.name} is {self._state}", hint=f"kernloop vm resume {self.request.name}")

    @property
    def _log(self) -> Path:
        return self.session.run.path / "console.log"

    # A VM that nobody talks to and that does nothing ends by itself.
    async def _idle(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            left = self._last + self.request.idle - loop.time()
            if self._clients or self.busy:
                left = max(left, min(self.request.idle, 5.0))
            elif left <= 0:
                self.why = f"stopped: nobody used it for {self.request.idle:g} s"
                return
            await asyncio.sleep(left)


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
