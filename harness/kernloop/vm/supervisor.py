# SPDX-License-Identifier: Apache-2.0
"""The process that owns a VM: started detached by a client, it starts the guest and serves it until it ends.

`python -m kernloop.vm.supervisor` reads a VmRequest as JSON from stdin and writes JSON lines to stdout: `say`, then
`up` or `error`. From then on it is reached by the socket in its run directory (kernloop.vm.wire).
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
from typing import Any

from kernloop import runs
from kernloop.errors import HarnessError
from kernloop.host import progress
from kernloop.kernel import refs
from kernloop.present import outcome_json
from kernloop.runs import Run
from kernloop.verdict import Outcome, Verdict, exit_code
from kernloop.vm import guests, saved, wire
from kernloop.vm.argv import VirtualTime
from kernloop.vm.handover import blob
from kernloop.vm.judge import judge_machine, unjudged
from kernloop.vm.request import VERB, VmRequest, reserved
from kernloop.vm.server import Server
from kernloop.vm.session import End, Guest, Session, attend, resume

__all__ = ["SCHEMA", "main"]

SCHEMA = "kernloop.vm/1"


def main() -> None:
    request = VmRequest.of_json(json.loads(sys.stdin.read()))
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # a terminal's, of the client that started us
    try:
        with progress.heard_by(lambda what: _tell({"say": what})), contextlib.ExitStack() as stack:
            with reserved(request) as name:
                request = replace(request, name=name)
                run = stack.enter_context(runs.create(VERB, SCHEMA, {"subject": name, **request.as_json()}))
            try:
                asyncio.run(_live(request, run))
            except asyncio.CancelledError:
                raise HarnessError("the process that this VM belongs to ended before it was up") from None
    except HarnessError as error:
        _tell(wire.failure(error))
        raise SystemExit(error.exit_code) from None


# A client that has gone away does not matter to the VM.
def _tell(message: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()


async def _live(request: VmRequest, run: Run) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    news = asyncio.Event()
    server: Server | None = None
    starting = asyncio.current_task()
    assert starting is not None

    def orphaned() -> None:
        if server is None:
            starting.cancel()
        else:
            server.why = "stopped: the process that it belonged to ended"
            stopped.set()

    if request.owner is not None:
        _watch_owner(request.owner, orphaned)
    request, guest, start = _prepare(request, run, news.set)
    async with start as session:
        end = await session.up()
        if end is End.COMMAND:
            if guest.spec.virtual_time is None:
                session.machine.wake(real_time=True)
            server = Server(request, guest, session, news, stopped)
            listener = wire.bind(run.path)
            async with await asyncio.start_unix_server(server.serve, sock=listener, limit=wire.LINE_MAX):
                _tell({"up": {"name": request.name, "run": str(run.path), **server.info()}})
                _detach()
                end = await server.until_over()
            (run.path / wire.SOCKET).unlink(missing_ok=True)
            await server.close()
        else:
            if end is End.BOOT_DEADLINE:
                await session.interrogate()
            if end is End.PANIC:
                await session.hold()
    outcome = _judge(guest, session, end, server)
    run.judge(outcome_json(SCHEMA, run.path, outcome, exit_code=exit_code(outcome.verdict), name=request.name))
    if server is None:
        raise HarnessError(f"{outcome.verdict}: {outcome.summary}", hint=outcome.next, evidence=run.path)


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


# The guest, and what starts it; a saved VM brings its own request.
def _prepare(
    request: VmRequest, run: Run, news: Any
) -> tuple[VmRequest, Guest, contextlib.AbstractAsyncContextManager[Session]]:
    def on_line(line: str) -> None:
        news()

    kept = saved.load(request.tag) if request.tag else None
    if kept:
        request = replace(kept.request, name=request.name, idle=request.idle, tag=request.tag, owner=request.owner)
        run.write("spec.json", {"verb": VERB, "subject": request.name, **request.as_json()})
    progress.say("finding the kernel")
    kernel = refs.resolve(request.kernel)
    virtual = None if request.seed is None else VirtualTime(request.shift)
    guest = guests.micro(kernel, request.topology, request.memory, append=request.append, virtual=virtual)
    progress.say(f"starting {kernel.release}")
    if kept is None:
        return request, guest, attend(guest, blob(b"", seed=request.seed), run, cold=request.cold, on_line=on_line)
    if kept.key != guest.key():
        raise HarnessError(
            f"the VM {kept.tag} was saved with another QEMU or initramfs", hint="save it anew: kernloop vm snapshot"
        )
    return request, guest, _resumed(guest, kept, run, on_line)


@contextlib.asynccontextmanager
async def _resumed(guest: Guest, kept: saved.Saved, run: Run, on_line: Any) -> AsyncIterator[Session]:
    async with resume(guest, kept.path, run, on_line=on_line) as session:
        # The jobs of the saved VM go on in this one: their numbers are taken.
        session.machine.next_job = kept.jobs
        yield session


# What the client heard of was all that it will: its terminal and its pipe are not ours to hold.
def _detach() -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1):
        os.dup2(null, fd)
    os.close(null)


def _judge(guest: Guest, session: Session, end: End, server: Server | None) -> Outcome:
    run = session.run
    watched = session.watched(end, 0)
    if end is End.GONE and server and not server.busy and watched.shutdown_reason == "guest-shutdown":
        watched = replace(watched, end=End.COMMAND)  # its user told it to
    found = judge_machine(guest.kernel, run, watched, deadline=0)
    if found is not None:
        return found
    why = server.why if server else ""
    return replace(
        unjudged(guest.kernel, run, watched), verdict=Verdict.PASS, summary=why or "the guest powered itself off"
    )


if __name__ == "__main__":
    main()
