# SPDX-License-Identifier: Apache-2.0
"""The commands of a VM that lives, for as many clients as there are."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from typing import Any

from kernloop.errors import HarnessError, UsageError
from kernloop.vm import wire
from kernloop.vm.backends import Backend
from kernloop.vm.connection import hang_up, sender
from kernloop.vm.frames import run_request
from kernloop.vm.jobs import LiveJob
from kernloop.vm.life import Life, State
from kernloop.vm.session import End

__all__ = ["Commands"]

# So often a client whose command's guest stands still hears that nothing is wrong.
_STILL_SECONDS = 15.0
# Of so many commands that have ended the results are at hand.
_KEPT = 256


class Commands:
    """Of the VM of `life`. One begins when `moves` is set; `last` is when one has ended, in monotonic seconds."""

    def __init__(self, life: Life, made: Backend, moves: asyncio.Event) -> None:
        self._life = life
        self._session = life.session
        self._made = made
        self._moves = moves
        self.last = time.monotonic()
        self._jobs: dict[int, LiveJob] = {}
        self._last_job = 0
        # What follows each to its end.
        self.following: set[asyncio.Task[Any]] = set()

    @property
    def states(self) -> dict[str, str]:
        """By number: whether it runs or has ended."""
        return {str(number): "ended" if job.ended.done() else "running" for number, job in self._jobs.items()}

    @property
    def running(self) -> bool:
        """Whether one runs."""
        return "running" in self.states.values()

    def abandon(self, why: str) -> None:
        """The VM ends: whoever waits for one is told."""
        for job in self._jobs.values():
            job.abandon(why)

    async def exec(
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
        """Run `argv`; a client in the foreground hears what it says, and has it killed by going away."""
        if self._life.state is State.STARTING and (came := await self._session.up()) is not End.COMMAND:
            log = self._session.run.path / "console.log"
            raise HarnessError(f"{self._life.request.name} has not booted: {came}", hint=f"{log}; kernloop vm stop")
        self._life.must_run()
        # A command's time does not begin before the guest can do anything.
        await self._moves.wait()
        job = await self._begun(argv, cwd or self._made.cwd, {**self._made.env, **env}, stdin=stdin)
        end = asyncio.create_task(job.follow(timeout))
        self.following.add(end)
        end.add_done_callback(self._over)
        if background:
            return {"job": job.number, "running": True}
        writer.write(wire.line({"job": job.number}))
        with hang_up(writer) as gone:
            helpers = {asyncio.create_task(self._tell_still(writer))}
            if stdin:
                helpers.add(asyncio.create_task(self._feed(job, reader)))
            job.on_bytes = sender(self._session.machine, job, writer, helpers)
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
        job = LiveJob(self._session, self._life.request.name, self._last_job, argv)
        try:
            self._session.run.note("exec", job=job.number, argv=argv)
            job.job = await self._session.machine.execute(
                argv, on_stdout=job.take("stdout"), on_stderr=job.take("stderr"), cwd=cwd, env=env, stdin=stdin
            )
        except BaseException:
            job.close()
            raise
        self._jobs[job.number] = job
        ended = [number for number, job in self._jobs.items() if job.ended.done()]
        for number in ended[:-_KEPT]:
            del self._jobs[number]
        return job

    # What the client sends to the command's stdin.
    async def _feed(self, job: LiveJob, reader: asyncio.StreamReader) -> None:
        while text := await reader.readline():
            message = json.loads(text)
            if "in" in message:
                await self._session.machine.send_stdin(job.job, wire.unpack(message["in"]))
            elif "eof" in message:
                self._session.machine.close_stdin(job.job)

    # While a debugger keeps the guest still the command's time does not pass, and its client's patience shall not.
    async def _tell_still(self, writer: asyncio.StreamWriter) -> None:
        while True:
            await asyncio.wait({self._session.machine.moves.next}, timeout=_STILL_SECONDS)
            if self._session.in_debugger:
                writer.write(wire.line({"state": self._life.state}))

    def _over(self, task: asyncio.Task[Any]) -> None:
        self.following.discard(task)
        self.last = time.monotonic()

    async def job(self, job: int, timeout: float) -> dict[str, Any]:
        """How one ended, if it does within `timeout` seconds."""
        found = self._find(job)
        with contextlib.suppress(TimeoutError):
            result = await asyncio.wait_for(asyncio.shield(found.ended), timeout)
            return {**result.as_json(), "running": False}
        return {"job": job, "running": True}

    async def kill(self, job: int) -> dict[str, Any]:
        """Kill one, and tell how it ended."""
        self._find(job).kill()
        return await self.job(job, 5.0)

    def _find(self, number: int) -> LiveJob:
        if number not in self._jobs:
            known = " ".join(map(str, self._jobs)) or "none"
            raise UsageError(
                f"there is no job {number}; there are: {known}", hint=f"see also {self._session.run.path}/jobs"
            )
        return self._jobs[number]
