# SPDX-License-Identifier: Apache-2.0
"""Run one command in a micro-VM and watch: what ended it, and what the console said meanwhile.

This gathers facts only (`Watched`); kernloop.vm.run and kernloop.sched.verify judge them.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from kernloop.errors import HarnessError
from kernloop.kernel.kernel import Kernel
from kernloop.report.crash import Crash
from kernloop.report.engine import ConsoleParser
from kernloop.runs import Run
from kernloop.vm.argv import MachineSpec
from kernloop.vm.machine import Ended, Hello, Job, Machine, boot

__all__ = ["BOOT_SECONDS", "GUEST_ENV", "Command", "End", "Watched", "watch"]

# What a command finds in its environment.
GUEST_ENV = {"PATH": "/root:/bin:/sbin:/usr/bin:/usr/sbin", "HOME": "/root", "TERM": "dumb"}
# The slowest boot seen under TCG on a loaded machine took 20 s.
BOOT_SECONDS = 90.0
_INIT = "kernloop-init: "
# A kernel that panicked prints its last lines before pvpanic's event or, without pvpanic, just stops.
_PANIC_SECONDS = 5.0
_SYSRQ_SECONDS = 8.0
_QUIET_SECONDS = 0.5
_NMI_SECONDS = 8.0


class End(StrEnum):
    """What ended the watching."""

    COMMAND = "command"
    PANIC = "panic"
    BOOT_DEADLINE = "boot-deadline"
    DEADLINE = "deadline"
    GONE = "gone"


@dataclass(frozen=True)
class Command:
    """What to run in the guest; without `argv` the job packed in the initramfs is awaited."""

    argv: tuple[str, ...]
    seconds: float
    on_stdout: Callable[[bytes], None]
    on_stderr: Callable[[bytes], None]


@dataclass(frozen=True)
class Watched:
    """The facts of a run. `status` is the command's exit code (negative: a signal), a str why it did not start.

    `answered_sysrq` is for hangs: True when the kernel still reacts. `init_said` is the last complaint of our init.
    `times` holds seconds since QEMU's start.
    """

    end: End
    hello: Hello | None
    status: int | str | None
    crashes: tuple[Crash, ...]
    qemu: Ended | None
    shutdown_reason: str | None
    answered_sysrq: bool | None
    init_said: str
    console_sha256: str
    times: Mapping[str, float]


async def watch(
    qemu: Path,
    spec: MachineSpec,
    kernel: Kernel,
    initramfs: Path,
    run: Run,
    command: Command,
    on_line: Callable[[str], None] = lambda line: None,
) -> Watched:
    """Boot, run, watch to the end.

    Raises HarnessError when QEMU cannot be started, and whatever `command`'s callbacks raise.
    """
    console = _Console(on_line)
    times: dict[str, float] = {}
    began = run.elapsed
    status: int | str | None = None
    answered = None
    run.note("boot", qemu=str(qemu), kernel=kernel.ref)
    async with boot(qemu, spec, kernel.bootable, initramfs, run.path, console.feed) as machine:
        run.note("qemu-started", pid=machine.pid)
        if not command.argv:
            machine.packed_job = Job(command.on_stdout, command.on_stderr)
        end = await _first(machine, machine.hello, console, BOOT_SECONDS, End.BOOT_DEADLINE)
        if end is End.COMMAND:
            times["boot"] = run.elapsed - began
            run.note("guest-up", release=machine.hello.result().release)
            job = machine.packed_job or await machine.execute(
                command.argv, on_stdout=command.on_stdout, on_stderr=command.on_stderr, env=GUEST_ENV
            )
            end = await _first(machine, job.done, console, command.seconds, End.DEADLINE)
            times["command"] = run.elapsed - began - times["boot"]
            if job.done.done():
                status = job.done.result()
        run.note("end", why=end.value, status=status)
        if end in (End.DEADLINE, End.BOOT_DEADLINE):
            answered = await _interrogate(machine, console, run)
        if end is End.PANIC:
            # pvpanic's event has paused the guest already; without its driver the monitor does.
            run.note("paused", by="pvpanic" if machine.panicked.is_set() else "kernloop")
            with contextlib.suppress(HarnessError):
                await machine.qmp("stop")
        if end is End.COMMAND and machine.packed_job is not None:
            # The guest powers off by itself: its last console lines belong to the record.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(machine.ended), 20)
        gone = machine.ended.result() if machine.ended.done() else None
    crashes = console.finish()
    log = run.path / "console.log"
    digest = hashlib.sha256(log.read_bytes() if log.exists() else b"").hexdigest()
    return Watched(
        end,
        machine.hello.result() if machine.hello.done() else None,
        status,
        crashes,
        gone,
        machine.shutdown_reason,
        answered,
        console.init_said,
        digest,
        {name: round(t, 3) for name, t in times.items()},
    )


# Console lines to crashes, and the moments that others wait for.
class _Console:
    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._found: dict[int, Crash] = {}
        self.panic = asyncio.Event()
        self.last_line = 0.0
        self.sysrq = asyncio.Event()
        self.init_said = ""
        self._parser = ConsoleParser()
        self._on_line = on_line

    def feed(self, line: str) -> None:
        self.last_line = asyncio.get_running_loop().time()
        self._on_line(line)
        self._take(self._parser.feed(line))
        if "Kernel panic - not syncing" in line:
            self.panic.set()
        if line.startswith(_INIT):
            self.init_said = line.removeprefix(_INIT)
        if "sysrq: Show" in line:
            self.sysrq.set()

    def finish(self) -> tuple[Crash, ...]:
        self._take(self._parser.finish())
        return tuple(self._found.values())

    # A crash that a later panic makes fatal comes a second time, from the same line.
    def _take(self, crash: Crash | None) -> None:
        if crash is not None:
            self._found[crash.start_line] = crash


# Wait for `goal`, the end of QEMU, a panic or the deadline, whichever is first; a crash outranks what it brings about.
async def _first(
    machine: Machine,
    goal: asyncio.Future[Hello] | asyncio.Future[int | str],
    console: _Console,
    seconds: float,
    late: End,
) -> End:
    panic = asyncio.create_task(_panicked(machine, console))
    try:
        signs: set[asyncio.Future[Any]] = {goal, machine.ended, machine.broken, panic}
        done, _ = await asyncio.wait(signs, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if machine.broken.done():
            raise machine.broken.result()
        if console.panic.is_set():
            await panic
            return End.PANIC
        if goal in done:
            return End.COMMAND
        return End.GONE if done else late
    finally:
        panic.cancel()


# From the console or from pvpanic; then until pvpanic says that all is printed, if it can.
async def _panicked(machine: Machine, console: _Console) -> None:
    waits = [asyncio.create_task(console.panic.wait()), asyncio.create_task(machine.panicked.wait())]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        console.panic.set()
        last: list[asyncio.Future[Any]] = [waits[1], machine.ended]
        await asyncio.wait(last, timeout=_PANIC_SECONDS, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


# What a hung guest can still say: SysRq l (CPUs' backtraces, by NMI), w (blocked tasks), t (all tasks); if it says
# nothing, an NMI that makes it panic with a backtrace, and the vCPUs' registers as QEMU sees them.
async def _interrogate(machine: Machine, console: _Console, run: Run) -> bool:
    run.note("sysrq", keys="lwt")
    with contextlib.suppress(HarnessError):
        for key in "lwt":
            await machine.send_break(key)
            await _until_quiet(console, console.sysrq, _SYSRQ_SECONDS)
            if not console.sysrq.is_set():
                break
    answered = console.sysrq.is_set()
    run.note("sysrq-answered" if answered else "sysrq-silent")
    with contextlib.suppress(HarnessError):
        registers = await machine.qmp("human-monitor-command", {"command-line": "info registers -a"})
        (run.path / "registers.txt").write_text(str(registers))
    if not answered:
        run.note("nmi")
        with contextlib.suppress(HarnessError):
            await machine.qmp("inject-nmi")
            await _until_quiet(console, machine.panicked, _NMI_SECONDS)
    return answered


async def _until_quiet(console: _Console, sign: asyncio.Event, seconds: float) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    console.last_line = loop.time()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(sign.wait(), min(seconds, 5))
    while loop.time() < deadline and loop.time() - console.last_line < _QUIET_SECONDS:
        await asyncio.sleep(0.05)
