# SPDX-License-Identifier: Apache-2.0
"""A command in a VM that lives: what it wrote, in the run directory, and how it ended."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from kernloop import runs
from kernloop.errors import HarnessError
from kernloop.report.crash import Crash, most_severe
from kernloop.report.severity import Severity
from kernloop.verdict import Verdict, guest_exit_code
from kernloop.vm.machine import Job
from kernloop.vm.session import End, Session
from kernloop.vm.stuck import worst

__all__ = ["LiveJob", "Result"]

_KEPT_BYTES = 64 << 20
# A killed command ends at once, unless the kernel or the agent hangs.
_KILL_SECONDS = 3.0
# Its console goes on after the command: who asks for more than this can wait for it there.
_PRINT_SECONDS = 1.0
_FOR_EVER = 1e9


@dataclass(frozen=True)
class Result:
    """How a command ended. `status` is its own exit code (negative: a signal), `exit_code` what `vm exec` exits with,
    `seconds` how long it took, `reports` what the kernel reported meanwhile."""

    job: int
    verdict: Verdict
    summary: str
    next: str
    status: int | None
    exit_code: int
    seconds: float
    reports: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class LiveJob:
    """One command; its output goes to `folder`/stdout and stderr, 64 MiB of each at most, and to `on_bytes`."""

    def __init__(self, session: Session, vm: str, number: int, argv: list[str]) -> None:
        self.vm = vm
        self.number = number
        self.argv = argv
        self.session = session
        self.folder = session.run.path / "jobs" / str(number)
        self.ended: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self.on_bytes: Callable[[str, bytes], None] = lambda stream, data: None
        self.job: Job
        self.began = session.run.elapsed
        self._abandoned: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._failed: OSError | None = None
        self._crashes = len(session.console.crashes)
        self._left = {"stdout": _KEPT_BYTES, "stderr": _KEPT_BYTES}
        self.folder.mkdir(parents=True)
        self._files = {stream: (self.folder / stream).open("wb", buffering=0) for stream in self._left}

    def take(self, stream: str) -> Callable[[bytes], None]:
        """What to do with a piece of `stream`."""

        def take(data: bytes) -> None:
            if self._files[stream].closed or self._failed:
                return  # of a grandchild that outlived the command
            try:
                self._keep(stream, data)
            except OSError as error:
                # A full disk is this command's end, and not the VM's.
                self._failed = error
                self.kill()
                return
            self.on_bytes(stream, data)

        return take

    def _keep(self, stream: str, data: bytes) -> None:
        if 0 <= self._left[stream] < len(data):
            self.session.run.note("output-cut", job=self.number, stream=stream, kept=_KEPT_BYTES)
        kept = data[: max(self._left[stream], 0)]
        self._left[stream] -= len(data)
        while kept:
            kept = kept[self._files[stream].write(kept) :]

    async def follow(self, seconds: float | None) -> Result:
        """Wait for the end of the command, for the deadline or for `abandon`, and say how it was: nothing is raised."""
        try:
            result = await self._followed(seconds)
        except (HarnessError, OSError) as error:
            result = self._infra(str(error))
        finally:
            self.close()
        # The result is told all the same where the disk is full.
        with contextlib.suppress(OSError):
            runs.write_json(self.folder / "result.json", {"argv": self.argv, **result.as_json()})
        self.ended.set_result(result)
        return result

    def close(self) -> None:
        """No more output is taken."""
        for file in self._files.values():
            file.close()

    def abandon(self, why: str) -> None:
        """Wait no longer for its end: the VM goes."""
        if not self._abandoned.done():
            self._abandoned.set_result(why)

    def kill(self) -> None:
        """Kill its process group."""
        self.session.machine.kill(self.job, signal.SIGKILL)

    async def _followed(self, seconds: float | None) -> Result:
        job = self.job
        first = asyncio.create_task(self.session.follow(job, seconds or _FOR_EVER, printing=_PRINT_SECONDS))
        waits: set[asyncio.Future[Any]] = {first, self._abandoned}
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            end = first.result() if first.done() else End.GONE
        finally:
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
        answers = True
        if end is End.DEADLINE and self.session.hung.is_set():
            answers = False
        elif end is End.DEADLINE:
            answers = await self._give_up(job)
        await self.session.console_caught_up()
        if self._failed:
            return self._infra(f"its output cannot be kept: {self._failed.strerror}")
        gone = await self._gone() if end is End.GONE else ""
        return self._result(end, job, seconds, answers, gone)

    # Kill the command; when not even that works, ask the kernel by SysRq. Whether anybody answers.
    async def _give_up(self, job: Job) -> bool:
        self.session.machine.kill(job, signal.SIGKILL)
        if self.session.paused or self.session.in_debugger:
            return False
        await asyncio.wait({job.done}, timeout=_KILL_SECONDS)
        return job.done.done() or await self.session.backtraces()

    def _base(self) -> Result:
        seconds = round(self.session.run.elapsed - self.began, 3)
        reports = tuple(crash.title for crash in self.session.console.crashes[self._crashes :])
        return Result(self.number, Verdict.UNKNOWN, "", "", None, 125, seconds, reports)

    def _infra(self, why: str) -> Result:
        return replace(
            self._base(), verdict=Verdict.INFRA, summary=why, next=f"kernloop runs show {self.session.run.id}"
        )

    def _result(self, end: End, job: Job, seconds: float | None, answers: bool, gone: str) -> Result:
        session = self.session
        base = self._base()
        status = job.done.result() if job.done.done() else None
        crash = _crash(session.console.crashes[self._crashes :])
        also = f"; the kernel reported: {base.reports[0]}" if base.reports else ""
        console = f"kernloop vm console {self.vm}"
        if crash or end is End.PANIC:
            verdict = Verdict.PANIC if end is End.PANIC else Verdict.OOPS
            what = crash.title if crash else "the kernel panicked; the console does not say where"
            where = f" in {crash.function}" if crash and crash.function and crash.function not in what else ""
            then = f"kernloop report {session.run.id}" if crash else console
            said = replace(base, verdict=verdict, summary=what + where, next=then)
        elif end is End.DEADLINE and session.hung.is_set():
            said = replace(base, verdict=Verdict.HANG, summary=f"the guest hangs: {worst(session.stuck)}", next=console)
        elif end is End.DEADLINE:
            state = (
                "the VM is paused"
                if session.paused
                else "the guest answers"
                if answers
                else "the guest does not answer, not even to SysRq"
            )
            how = f"the deadline of {seconds:g} s passed; the command was killed, {state}"
            said = replace(base, verdict=Verdict.HANG, summary=how, next=f"a longer --timeout, or {console}")
        elif end is End.GONE:
            said = replace(base, verdict=Verdict.LOST, summary=gone, next=f"kernloop runs show {session.run.id}")
        elif isinstance(status, str):
            said = replace(
                base,
                verdict=Verdict.COMMAND_FAILED,
                summary=f"cannot run {status}",
                status=127,
                next=f"is it in the guest? kernloop vm push {self.vm} FILE /root/",
            )
        elif status:
            how = f"signal {-status}" if status < 0 else f"exit {status}"
            said = replace(base, verdict=Verdict.COMMAND_FAILED, summary=how + also, status=status)
        else:
            said = replace(base, verdict=Verdict.PASS, summary=f"exit 0{also}", status=0)
        return replace(said, exit_code=guest_exit_code(said.verdict, said.status))

    # What took the VM away under the command.
    async def _gone(self) -> str:
        if self._abandoned.done():
            return f"the VM was ended: {self._abandoned.result()}"
        how = {"guest-shutdown": "the guest powered itself off", "guest-reset": "the guest was reset"}
        return how.get(await self.session.machine.why_gone(), "QEMU is gone")


def _crash(crashes: tuple[Crash, ...]) -> Crash | None:
    worst = most_severe(crashes)
    return worst if worst and worst.severity in (Severity.PANIC, Severity.OOPS) else None
