# SPDX-License-Identifier: Apache-2.0
"""One GDB, spoken to by its machine interface: a command and its answer within a deadline, news as it comes."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from kernloop.debug.gdb.mi import MiError, Record, parse, quoted
from kernloop.errors import HarnessError, UsageError
from kernloop.host import owned, process

__all__ = ["Gdb", "GdbRefused", "started"]

_LINE_MAX = 32 << 20
# What it does is read files and ask a stub; a lookup in the kernel's types may take seconds.
_SECONDS = 90.0
_MOST_TEXT = 4 << 20
# It goes on after a packet without an answer, and takes a late one for the next's (remote_target::getpkt()).
_DEAF = "Ignoring packet error"
_REFUSED = "gdb's own words; `command --text 'info functions NAME'` finds what there is"


class GdbRefused(UsageError):
    """GDB says no: an expression that makes no sense, a location that is not there."""


class Gdb:
    """Made by `started`. `ended` is done when it is gone, or not to be trusted any more."""

    def __init__(self, child: subprocess.Popen[bytes], stdin: asyncio.WriteTransport) -> None:
        self.pid = child.pid
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.on_news: Callable[[Record], None] = lambda record: None
        self._stdin = stdin
        self._waiting: dict[int, asyncio.Future[Record]] = {}
        self._last = 0
        self._said: list[str] = []

    async def ask(self, command: str, *, seconds: float = _SECONDS) -> Record:
        """Its answer. Raises GdbRefused with what it says against it, HarnessError when it is gone or silent."""
        if self.ended.done():
            raise HarnessError(f"gdb is gone: {self.ended.result()}", hint="attach anew")
        self._last += 1
        token = self._last
        answer = self._waiting[token] = asyncio.get_running_loop().create_future()
        self._stdin.write(f"{token}{command}\n".encode())
        try:
            signs: set[asyncio.Future[str] | asyncio.Future[Record]] = {answer, self.ended}
            await asyncio.wait(signs, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            del self._waiting[token]
        if answer.done():
            record: Record = answer.result()
            if record.word == "error":
                raise GdbRefused(str(record.values.get("msg", "gdb gives no reason")), hint=_REFUSED)
            return record
        word = command.split()[0]
        if self.ended.done():
            raise HarnessError(f"gdb ended during {word}: {self.ended.result()}", hint="attach anew")
        self._lose(f"it has not answered {word} for {seconds:g} s")
        raise HarnessError(f"gdb has not answered {word} for {seconds:g} s", hint="attach anew")

    async def console(self, command: str, *, seconds: float = _SECONDS) -> str:
        """What GDB prints at one of its own commands. One at a time. Raises as `ask` does."""
        self._said.clear()
        await self.ask(f"-interpreter-exec console {quoted(command)}", seconds=seconds)
        return "".join(self._said)

    async def read(self, stdout: asyncio.StreamReader) -> None:
        """Take what it says, until its end."""
        why = "it has ended"
        try:
            while line := await stdout.readline():
                if not line.endswith(b"\n"):
                    break  # cut off by its end
                self._take(line.decode(errors="replace").rstrip("\r\n"))
        except (MiError, ValueError) as error:
            why = f"it talks nonsense: {error}"
        finally:
            self._lose(why)

    # What it says from now on may be the answer to another question.
    def _lose(self, why: str) -> None:
        if not self.ended.done():
            self.ended.set_result(why)

    def _take(self, line: str) -> None:
        if not line:
            return
        record = parse(line)
        if record.kind == "result":
            answer = self._waiting.get(record.token or 0)
            if answer is not None and not answer.done():
                answer.set_result(record)
        elif record.kind == "console":
            if _DEAF in record.text:
                self._lose("QEMU's gdbstub has not answered it")
            if sum(map(len, self._said)) < _MOST_TEXT:
                self._said.append(record.text)
        elif record.kind in ("exec", "notify"):
            self.on_news(record)


@contextlib.asynccontextmanager
async def started(program: Path, folder: Path) -> AsyncIterator[Gdb]:
    """A GDB for the block, in `folder`; its complaints go to a file there. It is killed at the end, and when we die."""
    loop = asyncio.get_running_loop()
    # -nx: the user's own settings would change what it answers.
    argv = [str(program), "-nx", "-q", "--interpreter=mi3"]
    with (folder / "gdb.stderr").open("ab") as stderr:
        child = process.spawn(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr.fileno(),
            cwd=folder,
            env={"LC_ALL": "C.UTF-8", "DEBUGINFOD_URLS": ""},
        )
    with owned.group(child.pid), contextlib.ExitStack() as stack:
        stack.callback(process.end_group, child)
        stdout = asyncio.StreamReader(limit=_LINE_MAX)
        reading, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stdout), child.stdout)
        stdin, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, child.stdin)
        stack.callback(reading.close)
        stack.callback(stdin.close)
        gdb = Gdb(child, stdin)
        reader = asyncio.create_task(gdb.read(stdout))
        try:
            yield gdb
        finally:
            process.end_group(child)
            await asyncio.wait({reader}, timeout=5)
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
