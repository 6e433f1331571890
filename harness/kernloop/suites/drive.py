# SPDX-License-Identifier: Apache-2.0
"""Programs run in a guest one after the other, each with a time-out of its own: one that hangs ends, the next runs.

The host holds the clock and starts each program anew. What kselftest's runner does inside the guest ends with it.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from kernloop.runs import Run
from kernloop.suites.stream import Stream
from kernloop.vm.machine import Job
from kernloop.vm.session import End, Session, Watched

__all__ = ["Driven", "Program", "drive"]

# Exit codes of tools/testing/selftests/kselftest.h that are no failure.
_XFAIL, _SKIP = 2, 4
_TERM_SECONDS = 3.0
_KILL_SECONDS = 5.0
_PROBE_SECONDS = 15.0
# What went wrong in the kernel can then be found by the program's name. Errors go where the output goes.
_WRAPPER = 'echo "kselftest: $1" > /dev/kmsg; shift; exec "$@" 2>&1'


@dataclass(frozen=True)
class Program:
    """A test program of a guest; it may be quiet for `seconds` between two tests of its own, or take them in all.

    `names` are its tests, `one` the words before the name that make it run only that: after a time-out it goes on with
    those that are left. `chosen`: run only these.
    """

    title: str
    argv: tuple[str, ...]
    cwd: str
    seconds: float
    names: tuple[str, ...] = ()
    one: tuple[str, ...] = ()
    chosen: tuple[str, ...] = ()


@dataclass(frozen=True)
class Driven:
    """`blamed` names, for each crash that the kernel reported, the test that was under way.

    `stuck`: a test whose time was over could not be ended, and the guest ran nothing any more.
    """

    watched: Watched
    blamed: tuple[tuple[str, ...], ...]
    stuck: bool


# What `drive` keeps while it goes.
class _Driver:
    def __init__(self, session: Session, stream: Stream, env: Mapping[str, str], deadline: float) -> None:
        self.session = session
        self.stream = stream
        self.env = env
        self.deadline = deadline
        self.stuck = False
        self._turn = 0

    async def program(self, program: Program) -> tuple[End, str]:
        """Run it; what ended that, and what stands behind the `#` of its result, "" for a pass."""
        worst: str | None = None
        queue = program.chosen
        while True:
            end, status = await self._one(program, queue[:1])
            queue = queue[1:]
            if end is not End.COMMAND:
                return end, ""
            said = f"TIMEOUT {program.seconds:g} seconds" if status is None else _said(status)
            worst = said if worst is None else max(worst, said, key=_rank)
            running = self.stream.parser.running
            if running and running[-1] in program.names:
                # It ended in the middle of this one.
                if status is None:
                    self.stream.line(f"# not ok {self.stream.parser.next_number} {running[-1]} # {said}")
                if not program.chosen:
                    seen = {running[-1], *(test.name for test in self.stream.parser.results)}
                    queue = tuple(name for name in program.names if name not in seen)
            if not queue:
                return end, worst
            self.stream.line("# TAP version 13")

    # The exit status (a str: why it did not start), or None when its time was over and it is gone.
    async def _one(self, program: Program, name: tuple[str, ...]) -> tuple[End, int | str | None]:
        words = (*program.argv, *program.one, *name) if name else program.argv
        self.stream.since = time.monotonic()
        job = await self.session.machine.execute(
            ("sh", "-c", _WRAPPER, "sh", program.title, *words),
            on_stdout=(take := self._taker()),
            on_stderr=take,
            cwd=program.cwd,
            env=self.env,
        )
        begun = time.monotonic()
        while True:
            now = time.monotonic()
            since = max(begun, self.stream.since) if program.names else begun
            left = program.seconds - (now - since) if program.seconds else self.deadline - now
            if now >= self.deadline:
                return End.DEADLINE, None
            if left <= 0:
                break
            end = await self.session.follow(job, min(left, self.deadline - now))
            if end is not End.DEADLINE:
                self.stream.end_of_output()
                return end, job.done.result() if end is End.COMMAND else None
        self.session.run.note("test-timeout", test=" ".join(self.stream.parser.running), seconds=program.seconds)
        end = await self._end(job)
        self.stream.end_of_output()
        return end, None

    # What a program writes that could not be ended is not the next one's.
    def _taker(self) -> Callable[[bytes], None]:
        self._turn += 1
        turn = self._turn

        def take(data: bytes) -> None:
            if turn == self._turn:
                self.stream.output(data)

        return take

    # End a program whose time is over. A guest in which even that cannot be done may still run others.
    async def _end(self, job: Job) -> End:
        for number, seconds in ((signal.SIGTERM, _TERM_SECONDS), (signal.SIGKILL, _KILL_SECONDS)):
            self.session.machine.kill(job, number)
            end = await self.session.first(job.done, seconds, End.DEADLINE)
            if end is not End.DEADLINE:
                return end
        await self.session.backtraces()
        probe = await self.session.machine.execute(
            ("true",), on_stdout=lambda data: None, on_stderr=lambda data: None, cwd="/", env=self.env
        )
        end = await self.session.first(probe.done, _PROBE_SECONDS, End.DEADLINE)
        self.stuck = end is End.DEADLINE
        return end


async def drive(
    started: contextlib.AbstractAsyncContextManager[Session],
    run: Run,
    programs: Sequence[Program],
    stream: Stream,
    *,
    env: Mapping[str, str],
    seconds: float,
) -> Driven:
    """Run `programs` in a guest; its KTAP goes to `stream`. Raises HarnessError when QEMU cannot be started."""
    answered = None
    driver = None
    blamed: list[tuple[str, ...]] = []
    stream.line("TAP version 13")
    stream.line(f"1..{len(programs)}")
    async with started as session:

        def look(before: tuple[str, ...], now: tuple[str, ...]) -> None:
            blamed.extend([before] * (len(session.console.crashes) - len(blamed)))

        stream.listeners.append(look)
        end = await session.up()
        look((), ())
        began = run.elapsed
        if end is End.COMMAND:
            if session.restored:
                session.machine.wake(real_time=True)
            driver = _Driver(session, stream, env, time.monotonic() + seconds)
            for number, program in enumerate(programs, 1):
                stream.line(f"# {program.title}")
                end, said = await driver.program(program)
                if end is not End.COMMAND:
                    break
                await session.console_caught_up()
                result = "not ok" if _rank(said) > _rank("XFAIL") else "ok"
                stream.line(f"{result} {number} {program.title}" + (f" # {said}" if said else ""))
            session.times["tests"] = run.elapsed - began
        run.note("end", why=end.value)
        if end in (End.DEADLINE, End.BOOT_DEADLINE):
            answered = await session.interrogate()
        if end is End.PANIC:
            await session.hold()
    watched = session.watched(end, None, answered)
    blamed += [stream.parser.running] * (len(watched.crashes) - len(blamed))
    return Driven(watched, tuple(blamed), driver is not None and driver.stuck)


def _said(status: int | str | None) -> str:
    if status == 0 or status is None:
        return ""
    if status == _SKIP:
        return "SKIP"
    if status == _XFAIL:
        return "XFAIL"
    if isinstance(status, str):
        return f"ERROR cannot run {status}"
    return f"exit={status}" if status > 0 else f"exit={128 - status}"


# Of several runs of one program the worst is told.
def _rank(said: str) -> int:
    word = said.partition(" ")[0].partition("=")[0]
    return ["SKIP", "", "XFAIL", "exit", "ERROR", "TIMEOUT"].index(word)
