# SPDX-License-Identifier: Apache-2.0
"""A guest from its start to its end: booted, or restored from the snapshot of its boot, and watched meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from kernloop.errors import HarnessError
from kernloop.host.paths import cache_dir
from kernloop.kernel import debugfiles
from kernloop.report.severity import Severity
from kernloop.runs import Run
from kernloop.vm import order, pstore, qemu, recipe, snapshots
from kernloop.vm.argv import Start
from kernloop.vm.console import Console
from kernloop.vm.guest import Guest
from kernloop.vm.machine import Job, Machine
from kernloop.vm.session import GUEST_ENV, End, Session, Watched, boot_seconds

if TYPE_CHECKING:
    from kernloop.vm.vng import HostRoot

__all__ = ["Command", "attend", "hosted", "resume", "watch"]


@dataclass(frozen=True)
class Command:
    """What to run in the guest; without `argv` the job that was handed over to it is awaited. With `dump` a crash or a
    hang leaves a vmcore."""

    argv: tuple[str, ...]
    seconds: float
    on_stdout: Callable[[bytes], None]
    on_stderr: Callable[[bytes], None]
    cwd: str = "/root"
    env: Mapping[str, str] = field(default_factory=lambda: GUEST_ENV)
    dump: bool = False


@contextlib.asynccontextmanager
async def attend(guest: Guest, payload: bytes, run: Run, *, cold: bool = False) -> AsyncIterator[Session]:
    """A guest that was handed `payload`, restored from the snapshot of its boot, which is made first if it must be.

    With `cold` it boots. Raises HarnessError when QEMU cannot be started.
    """
    console = Console()
    run.note("tools", qemu=guest.qemu_version, id=guest.toolset)
    virtual = guest.spec.virtual_time is not None
    if virtual:
        recipe.write(run, guest, payload)
    with nullcontext(run.path / recipe.PAYLOAD) if virtual else run.scratch(recipe.PAYLOAD) as handed:
        handed.write_bytes(payload)
        if cold:
            start = Start(initramfs=guest.initramfs, payload=handed)
            async with _started(guest, start, run, console) as session:
                yield session
            return
        booted: dict[str, float] = {}
        name = guest.key()
        for attempt in (1, 2):
            with snapshots.making(name) as staging:
                if staging is not None:
                    start = Start(initramfs=guest.initramfs, ram=staging, private=False, freeze=True)
                    async with _started(guest, start, run, console) as session:
                        session.failed = await _freeze(session, staging / "state")
                        _must_have_room(session)
                        if session.failed is not None:
                            yield session
                            return
                        booted = {"boot": session.run.elapsed - session.began}
                    (staging / "console").write_bytes(session.printed())
            snapshot = snapshots.find(name)
            if snapshot is None:
                raise HarnessError("the snapshot of the booted guest is gone", hint="is something clearing the cache?")
            if not booted:
                (run.path / "console.log").write_bytes(snapshot.console)
                console.replay(snapshot.console)
            with contextlib.ExitStack() as held:
                try:
                    held.enter_context(snapshots.lease(snapshot))
                except HarnessError:
                    if attempt == 2:
                        raise
                    continue  # another process has trimmed it, or found it damaged
                start = Start(ram=snapshot.path, payload=handed, freeze=True, incoming=True)
                async with _started(guest, start, run, console) as session:
                    session.times.update(booted)
                    try:
                        await session.machine.restore(snapshot.state, without_shared_ram=True)
                    except HarnessError as error:
                        if await _killed(session.machine):
                            yield session
                            return
                        run.note("snapshot-damaged", name=name, why=error.message)
                        snapshots.remove(snapshot.path)
                        if attempt == 2:
                            raise
                        continue
                    yield session
                    return


@contextlib.asynccontextmanager
async def resume(guest: Guest, saved: Path, run: Run) -> AsyncIterator[Session]:
    """A guest that goes on from `saved`, a folder with the `state` and `console` of one that was saved whole.

    Raises HarnessError when QEMU cannot be started, or does not take the state.
    """
    console = Console()
    run.note("tools", qemu=guest.qemu_version, id=guest.toolset)
    text = (saved / "console").read_bytes()
    (run.path / "console.log").write_bytes(text)
    console.replay(text)
    async with _started(guest, Start(incoming=True), run, console) as session:
        await session.machine.restore(saved / "state", without_shared_ram=False)
        session.machine.wake(real_time=guest.spec.virtual_time is None)
        yield session


@contextlib.asynccontextmanager
async def hosted(guest: Guest, root: HostRoot, run: Run) -> AsyncIterator[Session]:
    """A guest of `root`, booted. Raises HarnessError when QEMU cannot be started."""
    console = Console()
    run.note("tools", qemu=guest.qemu_version, id=guest.toolset)
    run.note("boot", qemu=str(guest.qemu), kernel=guest.kernel.ref, backend="vng")
    began = run.elapsed
    async with qemu.start(root.argv, run.path, console.feed, inherit=root.inherit, kgdb=guest.spec.kgdb) as machine:
        run.note("qemu-started", pid=machine.pid)
        session = Session(guest, machine, console, run, began=began, printed=0, restored=False)
        async with _guarded(session):
            yield session


async def watch(
    started: contextlib.AbstractAsyncContextManager[Session], run: Run, command: Command, *, real_time: bool
) -> Watched:
    """Start a guest, run one command in it, watch to the end.

    Raises HarnessError when QEMU cannot be started, and whatever `command`'s callbacks raise.
    """
    status: int | str | None = None
    answered = None
    async with started as session:
        session.wants_core = command.dump
        machine = session.machine
        if not command.argv:
            machine.packed_job = Job(command.on_stdout, command.on_stderr)
        end = await session.up()
        if end is End.COMMAND:
            began = run.elapsed
            if real_time and session.restored:
                machine.wake(real_time=True)
            job = machine.packed_job or await machine.execute(
                command.argv,
                on_stdout=command.on_stdout,
                on_stderr=command.on_stderr,
                cwd=command.cwd,
                env=command.env,
            )
            end = await session.follow(job, command.seconds)
            session.times["command"] = run.elapsed - began
            if job.done.done():
                status = job.done.result()
        run.note("end", why=end.value, status=status)
        if end in (End.DEADLINE, End.BOOT_DEADLINE):
            answered = await session.interrogate()
        if end is End.PANIC:
            await session.hold()
        if end is End.GONE:
            await machine.why_gone()
        # Before a guest that is done powers off.
        if any(crash.severity in (Severity.OOPS, Severity.PANIC) for crash in session.console.crashes):
            await session.keep_memory("oops")
        if end is End.COMMAND and machine.packed_job is not None:
            # The guest powers off by itself: its last console lines belong to the record.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(machine.ended), 20)
    return session.watched(end, status, answered)


@contextlib.asynccontextmanager
async def _started(guest: Guest, start: Start, run: Run, console: Console) -> AsyncIterator[Session]:
    run.note("restore" if start.incoming else "boot", qemu=str(guest.qemu), kernel=guest.kernel.ref)
    debugfiles.note(run.path, guest.kernel)
    began = run.elapsed
    log = run.path / "console.log"
    printed = log.stat().st_size if log.exists() else 0
    # Where time is real the library is not there, and the host stops the guest when it comes to it.
    env = order.STOP_WHEN_READY if start.freeze and not start.incoming else {}
    argv = partial(guest.argv, start)
    async with qemu.start(argv, run.path, console.feed, env=env, kgdb=guest.spec.kgdb) as machine:
        run.note("qemu-started", pid=machine.pid)
        session = Session(guest, machine, console, run, began=began, printed=printed, restored=start.incoming)
        async with _guarded(session):
            yield session


# The watchdog is heard in the block; what only the guest's memory holds is saved at its end.
@contextlib.asynccontextmanager
async def _guarded(session: Session) -> AsyncIterator[None]:
    watching = [asyncio.create_task(session.guard()), asyncio.create_task(session.keep_oops())]
    try:
        yield
        if not session.machine.ended.done():
            with contextlib.suppress(HarnessError):
                await pstore.save_ramoops(session.machine, session.run.path)
    finally:
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)


# Whether somebody ended QEMU: that says nothing about the snapshot. QMP may be gone a moment before its process is.
async def _killed(machine: Machine) -> bool:
    await asyncio.wait({machine.ended}, timeout=1)
    return machine.ended.done() and machine.ended.result().status in (-signal.SIGKILL, -signal.SIGTERM)


# A file that is mapped and cannot grow ends whoever writes to it.
def _must_have_room(session: Session) -> None:
    if session.failed is End.GONE and session.machine.ended.result().status == -signal.SIGBUS:
        raise HarnessError(
            f"the disk is full: a guest's memory does not fit into {cache_dir()}",
            hint="free some space, or set XDG_CACHE_HOME to a larger file system",
        )


# Wait until the booting guest may be frozen, and keep its state; what came instead, None when nothing did.
async def _freeze(session: Session, state: Path) -> End | None:
    end = await session.first(session.machine.ready, boot_seconds(session.guest), End.BOOT_DEADLINE)
    if end is not End.COMMAND:
        return end
    await session.machine.save(state, without_shared_ram=True)
    return None
