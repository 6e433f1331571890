# SPDX-License-Identifier: Apache-2.0
"""A QEMU that runs: its console, its agent and its monitor. kernloop.vm.qemu starts it, and owns its process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from qemu.qmp import EventListener, QMPClient, QMPError

from kernloop.errors import HarnessError
from kernloop.kernel.notes import build_id_of_notes
from kernloop.vm.frames import STDIN_WINDOW, Decoder, Frame, Kind, encode, run_request
from kernloop.vm.news import News

__all__ = ["Ended", "Hello", "Job", "Machine"]

_PIECE = 1 << 18
_QMP_SECONDS = 10.0
# A snapshot of a guest with gigabytes of memory in use, written to a slow disk.
_MIGRATION_SECONDS = 120.0
# What a QEMU that has gone left in the pipes is read at once, unless whoever takes it is slow.
_DRAIN_SECONDS = 5.0
# The agent answers between two frames, unless the guest hangs.
_REST_SECONDS = 10.0
# Commands are numbered from 1 to this, then again from 1: a frame has 16 bits for it.
_NUMBERS = 0xFFFF


@dataclass(frozen=True)
class Hello:
    """What the guest said when its init was up: the kernel it really runs."""

    release: str
    build_id: str


@dataclass(frozen=True)
class Ended:
    """How QEMU went: its wait status as subprocess gives it (negative: the signal), and what it said on stderr."""

    status: int
    stderr: str


class Job:
    """A command in the guest. `done` gives its exit code, minus the signal, or in words why it did not start; then
    `printed` is when the console has what the kernel had logged by its end."""

    def __init__(
        self, on_stdout: Callable[[bytes], None], on_stderr: Callable[[bytes], None], *, number: int = 0
    ) -> None:
        self.on_stdout = on_stdout
        self.on_stderr = on_stderr
        self.number = number
        self.done: asyncio.Future[int | str] = asyncio.get_running_loop().create_future()
        self.printed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # What the agent has room for, and the news that it has more or needs no more.
        self.window = STDIN_WINDOW
        self.room = asyncio.Event()
        self.done.add_done_callback(lambda _: self.room.set())


class Machine:
    """Made by kernloop.vm.qemu. `hello` is done when the guest's init is up, `ready` when it may be frozen, `panicked`
    when QEMU saw the guest panic, `barked` when its watchdog did what it is there for, `ended` when QEMU is gone,
    `broken` when what the guest says can no longer be taken (full disk, closed stdout)."""

    def __init__(
        self,
        qemu: subprocess.Popen[bytes],
        agent: asyncio.StreamReader,
        to_agent: asyncio.WriteTransport,
        to_console: asyncio.WriteTransport,
        stderr_path: Path,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.hello: asyncio.Future[Hello] = loop.create_future()
        self.ready: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[Ended] = loop.create_future()
        self.broken: asyncio.Future[BaseException] = loop.create_future()
        self.panicked = asyncio.Event()
        self.barked = asyncio.Event()
        self.packed_job: Job | None = None
        self.shutdown_reason: str | None = None
        self._shut_down = asyncio.Event()
        self._qemu = qemu
        self._agent = agent
        self._to_agent = to_agent
        self._to_console = to_console
        self._stderr_path = stderr_path
        self._jobs: dict[int, Job] = {}
        self.next_job = 1
        self._notes = b""
        self._qmp: QMPClient | None = None
        self._events = EventListener()
        self._migrated: asyncio.Future[str] | None = None
        self._life: asyncio.Future[None] = loop.create_future()
        self._rests = 0
        self._at_rest: asyncio.Future[None] | None = None
        # What is kept back while the agent is at rest, None while it is not.
        self._later: list[bytes] | None = None
        self.console_bytes = 0
        # Told at each piece of the console, whole lines or not.
        self.console_news = News()
        # Whether the vCPUs stand still, for whatever reason; `moves` is told of each change.
        self.still = False
        self.moves = News()

    @property
    def pid(self) -> int:
        return self._qemu.pid

    @property
    def stopped(self) -> bool:
        """Whether a signal or a debugger of the host keeps QEMU from running (proc_pid_stat(5))."""
        with contextlib.suppress(OSError):
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] in "Tt"
        return False

    async def qmp(
        self, command: str, arguments: Mapping[str, object] | None = None, *, seconds: float = _QMP_SECONDS
    ) -> Any:
        """Run a QMP command. Raises HarnessError when QEMU does not answer within `seconds` or refuses."""
        if self._qmp is None:
            raise HarnessError(f"QEMU's monitor was not reached, so {command} cannot be asked")
        try:
            return await asyncio.wait_for(self._qmp.execute(command, dict(arguments or {})), seconds)
        except (QMPError, TimeoutError) as error:
            raise HarnessError(f"QMP {command}: {error or f'no answer within {seconds:g} s'}") from None

    async def save(self, state: Path, *, without_shared_ram: bool) -> None:
        """Stop the guest and write its state to `state`; it stays stopped.

        Memory in files mapped shared is left out if asked: these files hold it. Raises HarnessError.
        """
        await self.qmp("stop")
        await self._migrate("migrate", state, without_shared_ram)

    async def go_on(self) -> None:
        """Let the guest go on after `save`, whether that worked or not. Raises HarnessError."""
        # `cont` is refused until QEMU has left this state, a moment after it said that it is done, or has failed
        # (migration_iteration_finish() in QEMU's migration/migration.c).
        deadline = time.monotonic() + _QMP_SECONDS
        while (await self.qmp("query-status"))["status"] == "finish-migrate" and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        await self.qmp("cont")

    async def restore(self, state: Path, *, without_shared_ram: bool) -> None:
        """Take over the state of a machine that `save` wrote, and go on from there. Raises HarnessError."""
        await self._migrate("migrate-incoming", state, without_shared_ram)
        await self.qmp("cont")

    async def _migrate(self, command: str, state: Path, without_shared_ram: bool) -> None:
        capabilities = {"events": True, "x-ignore-shared": without_shared_ram}
        await self.qmp(
            "migrate-set-capabilities",
            {"capabilities": [{"capability": name, "state": on} for name, on in capabilities.items()]},
        )
        self._migrated = asyncio.get_running_loop().create_future()
        address = {"transport": "file", "filename": str(state), "offset": 0}
        await self.qmp(command, {"channels": [{"channel-type": "main", "addr": address}]})
        signs: set[asyncio.Future[Any]] = {self._migrated, self.ended}
        try:
            await asyncio.wait(signs, timeout=_MIGRATION_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not self._migrated.done() and not self.ended.done():
                with contextlib.suppress(HarnessError):
                    await self.qmp("migrate_cancel")
        if self._migrated.done() and self._migrated.result() == "completed":
            return
        said = f": {self.ended.result().stderr}" if self.ended.done() else ""
        raise HarnessError(f"QEMU could not {command} ({state.name}){said}", hint="is the disk full? try again")

    async def execute(
        self,
        argv: Sequence[str],
        *,
        on_stdout: Callable[[bytes], None],
        on_stderr: Callable[[bytes], None],
        cwd: str = "/root",
        env: Mapping[str, str],
        stdin: bool = False,
    ) -> Job:
        """Start `argv` in the guest; with `stdin` its standard input is open until `close_stdin`, else at its end."""
        request = run_request(argv, cwd=cwd, env=env)
        while self.next_job in self._jobs:
            self.next_job = self.next_job % _NUMBERS + 1
        number, self.next_job = self.next_job, self.next_job % _NUMBERS + 1
        job = self._jobs[number] = Job(on_stdout, on_stderr, number=number)
        self._send(Kind.RUN, number, request)
        if not stdin:
            self.close_stdin(job)
        return job

    async def send_stdin(self, job: Job, data: bytes) -> None:
        """Write to the standard input of `job`, as fast as it reads; a command that has ended loses it.

        One caller at a time for each job.
        """
        rest = memoryview(data)
        while rest and not job.done.done() and not self.ended.done():
            if not job.window:
                job.room.clear()
                await job.room.wait()
                continue
            piece = rest[: job.window]
            rest = rest[len(piece) :]
            job.window -= len(piece)
            self._send(Kind.STDIN, job.number, bytes(piece))

    def close_stdin(self, job: Job) -> None:
        """The command reads end of file after what was sent."""
        self._send(Kind.STDIN, job.number)

    def hold_output(self, job: Job, held: bool) -> None:
        """While held, the command's output waits in its pipes, and so does the command when they are full."""
        self._send(Kind.HOLD, job.number, bytes([held]))

    @contextlib.asynccontextmanager
    async def agent_at_rest(self, *, real_time: bool) -> AsyncIterator[None]:
        """In the block no frame is on its way, neither whole nor in part: a machine saved then can be talked to.

        Afterwards the guest is told the time again. Raises HarnessError when the agent does not answer.
        """
        self._rests = self._rests % _NUMBERS + 1
        at_rest = self._at_rest = asyncio.get_running_loop().create_future()
        self._send(Kind.REST, self._rests)
        self._later = []
        signs: set[asyncio.Future[Any]] = {at_rest, self.ended}
        try:
            await asyncio.wait(signs, timeout=_REST_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if not at_rest.done():
                raise HarnessError(
                    f"the guest's agent does not answer within {_REST_SECONDS:g} s", hint="does the guest hang?"
                )
            yield
        finally:
            later, self._later = self._later, None
            self.wake(real_time=real_time)
            for frame in later:
                self._to_agent.write(frame)

    @property
    def resting(self) -> bool:
        """Whether the agent is at rest: it does not answer now."""
        return self._later is not None

    def ask_for_life(self) -> asyncio.Future[None]:
        """Done when the agent has answered."""
        self._life = asyncio.get_running_loop().create_future()
        self._send(Kind.LIFE, 0)
        return self._life

    def wake(self, *, real_time: bool) -> None:
        """Tell a restored guest the time of day (it still has its snapshot's), and give it entropy of its own."""
        now = time.time_ns() if real_time else 0
        self._send(Kind.RESTORED, 0, struct.pack("<Q", now) + os.urandom(64))

    def kill(self, job: Job, number: int) -> None:
        """Send signal `number` to the process group of `job`."""
        self._send(Kind.KILL, job.number, struct.pack("<i", number))

    async def send_break(self, keys: str) -> None:
        """SysRq by serial break: BREAK, then one key, for each of `keys` (Documentation/admin-guide/sysrq.rst)."""
        for key in keys:
            await self.qmp("chardev-send-break", {"id": "console"})
            self._to_console.write(key.encode())

    async def watch_qemu(self, readers: Sequence[asyncio.Task[None]]) -> None:
        """Resolve `ended` when the process has gone and what it wrote last has been read: whoever sees the end knows
        of the command's as well, however long nobody could look."""
        loop, gone = asyncio.get_running_loop(), asyncio.Event()
        fd = os.pidfd_open(self._qemu.pid)
        loop.add_reader(fd, gone.set)
        try:
            await gone.wait()
        finally:
            loop.remove_reader(fd)
            os.close(fd)
        status = self._qemu.wait()
        # The pipes end with QEMU.
        _, late = await asyncio.wait(readers, timeout=_DRAIN_SECONDS)
        for reader in late:
            reader.cancel()
        self.ended.set_result(Ended(status, self._stderr_path.read_text(errors="replace").strip()))
        for job in self._jobs.values():
            job.room.set()

    async def read_console(self, console: asyncio.StreamReader, on_line: Callable[[str], None]) -> None:
        rest = b""
        while data := await console.read(_PIECE):
            self.console_bytes += len(data)
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                on_line(line.rstrip(b"\r").decode(errors="replace"))
            self.console_news.tell()
        if rest:
            on_line(rest.decode(errors="replace"))

    async def read_agent(self) -> None:
        decoder = Decoder()
        while data := await self._agent.read(_PIECE):
            try:
                frames = list(decoder.feed(data))
            except ValueError as error:
                raise HarnessError(
                    f"the guest's agent sends nonsense: {error}",
                    hint="does a command of the guest write to /dev/vport*?",
                ) from None
            for frame in frames:
                self._on_frame(frame)

    async def console_caught_up(self, printed: int) -> None:
        """Wait until the console's first `printed` bytes of this machine have been read, 2 s at most."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2):
                while self.console_bytes < printed and not self.ended.done():
                    signs: set[asyncio.Future[Any]] = {self.console_news.next, self.ended}
                    await asyncio.wait(signs, return_when=asyncio.FIRST_COMPLETED)

    async def why_gone(self) -> str:
        """What QEMU named as the reason of its end (ShutdownCause of QEMU's qapi/run-state.json), "" for none."""
        # Its last event may be read a moment after its end is seen; one that was killed has not sent any.
        if self.ended.done() and self.ended.result().status >= 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._shut_down.wait(), 1)
        return self.shutdown_reason or ""

    def watch_reader(self, reader: asyncio.Task[None]) -> None:
        """Resolve `broken` when `reader` fails: nobody would hear of the command's end otherwise."""
        error = None if reader.cancelled() else reader.exception()
        if error is not None and not self.broken.done():
            self.broken.set_result(error)

    async def connect_qmp(self, end: socket.socket) -> None:
        client = QMPClient("kernloop")
        client.register_listener(self._events)
        try:
            await asyncio.wait_for(client.connect(end), 20)
        except (QMPError, TimeoutError, OSError) as error:
            # A QEMU that dies at once closes its sockets a moment before its end is noticed.
            await asyncio.wait([self.ended], timeout=5)
            if self.ended.done():
                return
            raise HarnessError(f"QEMU's monitor does not answer: {error}") from None
        self._qmp = client

    async def disconnect_qmp(self) -> None:
        if self._qmp is not None:
            with contextlib.suppress(QMPError, EOFError, OSError):
                await self._qmp.disconnect()

    def _send(self, kind: Kind, number: int, data: bytes = b"") -> None:
        frame = encode(Frame(kind, number, data))
        if self._later is None:
            self._to_agent.write(frame)
        else:
            self._later.append(frame)

    def _on_frame(self, frame: Frame) -> None:
        if frame.kind is Kind.DRAIN:
            return
        if frame.kind is Kind.NOTES:
            self._notes = frame.data
            return
        if frame.kind is Kind.READY and not self.ready.done():
            self.ready.set_result(None)
            return
        if frame.kind is Kind.REST:
            # The answer to one that was given up long ago is nobody's.
            if self._at_rest and frame.job == self._rests and not self._at_rest.done():
                self._at_rest.set_result(None)
            return
        if frame.kind is Kind.LIFE:
            if not self._life.done():
                self._life.set_result(None)
            return
        if frame.kind is Kind.HELLO:
            if not self.hello.done():
                self.hello.set_result(Hello(frame.data.decode(errors="replace"), build_id_of_notes(self._notes)))
            return
        job = self._jobs.get(frame.job) if frame.job else self.packed_job
        if job is None:
            return
        if frame.kind is Kind.STDOUT:
            job.on_stdout(frame.data)
        elif frame.kind is Kind.STDERR:
            job.on_stderr(frame.data)
        elif frame.kind is Kind.TAKEN:
            job.window += struct.unpack("<I", frame.data)[0]
            job.room.set()
        elif frame.kind is Kind.EXIT and not job.done.done():
            job.done.set_result(os.waitstatus_to_exitcode(struct.unpack("<i", frame.data)[0]))
        elif frame.kind is Kind.FAILED and not job.done.done():
            job.done.set_result(frame.data.decode(errors="replace"))
        # A guest that powers off after its only job prints all before.
        if job.done.done() and (frame.kind in (Kind.PRINTED, Kind.FAILED) or job is self.packed_job):
            if not job.printed.done():
                job.printed.set_result(None)
            self._jobs.pop(frame.job, None)

    async def read_events(self) -> None:
        """Follow QMP's events: a panic (pvpanic), the watchdog, why the machine shut down, how a migration goes,
        whether it stands still."""
        async for event in self._events:
            data = cast("dict[str, object]", event.get("data", {}))
            match event["event"]:
                case "GUEST_PANICKED":
                    self.panicked.set()
                case "WATCHDOG":
                    self.barked.set()
                case "STOP" | "RESUME":
                    self.still = event["event"] == "STOP"
                    self.moves.tell()
                case "SHUTDOWN":
                    self.shutdown_reason = str(data.get("reason"))
                    self._shut_down.set()
                case "MIGRATION" if data["status"] in ("completed", "failed") and self._migrated:
                    if not self._migrated.done():
                        self._migrated.set_result(str(data["status"]))
