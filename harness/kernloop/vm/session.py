# SPDX-License-Identifier: Apache-2.0
"""A guest under watch: what ended it and what the console said. kernloop.vm.watch starts it.

This gathers facts only (`Watched`); kernloop.vm.judge and its callers judge them.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kernloop import vmcores
from kernloop.errors import HarnessError
from kernloop.report.crash import Crash
from kernloop.runs import Run
from kernloop.verdict import Vmcore
from kernloop.vm import dump, pstore, watchdog
from kernloop.vm.argv import kernel_words
from kernloop.vm.console import Console
from kernloop.vm.guest import Guest
from kernloop.vm.machine import Ended, Hello, Job, Machine
from kernloop.vm.pstore import Kept
from kernloop.vm.stuck import Stuck, in_debugger, look

if TYPE_CHECKING:
    pass

__all__ = ["BOOT_SECONDS", "GUEST_ENV", "End", "Session", "Watched", "boot_seconds"]

# What a command finds in its environment.
GUEST_ENV = {"PATH": "/root:/bin:/sbin:/usr/bin:/usr/sbin", "HOME": "/root", "TERM": "dumb"}
# The slowest boot seen under TCG on a loaded machine took 20 s.
BOOT_SECONDS = 90.0
# KASAN and lockdep are in all that the kernel does: a boot takes ten times as long with both.
_CHECKS, _CHECKED = ("KASAN", "PROVE_LOCKING"), 4.0
# Each vCPU of a large machine is started, and ticks: 64 of them take 100 s of CPU time and more.
_SMALL, _SECONDS_A_CPU = 8, 8.0
# A restored guest says hello in 0.2 s, and in some seconds where the host has much else to do.
_RESTORE_SECONDS = 30.0
# A kernel that panicked prints its last lines before pvpanic's event or, without pvpanic, just stops.
_PANIC_SECONDS = 5.0
# A list of all tasks takes a third of a second, and some kernels have much more to say.
_PRINT_SECONDS = 10.0
_SYSRQ_SECONDS = 8.0
_PRESSED_SECONDS = (2.0, 5.0)
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
class Watched:
    """The facts of a run. `status` is the command's exit code (negative: a signal), a str why it did not start.

    `answered_sysrq` is for hangs: True when the kernel still reacts; `stuck` are the vCPUs of one that does not,
    `barked` the watchdog's seconds when it found it. `init_said` is the last complaint of our init. `times` holds
    seconds: `boot` (none when a snapshot was there), `restore` and `command`. `kept` is what pstore has, `vmcore` the
    dump that was asked for, None when there was no reason for one.
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
    kept: Kept = field(default_factory=Kept)
    stuck: tuple[Stuck, ...] = ()
    barked: int = 0
    vmcore: Vmcore | None = None


