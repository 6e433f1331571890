# SPDX-License-Identifier: Apache-2.0
"""kdb, the kernel's own shell, on the serial port of KGDB: the way in before GDB comes, and out again when it has gone.

kdb and GDB's stub take turns at the port: `$3#33` goes from the stub to kdb (gdb_serial_stub() in
kernel/debug/gdbstub.c), `kgdb` back. GDB's first packet does so as well (kdb_read() in kernel/debug/kdb/kdb_io.c), but
not in kdb's pager, which swallows a part of it and gives GDB the rest as an answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path

from kernloop.errors import HarnessError, UsageError

__all__ = ["Port", "checked", "opened"]

# As kdb asks for a command: KDB_DEFAULT_PROMPT, or that of a kernel for one CPU.
_PROMPT = re.compile(rb"kdb> $")
_MORE = re.compile(rb"more> $")
# A stub that a GDB had come to tells that one where it stands.
_STOPPED = re.compile(rb"\$T[0-9a-f]{2}thread:")
# Of kdb_main_loop() in kernel/debug/kdb/kdb_main.c.
_GDBS_TURN = re.compile(rb"or use \$D#44\+ or \$3#33\r?\n")
_TO_KDB, _DETACH, _DETACHED = b"+$3#33", b"+$D#44", b"$OK#9a"
# The pager has a page less to print; at the prompt it is a command that does not exist.
_OUT_OF_THE_PAGER = b"q\r"
_NO_PAGER = "set LINES=100000"
# kdb answers in milliseconds, on a busy machine in a second. Twice `$3#33`: the first may end another's broken packet.
_PROMPT_SECONDS, _TRIES = 2.0, 2
_CONNECT_SECONDS = 10.0
_PIECE = 1 << 16
# CMD_BUFLEN of kernel/debug/kdb/kdb_private.h, with the line's end.
_LONGEST = 198
_GDBS = ("$?#3f", "$qSupported")


class Port:
    """The port, while nobody else is at it; made by `opened`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def entered(self) -> bool:
        """Wait until the kernel is in the debugger: True for kdb's prompt, False for GDB's stub."""
        said = await self._until(_PROMPT, _STOPPED)
        return not _STOPPED.search(said)

    async def prompt(self, *, stub: bool = False) -> bool:
        """Bring kdb to its prompt, out of its pager or out of GDB's `stub`; whether it is there."""
        tries = (_TO_KDB, _OUT_OF_THE_PAGER) if stub else (_OUT_OF_THE_PAGER, _TO_KDB)
        for send in tries * _TRIES:
            self._writer.write(send)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PROMPT_SECONDS):
                    # An oops' registers come again when the stub has left.
                    while _MORE.search(await self._until(_PROMPT, _MORE)):
                        self._writer.write(_OUT_OF_THE_PAGER[:1])
                    await self.ask(_NO_PAGER)
                    return True
        return False

    async def step_back(self) -> None:
        """In the stub: where a breakpoint of a GDB that is gone has stopped the kernel, it goes on with the instruction
        that the breakpoint stands for. GDB would have seen to that; who goes on behind the int3 executes what is left
        of that instruction. A GDB that knew of the stop has taken its breakpoints out.
        """
        with contextlib.suppress(TimeoutError):
            at = int.from_bytes(bytes.fromhex(await self._told("p10", rb"[0-9a-f]{16}")), "little") - 1
            # OK only where there is one: dbg_remove_sw_break() in kernel/debug/debug_core.c.
            if await self._told(f"z0,{at:x},1", rb"OK|E[0-9a-f]{2}") == "OK":
                await self._told(f"P10={at.to_bytes(8, 'little').hex()}", rb"OK|E[0-9a-f]{2}")

    # What the stub answers to a packet; it may wait for an acknowledgment, or for the end of another's packet.
    async def _told(self, packet: str, answer: bytes) -> str:
        whole = f"+${packet}#{sum(packet.encode()) & 0xFF:02x}".encode()
        for left in reversed(range(_TRIES)):
            self._writer.write(whole)
            try:
                async with asyncio.timeout(_PROMPT_SECONDS):
                    said = await self._until(re.compile(rb"\$(?:" + answer + rb")#[0-9a-f]{2}"))
                    return said.rpartition(b"$")[2].partition(b"#")[0].decode()
            except TimeoutError:
                if not left:
                    raise
        raise AssertionError

    async def ask(self, command: str) -> str:
        """What kdb prints for `command`, until its next prompt: never, when it lets the kernel go."""
        self._writer.write(command.encode() + b"\r")
        # Behind its echo: an earlier command's prompt may still be on its way.
        answer = re.compile(re.escape(command.encode()) + rb"\r?\n(.*)" + _PROMPT.pattern, re.DOTALL)
        said = (await self._until(answer)).decode(errors="replace").replace("\r\n", "\n")
        return said.partition(command + "\n")[2].rpartition("\n")[0].strip("\n")

    async def hand_over(self) -> None:
        """From kdb's prompt to the stub: GDB may come. It is asked once only, so there is more time than for a try."""
        self._writer.write(b"kgdb\r")
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                await self._until(_GDBS_TURN)
        except TimeoutError:
            raise HarnessError("kdb does not let GDB in", hint="kernloop debug kgdb VM enter, once more") from None

    async def detach(self) -> bool:
        """Out of the stub of a kernel without kdb; whether it goes on."""
        self._writer.write(_DETACH)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PROMPT_SECONDS):
                await self._until(re.compile(re.escape(_DETACHED)))
                self._writer.write(b"+")
                return True
        return False

    # What comes until its end is one of `wanted`.
    async def _until(self, *wanted: re.Pattern[bytes]) -> bytes:
        said = b""
        while not any(one.search(said) for one in wanted):
            piece = await self._reader.read(_PIECE)
            if not piece:
                raise HarnessError("the serial port of KGDB is closed", hint="has the guest ended? kernloop vm list")
            said += piece
        return said


@contextlib.asynccontextmanager
async def opened(folder: Path, name: str) -> AsyncIterator[Port]:
    """The port's socket `name` in `folder`. Raises HarnessError when somebody else is at it."""
    # A socket's name has 107 bytes at most (unix(7)): it is reached by our descriptor of its folder.
    end = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        async with asyncio.timeout(_CONNECT_SECONDS):
            reader, writer = await asyncio.open_unix_connection(f"/proc/self/fd/{end}/{name}")
    except (OSError, TimeoutError) as error:
        raise HarnessError(f"the serial port of KGDB: {error}", hint="has the guest ended? kernloop vm list") from None
    finally:
        os.close(end)
    try:
        yield Port(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def checked(command: str) -> str:
    """`command`, if kdb reads it as one line. Raises UsageError."""
    if not command.isprintable() or not command.isascii() or not command.strip() or len(command) > _LONGEST:
        raise UsageError("kdb takes one line of up to 198 printable characters", hint="kernloop debug kgdb VM kdb help")
    if any(word in command for word in _GDBS):
        raise UsageError(f"{command} is GDB's: kdb would leave the port to it", hint="kernloop debug kgdb VM enter")
    return command
