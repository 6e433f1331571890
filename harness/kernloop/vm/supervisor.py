# SPDX-License-Identifier: Apache-2.0
"""The process that owns a VM: started detached by a client, it starts the guest and serves it until it ends.

`main` reads a VmRequest as JSON from stdin and writes JSON lines to stdout: `say`, then `up` or `error`. From then on
it is reached by the socket in its run directory (kernloop.vm.wire).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from kernloop import runs
from kernloop.errors import HarnessError
from kernloop.host import progress
from kernloop.kernel import refs
from kernloop.present import conclude, outcome_json
from kernloop.runs import Run
from kernloop.verdict import Outcome, Verdict, exit_code
from kernloop.vm import saved, wire
from kernloop.vm.argv import VirtualTime
from kernloop.vm.backends import Backend, backend
from kernloop.vm.guest import Guest
from kernloop.vm.handover import blob
from kernloop.vm.judge import judge_machine, reports, unjudged, with_vmcore
from kernloop.vm.request import VERB, VmRequest, reserved
from kernloop.vm.server import Server
from kernloop.vm.session import BOOT_SECONDS, End, Session
from kernloop.vm.share import Share
from kernloop.vm.watch import resume

__all__ = ["SCHEMA", "main"]

SCHEMA = "kernloop.vm/1"


def main() -> None:
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # a terminal's, of the client that started us
    try:
        request = VmRequest.of_json(json.loads(sys.stdin.read()))
        with progress.heard_by(_say), contextlib.ExitStack() as stack:
            # A saved VM brings its own machine.
            kept = saved.load(request.tag) if request.tag else None
            if kept:
                request = replace(
                    kept.request, name=request.name, idle=request.idle, tag=request.tag, owner=request.owner
                )
            with reserved(request) as name:
                request = replace(request, name=name)
                run = stack.enter_context(runs.create(VERB, SCHEMA, {"subject": name, **request.as_json()}))
            made = _made(request, kept)
            try:
                asyncio.run(_live(request, made, kept, run))
            except asyncio.CancelledError:
                raise HarnessError("whoever started this VM was gone before it was up") from None
    except HarnessError as error:
        _tell(wire.failure(error))
        raise SystemExit(error.exit_code) from None


# Whether a client is there to hear it; most of what it is told does not matter to the VM.
def _tell(message: dict[str, Any]) -> bool:
    try:
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()
    except OSError:
        return False
    return True


def _say(what: str, *_: object) -> None:
    _tell({"say": what})


def _made(request: VmRequest, kept: saved.Saved | None) -> Backend:
    progress.say("finding the kernel")
    kernel = refs.resolve(request.kernel)
    made = backend(
        request.backend,
        kernel,
        request.topology,
        request.memory,
        append=request.append,
        virtual=None if request.seed is None else VirtualTime(request.shift),
        share=Share(Path(request.folder or "/root"), request.writable),
        kgdb=request.kgdb,
    )
    if kept and kept.key != made.guest.key():
        raise HarnessError(
            f"the VM {kept.tag} was saved with another QEMU or initramfs", hint="save it anew: kernloop vm snapshot"
        )
    progress.say(f"starting {kernel.release}")
    return made


async def _live(request: VmRequest, made: Backend, kept: saved.Saved | None, run: Run) -> None:
    loop = asyncio.get_running_loop()
    starting = asyncio.current_task()
    assert starting is not None
    # Our stdout is a pipe: epoll reports its error as soon as nobody can read from it any more.
    loop.add_reader(sys.stdout.fileno(), starting.cancel)
    guest = made.guest
    server: Server | None = None
    stopped = asyncio.Event()

    def orphaned() -> None:
        if server is None:
            starting.cancel()
        else:
            server.why = "stopped: the process that it belonged to ended"
            stopped.set()

    if request.owner is not None:
        _watch_owner(request.owner, orphaned)
    async with _started(request, made, kept, run) as session:
        session.wants_core = request.dump
        end = await (_waiting(session) if request.waits else session.up())
        if end is End.COMMAND:
            if guest.spec.virtual_time is None and session.restored:
                session.machine.wake(real_time=True)
            loop.add_signal_handler(signal.SIGTERM, stopped.set)
            server = Server(request, made, session, stopped)
            end = await _serve(server, request, run)
        else:
            if end is End.BOOT_DEADLINE:
                await session.interrogate()
            if end is End.PANIC:
                await session.hold()
    outcome = _judge(guest, session, end, server)
    value = outcome_json(SCHEMA, run.path, outcome, exit_code=exit_code(outcome.verdict), name=request.name)
    conclude(run, value)
    if server is None:
        raise HarnessError(f"{outcome.verdict}: {outcome.summary}", hint=outcome.next, evidence=run.path)


# Until the kernel waits for its debugger, or is up without.
async def _waiting(session: Session) -> End:
    entered: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def sits() -> None:
        session.held_by_kgdb(True)
        if not entered.done():
            entered.set_result(None)

    session.console.on_debugger = sits
    either: set[asyncio.Future[Any]] = {entered, session.machine.hello}
    goal = asyncio.create_task(asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED))
    try:
        return await session.first(goal, BOOT_SECONDS, End.BOOT_DEADLINE)
    finally:
        goal.cancel()


async def _serve(server: Server, request: VmRequest, run: Run) -> End:
    with run.scratch(wire.SOCKET):
        listening = await asyncio.start_unix_server(server.serve, sock=wire.bind(run.path), limit=wire.LINE_MAX)
        try:
            run.note("serving")
            asyncio.get_running_loop().remove_reader(sys.stdout.fileno())
            if not _tell({"up": {"name": request.name, "run": str(run.path), **server.info()}}):
                raise asyncio.CancelledError  # as when its end is seen before
            _detach(run)
            return await server.until_over()
        finally:
            listening.close()
            await server.close()


# The owner is our parent, if it lives: a pid that was given to another process since is told by that.
def _watch_owner(pid: int, gone: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    with contextlib.suppress(ProcessLookupError):
        fd = os.pidfd_open(pid)

        def ended() -> None:
            loop.remove_reader(fd)
            gone()

        if os.getppid() == pid:
            loop.add_reader(fd, ended)
            return
    gone()


@contextlib.asynccontextmanager
async def _started(request: VmRequest, made: Backend, kept: saved.Saved | None, run: Run) -> AsyncIterator[Session]:
    if kept is None:
        async with made.attend(blob(b"", seed=request.seed), run, cold=request.cold or request.waits) as session:
            yield session
        return
    async with resume(made.guest, kept.path, run) as session:
        # The jobs of the saved VM go on in this one: their numbers are taken.
        session.machine.next_job = kept.jobs
        yield session


# What the client heard of was all that it will: its terminal, its pipe and its folder are not ours to hold.
def _detach(run: Run) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    log = os.open(run.path / "supervisor.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for ours, fd in ((null, 0), (null, 1), (log, 2)):
        os.dup2(ours, fd)
    os.close(null)
    os.close(log)
    os.chdir("/")


def _judge(guest: Guest, session: Session, end: End, server: Server | None) -> Outcome:
    run = session.run
    watched = session.watched(end, 0)
    if end is End.GONE and server and watched.shutdown_reason == "guest-shutdown":
        watched = replace(watched, end=End.COMMAND)  # its user told it to
    found = judge_machine(guest.kernel, run, watched, deadline=0)
    if found is not None:
        return with_vmcore(found, run, watched.vmcore, again="vm start --dump")
    why = server.why if server else ""
    seen = reports(watched)
    also = f"; the kernel reported: {seen[0].what}" if seen else ""
    return replace(
        unjudged(guest.kernel, run, watched),
        verdict=Verdict.PASS,
        summary=(why or "the guest powered itself off") + also,
    )
