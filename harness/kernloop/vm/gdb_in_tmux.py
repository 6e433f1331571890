# SPDX-License-Identifier: Apache-2.0
"""GDB in a tmux of its own that a person can watch, and the way to ask it (kernloop.vm.in_gdb).

tmux is our child and not a daemon, GDB is tmux's: each dies with its parent, and with the VM. Nobody reads a terminal's
text: GDB's own Python connects back to us, and talks JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kernloop.errors import HarnessError, UsageError
from kernloop.host import owned, process
from kernloop.runs import Run
from kernloop.vm import wire

__all__ = ["Gdb"]

LINK = "kgdb-link"
TMUX = "tmux"
SESSION = "kgdb"
_INSIDE = Path(__file__).parent / "in_gdb.py"
# GDB reads the kernel's DWARF meanwhile: 1.5 s of CPU time for a kernel of 100 MB, far more for a distribution's.
_START_SECONDS = 120.0
_TMUX_SECONDS = 10.0
_POLL_SECONDS = 0.2
# Nearly as many bytes as a socket's name may have (unix(7)); a longer one is reached by our descriptor of its folder.
_LONGEST = 100
# To any question: KGDB answers by a serial port.
_ANSWER_SECONDS = 40.0


class Gdb:
    """GDB for the VM `name` of `run`, to be started and closed any number of times. `on_event` hears of the guest's
    stops and that it goes on, `on_lost` why GDB is not there any more: it died, or does not answer."""

    def __init__(
        self, run: Run, name: str, on_event: Callable[[dict[str, Any]], None], on_lost: Callable[[str], None]
    ) -> None:
        self._run = run
        self._name = name
        self._on_event = on_event
        self._on_lost = on_lost
        self._stack: contextlib.AsyncExitStack | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._socket = run.path / TMUX
        self._serving: asyncio.Task[None] | None = None
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._last = 0
        self._ready = asyncio.Event()
        self._lost = ""
        self.version = ""

    @property
    def watch(self) -> str:
        """With what a person looks on, "" when there is nothing to see."""
        return f"tmux -S {shlex.quote(str(self._socket))} attach -r" if self._stack else ""

    async def close(self) -> None:
        """End GDB and tmux."""
        self.version = ""
        if self._stack is not None:
            stack, self._stack = self._stack, None
            await stack.aclose()
        if self._serving is not None:
            await asyncio.wait({self._serving}, timeout=_TMUX_SECONDS)

    async def start(self, vmlinux: Path) -> None:
        """Start it, with the symbols of `vmlinux`. Raises HarnessError."""
        run = self._run
        self._ready.clear()
        self._lost = ""
        stack = contextlib.AsyncExitStack()
        try:
            self._socket = run.path / TMUX
            if len(str(self._socket)) > _LONGEST:
                folder = os.open(run.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                stack.callback(os.close, folder)
                self._socket = Path(f"/proc/{os.getpid()}/fd/{folder}/{TMUX}")
            stack.enter_context(run.scratch(LINK))
            listening = await asyncio.start_unix_server(
                self._serve, sock=wire.bind(run.path, LINK), limit=wire.LINE_MAX
            )
            stack.callback(listening.close)
            server = await self._start_tmux(stack, vmlinux)
            async with asyncio.timeout(_START_SECONDS):
                await self._until_ready(server)
        except TimeoutError:
            await stack.aclose()
            raise HarnessError(
                f"GDB did not start within {_START_SECONDS:g} s", hint="does it have Python? gdb -batch -ex 'python 1'"
            ) from None
        except BaseException:
            await stack.aclose()
            raise
        self._stack = stack
        run.note("kgdb-gdb", version=self.version)

    async def ask(self, what: str, seconds: float, **words: Any) -> dict[str, Any]:
        """What GDB answers to `what`, one of the functions of kernloop.vm.in_gdb.

        Raises UsageError for what GDB refuses, HarnessError when it is lost.
        """
        if self._writer is None:
            raise self._gone(self._lost or "GDB is not there")
        # Who waits for a stop for half a second only has not lost a GDB that takes longer to answer.
        seconds = max(seconds, _ANSWER_SECONDS)
        self._last += 1
        answer = self._answers[self._last] = asyncio.get_running_loop().create_future()
        self._writer.write(wire.line({"id": self._last, "do": what, **words}))
        try:
            message = await asyncio.wait_for(answer, seconds)
        except TimeoutError:
            self._lose(f"GDB has not answered {what} within {seconds:g} s")
            raise self._gone(self._lost) from None
        finally:
            self._answers.pop(self._last, None)
        if "error" in message:
            if self._lost:
                raise self._gone(self._lost)
            raise UsageError(f"GDB: {message['error']}", hint=f"kernloop debug kgdb {self._name} state")
        result = message["result"]
        assert isinstance(result, dict)
        return result

    # A tmux whose only window has ended goes as well.
    async def _until_ready(self, server: subprocess.Popen[bytes]) -> None:
        while not self._ready.is_set():
            if server.poll() is not None:
                raise HarnessError("GDB ended as it started", hint="is it whole? gdb -batch -ex 'python 1'")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ready.wait(), _POLL_SECONDS)

    async def _start_tmux(self, stack: contextlib.AsyncExitStack, vmlinux: Path) -> subprocess.Popen[bytes]:
        run = self._run
        gdb = _program("gdb")
        stack.enter_context(run.scratch(TMUX))
        server = process.spawn(
            [_program("tmux"), "-S", str(self._socket), "-f", "/dev/null", "-D"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=run.path,
        )
        stack.callback(process.end_group, server)
        stack.enter_context(owned.group(server.pid))
        run.note("kgdb-tmux", pid=server.pid)
        async with asyncio.timeout(_TMUX_SECONDS):
            while not self._socket.exists() and server.poll() is None:
                await asyncio.sleep(0.02)
        if server.poll() is not None:
            raise HarnessError("tmux ended at once", hint="it must be 3.2 or later: tmux -V")
        argv = _gdb_argv(gdb, vmlinux)
        await asyncio.to_thread(_open_window, self._socket, run.path, argv)
        self._socket.chmod(0o600)
        return server

    # GDB's connection, for as long as it lives.
    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._writer is not None:
            writer.close()
            return
        self._writer = writer
        self._serving = asyncio.current_task()
        try:
            with contextlib.suppress(OSError, ValueError):
                while text := await reader.readline():
                    self._take(json.loads(text))
        finally:
            self._writer = None
            writer.close()
            if self._stack is not None:
                self._lose("GDB or its tmux has ended")

    def _take(self, message: dict[str, Any]) -> None:
        match message.get("event"):
            case "ready":
                self.version = str(message["version"])
                self._ready.set()
            case str():
                self._on_event(message)
            case _:
                answer = self._answers.get(message["id"])
                if answer and not answer.done():
                    answer.set_result(message)

    def _lose(self, why: str) -> None:
        self._lost = why
        self._run.note("kgdb-lost", why=why)
        for answer in self._answers.values():
            if not answer.done():
                answer.set_result({"error": why})
        self._on_lost(why)

    def _gone(self, why: str) -> HarnessError:
        return HarnessError(why, hint=f"kernloop debug kgdb {self._name} enter starts another GDB")


def _gdb_argv(gdb: str, vmlinux: Path) -> list[str]:
    """GDB with our script, which dies with tmux; nothing of the user's or of the kernel's tree is run in it."""
    settings = ("set auto-load off", "set debuginfod enabled off", "set style enabled off")
    early = [word for setting in settings for word in ("-iex", setting)]
    return [
        *process.DIE_WITH_PARENT,
        gdb,
        "-nx",
        "-q",
        *early,
        str(vmlinux),
        "-x",
        str(_INSIDE),
    ]


def _open_window(socket: Path, folder: Path, argv: list[str]) -> None:
    import libtmux  # 0.1 s, and few VMs are debugged
    from libtmux.exc import LibTmuxException

    try:
        server = libtmux.Server(socket_path=socket)
        size = ("-x", "160", "-y", "50")
        done = server.cmd("new-session", "-d", "-s", SESSION, *size, "-c", str(folder), "--", *argv)
        # As its child it would outlive GDB (-D in tmux(1)).
        ends = server.cmd("set-option", "-s", "exit-empty", "on")
        said = " ".join((*done.stderr, *ends.stderr))
    except LibTmuxException as error:
        said = str(error)
    if said:
        raise HarnessError(f"tmux: {said}", hint="it must be 3.2 or later: tmux -V")


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise HarnessError(f"{name} is not installed", hint=f"install {name}; kernloop doctor names the package")
    return found
