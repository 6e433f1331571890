# SPDX-License-Identifier: Apache-2.0
"""The process that has a GDB at a VM: started detached by a client, it serves others until one detaches.

It holds a connection to the VM's supervisor, which closes QEMU's gdbstub and lets the guest go on when that ends,
however it ends; GDB dies with it, and it ends with the VM. It is reached by the socket in the folder `gdb` of the VM's
run directory: a request a connection, as a supervisor is (kernloop.vm.wire). `main` reads what it is for as JSON from
stdin, and writes JSON lines to stdout: `say`, then `up` or `error`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from inspect import signature
from pathlib import Path
from typing import Any

from kernloop import runs
from kernloop.debug.gdb import tasks
from kernloop.debug.gdb.control import STEPS, Control
from kernloop.debug.gdb.loading import Loading
from kernloop.debug.gdb.looks import Looks
from kernloop.debug.gdb.process import Gdb, GdbRefused, started
from kernloop.debug.gdb.program import find
from kernloop.debug.gdb.state import Frame, Reason, Session, State, told
from kernloop.debug.gdb.stops import Stops
from kernloop.debug.owners import leave_client, tell
from kernloop.errors import HarnessError, UsageError
from kernloop.host import owned
from kernloop.vm import stub, wire
from kernloop.vm.client import VM

__all__ = ["FOLDER", "LAST", "main"]

FOLDER = "gdb"
# The last state that the session was in, for those who come when it is over.
LAST = "session.json"
_IDLE_SECONDS = 1800.0
_POLL_SECONDS = 5.0
_CONNECT_SECONDS = 30.0
# A guest that hangs is asked for its last words first.
_STUB_SECONDS = 90.0
_REQUEST_SECONDS = 30.0
_CLOSE_SECONDS = 2.0
_ENDS_SECONDS = 5.0
_SEEN_SECONDS, _SEEN_POLL_SECONDS = 15.0, 0.02
# States of a VM whose kernel is stopped for good.
_DEAD = {"panicked": Reason.PANIC, "hung": Reason.WATCHDOG}
# may-call-functions: a call in the kernel from outside would run in whatever context the CPU is in.
_SETTINGS = (
    "confirm off",
    "pagination off",
    "width 0",
    "height 0",
    "style enabled off",
    "mi-async on",
    "breakpoint pending off",
    "may-call-functions off",
    "print elements 256",
    "max-value-size 1048576",
    "remotetimeout 10",
    "python print-stack none",
    "architecture i386:x86-64",
)


def main() -> None:
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # a terminal's, of the client that started us
    wanted = json.loads(sys.stdin.read())
    try:
        asyncio.run(_live(VM(wanted["name"], Path(wanted["run"]))))
    except HarnessError as error:
        tell(wire.failure(error))
        raise SystemExit(error.exit_code) from None


async def _live(vm: VM) -> None:
    folder = vm.run / FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    program = find()
    tell({"say": "reading the kernel's symbols"})
    cpus = int(vm.info().facts["cpus"])
    async with started(program, folder) as gdb:
        loading = await Loading.of(vm, gdb, folder)
        await _prepare(gdb, loading)
        link = vm.connect()
        with link, contextlib.ExitStack() as reached:
            link.send({"op": "gdbstub"})
            answer = next(link.messages(_STUB_SECONDS))
            if "error" in answer:
                raise wire.raised(answer["error"])
            owner = Owner(vm, gdb, loading, cpus, link, dead=_DEAD.get(answer["result"]["state"]))
            await owner.attach()
            reached.enter_context(owned.folder(folder / wire.SOCKET))
            listening = await asyncio.start_unix_server(owner.serve, sock=wire.bind(folder), limit=wire.LINE_MAX)
            try:
                tell({"up": {"pid": os.getpid(), "gdb": gdb.pid}})
                leave_client(folder / "owner.log")
                await owner.until_over()
            finally:
                (folder / wire.SOCKET).unlink(missing_ok=True)
                listening.close()
                await owner.close()
                for made in folder.glob("*.elf"):
                    made.unlink()


async def _prepare(gdb: Gdb, loading: Loading) -> None:
    for setting in _SETTINGS:
        await gdb.ask(f"-gdb-set {setting}")
    with contextlib.suppress(GdbRefused):
        await gdb.ask("-gdb-set debuginfod enabled off")  # where it is built in
    # QEMU's word for its watchdog is one that GDB would go on at without a word.
    await gdb.console("handle SIGALRM stop print nopass")
    await loading.begin()


class Owner:
    """Serves the clients of one session; `dead` says why the guest cannot go on, if it cannot."""

    def __init__(
        self, vm: VM, gdb: Gdb, loading: Loading, cpus: int, link: wire.Connection, *, dead: Reason | None
    ) -> None:
        self._vm = vm
        self._gdb = gdb
        self._loading = loading
        self._link = link
        self.control = Control(gdb)
        self.control.dead = dead
        looks, stops = Looks(gdb, self.control, cpus), Stops(gdb, self.control)
        self._one_at_a_time = asyncio.Lock()
        self._detached = asyncio.Event()
        self._serving: set[asyncio.Task[Any]] = set()
        self._last = time.monotonic()
        self._named_at = 0
        self._operations: dict[str, Callable[..., Awaitable[dict[str, Any]]]] = {
            "break": stops.break_,
            "watch": stops.watch,
            "breakpoints": stops.breakpoints,
            "delete": stops.delete,
            "backtrace": self._named(looks.backtrace),
            "cpus": self._named(looks.cpus),
            "locals": looks.locals,
            "evaluate": looks.evaluate,
            "print": looks.tree,
            "list": looks.source,
            "disassemble": looks.disassemble,
            "memory": looks.memory,
            "registers": looks.registers,
            "threads": looks.threads,
            "command": looks.command,
            "tasks": self._tasks,
            "modules": self._modules,
        }
        # What may wait takes no turns, else nobody could interrupt it.
        self._waiting: dict[str, Callable[..., Awaitable[None]]] = {
            "state": self._state,
            "wait": self._wait,
            "continue": self._continue,
            "interrupt": self._interrupt,
            "detach": self._detach,
            **{how: self._stepper(how) for how in STEPS},
        }

    async def attach(self) -> None:
        """Take the guest over, which stops it for a moment; one that ran goes on. Raises HarnessError."""
        end = os.open(self._vm.run, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            where = f"/proc/{os.getpid()}/fd/{end}/{stub.NAME}"
            await self._gdb.ask(f"-target-select remote {where}", seconds=_CONNECT_SECONDS)
        finally:
            os.close(end)
        await self.control.wait(0, _CONNECT_SECONDS)
        await self._loading.attached()
        if self.control.dead is None:
            await self.control.go_on(0)
            await self._seen()
        self._note()

    async def until_over(self) -> None:
        """Until somebody detaches, the VM or GDB ends, or nobody has asked anything for half an hour."""
        supervisor = asyncio.create_task(self._supervisor_ends())
        detached = asyncio.create_task(self._detached.wait())
        closed = asyncio.create_task(self.control.closed.wait())
        idle = asyncio.create_task(self._idle())
        noting = asyncio.create_task(self._note_each())
        try:
            signs: set[asyncio.Future[Any]] = {supervisor, detached, idle, closed, self._gdb.ended}
            await asyncio.wait(signs, return_when=asyncio.FIRST_COMPLETED)
            if self._gdb.ended.done() or closed.done():
                # With QEMU goes its stub, and GDB may notice first.
                await asyncio.wait({supervisor}, timeout=_ENDS_SECONDS)
            if supervisor.done():
                self.control.over(State.EXITED, "the VM has ended")
            elif self._gdb.ended.done():
                self.control.over(State.LOST, f"gdb is gone: {self._gdb.ended.result()}")
            elif closed.done():
                self.control.over(State.LOST, "QEMU's gdbstub has closed the connection")
            else:
                if self.control.dead is None:
                    await self._leave()
                self.control.over(State.DETACHED, "by a client" if detached.done() else "nobody used it")
        finally:
            tasks = (supervisor, detached, idle, closed, noting)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._note()

    async def close(self) -> None:
        """Those that are still served hear how it ended."""
        if self._serving:
            _, late = await asyncio.wait(self._serving, timeout=_CLOSE_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection: one request."""
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            async with asyncio.timeout(_REQUEST_SECONDS):
                text = await reader.readline()
            if text.endswith(b"\n"):
                writer.write(wire.line(await self._answer(text)))
                writer.close()
                await writer.wait_closed()
        except (OSError, ValueError):
            pass  # a client that goes away, or is none
        finally:
            self._serving.discard(task)
            self._last = time.monotonic()

    async def _answer(self, text: bytes) -> dict[str, Any]:
        message = json.loads(text)
        try:
            name = message.pop("op", "")
            found: dict[str, Any] = {}
            if name in self._waiting:
                _fit(self._waiting[name], message)
                await self._waiting[name](**message)
            elif name in self._operations:
                _fit(self._operations[name], message)
                async with self._one_at_a_time:
                    found = await self._operations[name](**message)
            else:
                raise UsageError(f"gdb cannot {name!r}", hint="is the client of another version of kernloop?")
            # A look at a guest that stands still changes nothing; at one that runs it stops it for a moment.
            if name != "state" and (name in self._waiting or self.control.session.state is State.RUNNING):
                await self._seen()
            return {"result": {"session": self._plain(self.control.session), "found": self._plain(found)}}
        except HarnessError as error:
            # Where the session has just ended, that is the reason.
            if self.control.session.state.over:
                return {"result": {"session": self._plain(self.control.session), "found": {}}}
            return wire.failure(error)

    # The supervisor hears by QMP what becomes of the guest: a command for it that comes at once is to be refused when
    # it stands still, and not when it goes on.
    async def _seen(self) -> None:
        deadline = time.monotonic() + _SEEN_SECONDS
        with contextlib.suppress(HarnessError):
            while not self.control.session.state.over and time.monotonic() < deadline:
                state = (await asyncio.to_thread(self._vm.info)).state
                runs = self.control.session.state is State.RUNNING
                if state != "in-gdb" if runs else state not in ("running", "starting"):
                    return
                await asyncio.sleep(_SEEN_POLL_SECONDS)

    async def _state(self) -> None:
        pass

    async def _wait(self, *, since: int, timeout: float) -> None:
        await self.control.wait(since, timeout)

    async def _continue(self, *, timeout: float) -> None:
        async with self._one_at_a_time:
            before = self.control.session.stops
            await self.control.go_on(0)
        await self.control.wait(before, timeout)

    async def _interrupt(self) -> None:
        async with self._one_at_a_time:
            await self.control.interrupt()

    def _stepper(self, how: str) -> Callable[..., Awaitable[None]]:
        async def step(*, timeout: float, count: int = 1, where: str = "") -> None:
            await self.control.step(how, timeout, count, where)

        return step

    async def _detach(self) -> None:
        self._detached.set()

    async def _modules(self, *, files: list[str] | None = None) -> dict[str, Any]:
        """What GDB has read: the kernel's symbols and its modules', as they are now; `files` of modules from elsewhere,
        or a vmlinux with debugging information."""
        self.control.must_be_there()
        loaded = await self._loading.look(tuple(map(Path, files or ())))
        if loaded != self._loading.loaded:
            async with self.control.still():
                await self._loading.take(loaded)
        return {
            "file": str(loaded.file),
            "offset": hex(loaded.offset),
            "build_id": loaded.build_id,
            "dwarf": loaded.dwarf,
            "modules": [
                {
                    "name": one.name,
                    "file": str(one.path) if one.path else None,
                    "sections": {name: hex(at) for name, at in one.sections},
                }
                for one in loaded.modules
            ],
            "notes": loaded.notes,
        }

    # Stacks with code that has no name yet: of a module that was loaded since, of BPF. Looked for once a stop, for it
    # may have none.
    def _named(self, look: Callable[..., Awaitable[dict[str, Any]]]) -> Callable[..., Awaitable[dict[str, Any]]]:
        async def looked(**words: Any) -> dict[str, Any]:
            found = await look(**words)
            stacks = [one["frames"] for one in found.get("cpus", [found])]
            nameless = any(not call.function and call.address >> 63 for stack in stacks for call in stack)
            if not nameless or self._named_at == self.control.session.stops:
                return found
            self._named_at = self.control.session.stops
            await self._modules()
            return await look(**words)

        looked.__signature__ = signature(look)  # type: ignore[attr-defined]
        return looked

    async def _tasks(self, *, pid: int = 0, limit: int = 64) -> dict[str, Any]:
        """The kernel's tasks, which GDB knows nothing of: all, or one with its stack."""
        self.control.must_be_there()
        return await asyncio.to_thread(tasks.listed, self._vm, pid=pid, limit=limit)

    # GDB takes its breakpoints out itself; where it cannot, the supervisor does.
    async def _leave(self) -> None:
        self.control.leaving = True
        with contextlib.suppress(HarnessError):
            await self.control.interrupt()
            await self._gdb.ask("-target-detach")

    # It says nothing more: whatever is read is the end.
    async def _supervisor_ends(self) -> None:
        loop = asyncio.get_running_loop()
        gone: asyncio.Future[None] = loop.create_future()
        end = self._link.socket.fileno()

        def told() -> None:
            loop.remove_reader(end)
            gone.set_result(None)

        loop.add_reader(end, told)
        try:
            await gone
        finally:
            loop.remove_reader(end)

    async def _idle(self) -> None:
        while (left := self._last + _IDLE_SECONDS - time.monotonic()) > 0 or self._serving:
            await asyncio.sleep(max(left, _POLL_SECONDS))

    async def _note_each(self) -> None:
        while True:
            await asyncio.wait({self.control.changed.next})
            self._note()

    # As JSON has it; files of the tree by their names in it.
    def _plain(self, value: Any) -> Any:
        if isinstance(value, (Session, Frame)):
            return self._plain(told(value))
        if isinstance(value, dict):
            return {key: self._plain(one) for key, one in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._plain(one) for one in value]
        if isinstance(value, str) and self._loading.loaded.source is not None:
            return value.removeprefix(f"{self._loading.loaded.source}/")
        return value

    def _note(self) -> None:
        with contextlib.suppress(OSError):
            runs.write_json(
                self._vm.run / FOLDER / LAST,
                {"pid": os.getpid(), "gdb": self._gdb.pid, **self._plain(self.control.session)},
            )


# Raises UsageError when `operation` does not take these words.
def _fit(operation: Callable[..., Any], named: dict[str, Any]) -> None:
    try:
        signature(operation).bind(**named)
    except TypeError as error:
        raise UsageError(f"gdb was asked wrongly: {error}", hint="is the client of another version?") from None