class Session:
    """A machine, its console and its run directory; made by `attend`."""

    def __init__(
        self, guest: Guest, machine: Machine, console: Console, run: Run, *, began: float, printed: int, restored: bool
    ) -> None:
        self.guest = guest
        self.machine = machine
        self.console = console
        self.run = run
        self.times: dict[str, float] = {}
        self.began = began
        self.restored = restored
        self.printed_before = printed
        # What came instead of a snapshot, when the boot for one did not get that far.
        self.failed: End | None = None
        # Whether a user has stopped the vCPUs.
        self._paused = False
        # Whether QEMU's gdbstub is open: what stops the guest then, and lets it go on, is a debugger.
        self.debugged = False
        # Held while we stop the guest to look at it, and let it go on: who comes to stop it waits for that.
        self.looking = asyncio.Lock()
        # Whether the guest sits in its own debugger, and how often it was said to have come there.
        self.in_kgdb = False
        self.kgdb_entries = 0
        # The watchdog has found the guest dead; where its vCPUs were, in any hang that nobody answers in.
        self.hung = asyncio.Event()
        self.stuck: tuple[Stuck, ...] = ()
        self._answered: bool | None = None
        # Whether a crash or a hang leaves a vmcore, and what became of that.
        self.wants_core = False
        self.vmcore: Vmcore | None = None
        self._dumping = asyncio.Lock()

    async def up(self) -> End:
        """Wait until the guest's init has said hello: End.COMMAND, or what came instead."""
        if self.failed is not None:
            return self.failed
        seconds = _RESTORE_SECONDS if self.restored else boot_seconds(self.guest)
        end = await self.first(self.machine.hello, seconds, End.BOOT_DEADLINE)
        if end is End.COMMAND:
            self.times["restore" if self.restored else "boot"] = self.run.elapsed - self.began
            self.run.note("guest-up", release=self.machine.hello.result().release)
        return end

    @property
    def hello(self) -> Hello:
        """What the guest says that it runs; until it says so what the kernel's files do."""
        told, kernel = self.machine.hello, self.guest.kernel
        return told.result() if told.done() else Hello(kernel.release, kernel.build_id)

    @property
    def in_gdb(self) -> bool:
        """Whether a debugger at QEMU's gdbstub keeps the guest still."""
        return self.debugged and self.machine.still and not self.machine.panicked.is_set()

    @property
    def in_debugger(self) -> bool:
        """Whether a debugger keeps the guest still, QEMU's or its own."""
        return self.in_gdb or self.in_kgdb

    @property
    def paused(self) -> bool:
        return self._paused

    @paused.setter
    def paused(self, on: bool) -> None:
        self._paused = on
        self.machine.moves.tell()

    def debug(self, on: bool) -> None:
        """A debugger may come to the guest, or has left it."""
        self.debugged = on
        self.machine.moves.tell()

    async def first(self, goal: asyncio.Future[Any], seconds: float, late: End) -> End:
        """What is first: `goal`, the end of QEMU, a panic, the deadline. A crash outranks what it brings about.

        Time in which a debugger or a dump keeps the guest still does not count. A guest that the watchdog has found
        dead will not meet the deadline: it counts as passed.
        """
        machine = self.machine
        panic, hung = asyncio.create_task(self._panicked()), asyncio.create_task(self.hung.wait())
        try:
            signs: set[asyncio.Future[Any]] = {goal, machine.ended, machine.broken, panic, hung}
            done = await self._within(signs, seconds)
            if machine.broken.done():
                raise machine.broken.result()
            if self.console.panic.is_set():
                await panic
                return End.PANIC
            if goal in done:
                return End.COMMAND
            return End.GONE if done - {hung} else late
        finally:
            panic.cancel()
            hung.cancel()

    async def follow(self, job: Job, seconds: float, *, printing: float = _PRINT_SECONDS) -> End:
        """What is first as for `first`, the end of `job` being the goal; then until the console has what the kernel had
        logged by then, for `printing` seconds at most. A panic in that time counts."""
        end = await self.first(job.done, seconds, End.DEADLINE)
        if end is End.COMMAND:
            # Also when a debugger stops the guest just then.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(printing):
                    then = await self.first(job.printed, printing, End.COMMAND)
                    return then if then is End.PANIC else end
        return end

    def held_by_kgdb(self, held: bool) -> None:
        """The guest's own debugger holds it from now on, or no longer."""
        self.kgdb_entries += held
        if held != self.in_kgdb:
            self.in_kgdb = held
            self.run.note("kgdb-in" if held else "kgdb-out")
            self.machine.moves.tell()

    async def _within(self, signs: set[asyncio.Future[Any]], seconds: float) -> set[asyncio.Future[Any]]:
        loop, left = asyncio.get_running_loop(), seconds
        while True:
            held, began, moves = self.in_debugger or self._dumping.locked(), loop.time(), self.machine.moves.next
            done, _ = await asyncio.wait(
                {*signs, moves}, timeout=None if held else max(left, 0), return_when=asyncio.FIRST_COMPLETED
            )
            left -= 0 if held else loop.time() - began
            if done - {moves} or (not held and left <= 0):
                return done - {moves}

    async def console_caught_up(self) -> None:
        """What the guest has printed by now has been read: QEMU puts it into the log after it was sent to us."""
        printed = (self.run.path / "console.log").stat().st_size - self.printed_before
        await self.machine.console_caught_up(printed)

    def printed(self) -> bytes:
        """What this machine has printed; a run's console.log may hold an earlier one's boot as well."""
        return (self.run.path / "console.log").read_bytes()[self.printed_before :]

    async def hold(self) -> None:
        """Keep a panicked guest as it is: pvpanic's event has paused it; without its driver the monitor does.

        Where time is the host's it may first keep its log in pstore.
        """
        by_pvpanic = self.machine.panicked.is_set()
        self.run.note("paused", by="pvpanic" if by_pvpanic else "kernloop")
        with contextlib.suppress(HarnessError):
            await self.machine.qmp("stop")
            await self.keep_memory("panic")
            await self._keep_log()

    async def keep_memory(self, of: str) -> None:
        """A vmcore in the run directory, if the session `wants_core` and has none yet; it is nearest to the cause. The
        guest stands still meanwhile. That there is none is no fault of the guest's: `vmcore` tells why.
        """
        if not self.wants_core:
            return
        async with self._dumping:
            if self.vmcore is not None and not self.vmcore.error:
                return
            self.machine.moves.tell()
            began = self.run.elapsed
            try:
                vmcores.make_room()
                taken = await dump.take(
                    self.machine, self.run.path / vmcores.NAME, self.guest.spec.memory, self.hello.release
                )
                took = round(self.run.elapsed - began, 3)
                self.vmcore = Vmcore(vmcores.NAME, of, taken["format"], taken["bytes"], took)
            except (HarnessError, OSError) as error:
                self.vmcore = Vmcore("", of, error=str(error))
            self.run.note("vmcore", **asdict(self.vmcore))
        self.machine.moves.tell()

    async def keep_oops(self) -> None:
        """Hear of a crash that the kernel goes on after, as long as the machine lives: its memory is kept then."""
        await self.console.oops.wait()
        await self.keep_memory("oops")

    async def backtraces(self) -> bool:
        """SysRq l (CPUs' backtraces: twice, for one of them may be of an interrupt), w (blocked tasks), t (all tasks);
        whether the kernel answers at all."""
        self.run.note("sysrq", keys="llwt")
        answered = False
        with contextlib.suppress(HarnessError):
            for key in "llwt":
                if not await self.press(key):
                    break
                answered = True
                await self.until_quiet(_SYSRQ_SECONDS)
        self.run.note("sysrq-answered" if answered else "sysrq-silent")
        return answered

    async def press(self, key: str) -> bool:
        """One key of SysRq; whether the kernel says that it took it. Twice if need be: a break that comes while it
        prints is lost where the serial port is not enumerated (no lsr_save_mask: drivers/tty/serial/8250/8250_core.c).
        Raises HarnessError.
        """
        for seconds in _PRESSED_SECONDS:
            self.console.sysrq.clear()
            await self.machine.send_break(key)
            if await _told(self.console.sysrq, seconds):
                return True
        return False

    async def guard(self) -> None:
        """Hear the watchdog, as long as the machine lives; `hung` is set when it is right."""
        machine = self.machine
        while not self.hung.is_set():
            await machine.barked.wait()
            machine.barked.clear()
            self.run.note("watchdog")
            with contextlib.suppress(HarnessError):
                await self._judge_bark()

    # Who keeps the guest still meanwhile, its user or a debugger, is waited for, and the guest asked anew: it cannot
    # answer us then. A debugger that was there before is told by QEMU that the watchdog has stopped it.
    async def _judge_bark(self) -> None:
        machine = self.machine
        while True:
            while self._kept:
                await asyncio.wait({machine.moves.next})
            if machine.resting:
                return  # a guest that is being saved goes on by itself
            if self.in_kgdb:
                await machine.qmp("cont")
                return
            lives = await watchdog.lives(machine, lambda: self._kept)
            if lives:
                self.run.note("watchdog-wrong")
                return
            async with self.looking:
                # One that came while the guest was asked.
                if lives is None or self._kept:
                    continue
                await self._look()
                if not in_debugger(self.stuck):
                    self.hung.set()
                    return
                self.run.note("watchdog-wrong", why="the guest's own debugger holds it")
                self.stuck = ()
                self.console.on_debugger()
                return

    @property
    def _kept(self) -> bool:
        return self.paused or self.debugged

    async def interrogate(self) -> bool:
        """What a hung guest can still say: `backtraces`; if it says nothing, the vCPUs' registers and stacks as QEMU
        sees them and an NMI that makes it panic with a backtrace. Returns whether it answered SysRq."""
        await self.keep_memory("hang")
        answered = self._answered = await self.backtraces()
        with contextlib.suppress(HarnessError):
            if answered:
                registers = await self.machine.qmp("human-monitor-command", {"command-line": "info registers -a"})
                (self.run.path / "registers.txt").write_text(str(registers))
            elif not self.stuck:
                await self._look()
        if not answered:
            self.run.note("nmi")
            with contextlib.suppress(HarnessError):
                await self.machine.qmp("inject-nmi")
                await _told(self.machine.panicked, _NMI_SECONDS)
                await self.until_quiet(_NMI_SECONDS)
        with contextlib.suppress(HarnessError):
            await self._keep_log()
        return answered

    # The guest goes on afterwards: it may still take an NMI.
    async def _look(self) -> None:
        try:
            self.stuck = await look(self.machine, self.run.path)
            self.run.note("looked", cpus=[str(cpu) for cpu in self.stuck])
        finally:
            await self.machine.qmp("cont")

    # When a guest is let go on is the host's time: none in virtual time.
    async def _keep_log(self) -> None:
        spec = self.guest.spec
        if self.machine.panicked.is_set() and spec.virtual_time is None:
            words = kernel_words(spec).split()
            await pstore.let_write(self.machine, self.run.path, self.guest.kernel, words)
        await pstore.save_ramoops(self.machine, self.run.path)

    def watched(self, end: End, status: int | str | None = None, answered: bool | None = None) -> Watched:
        """The facts so far; call it when the machine is gone to have all of them."""
        machine = self.machine
        return Watched(
            end,
            machine.hello.result() if machine.hello.done() else None,
            status,
            self.console.finish(),
            machine.ended.result() if machine.ended.done() else None,
            machine.shutdown_reason,
            self._answered if answered is None else answered,
            self.console.init_said,
            _digest(self.run.path / "console.log"),
            {name: round(t, 3) for name, t in self.times.items()},
            pstore.collect(self.run.path, over=machine.ended.done()),
            self.stuck,
            watchdog.seconds(self.guest.spec.append) if self.hung.is_set() else 0,
            self.vmcore,
        )

    # From the console or from pvpanic; then until either says that all is printed.
    async def _panicked(self) -> None:
        machine = self.machine
        signs = (self.console.panic, machine.panicked, self.console.panicked)
        waits = [asyncio.create_task(sign.wait()) for sign in signs]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            self.console.panic.set()
            last: list[asyncio.Future[Any]] = [*waits[1:], machine.ended]
            await asyncio.wait(last, timeout=_PANIC_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def until_quiet(self, seconds: float) -> None:
        """Until the console has said nothing for a moment, `seconds` at most."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        self.console.last_line = loop.time()
        while loop.time() < deadline and loop.time() - self.console.last_line < _QUIET_SECONDS:
            await asyncio.sleep(0.05)


async def _told(sign: asyncio.Event, seconds: float) -> bool:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(sign.wait(), seconds)
    return sign.is_set()


def boot_seconds(guest: Guest) -> float:
    """So long the boot of `guest` may take."""
    seconds = BOOT_SECONDS + _SECONDS_A_CPU * max(0, guest.spec.topology.cpus - _SMALL)
    return seconds * _CHECKED if any(map(guest.kernel.has, _CHECKS)) else seconds


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes() if file.exists() else b"").hexdigest()
