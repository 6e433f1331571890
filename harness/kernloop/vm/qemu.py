# SPDX-License-Identifier: Apache-2.0
"""QEMU's process, with the pipes and sockets to it: owned by one context manager and gone when that ends."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path

from kernloop.host import owned, process
from kernloop.vm import wire
from kernloop.vm.argv import Channels
from kernloop.vm.machine import Machine

__all__ = ["KGDB", "start"]

# The debugger's serial port, a socket in the run directory.
KGDB = "kgdb"

# What the guest may be ahead of us. When a channel is full QEMU tries again later, at a time of the host's choosing: in
# virtual time that would let the host's load into the guest. A pipe holds this many bytes; a socket, which charges
# every byte of a serial port as a message of its own, is full after a few hundred.
_AHEAD = 1 << 20


@contextlib.asynccontextmanager
async def start(
    make_argv: Callable[[Channels], list[str]],
    folder: Path,
    on_console: Callable[[str], None],
    *,
    env: Mapping[str, str] | None = None,
    inherit: Sequence[int] = (),
    kgdb: bool = False,
) -> AsyncIterator[Machine]:
    """Start the QEMU of `make_argv`; its console goes to `folder`/console.log as it comes, its argv to `folder`/argv.

    The argv may name descriptors in `inherit` beside the channels'. With `kgdb` it listens in `folder`/kgdb for a
    debugger. QEMU dies with the block. Raises HarnessError when it cannot be started.
    """
    async with contextlib.AsyncExitStack() as stack:
        qmp, their_qmp = (stack.enter_context(end) for end in socket.socketpair())
        qmp.setblocking(False)
        console, agent = _Pipes(), _Pipes()
        port = stack.enter_context(_listening(folder / KGDB)) if kgdb else None
        channels = Channels(
            (console.guest_out, console.guest_in),
            (agent.guest_out, agent.guest_in),
            their_qmp.fileno(),
            folder / "console.log",
            port.fileno() if port else None,
        )
        argv = make_argv(channels)
        (folder / "argv").write_text("\n".join(argv) + "\n")
        stderr_path = folder / "qemu.stderr"
        with stderr_path.open("wb") as stderr:
            started = process.spawn(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr.fileno(),
                pass_fds=[
                    *channels.console,
                    *channels.agent,
                    channels.qmp,
                    *([port.fileno()] if port else []),
                    *inherit,
                ],
                env=env,
            )
        stack.callback(process.end_group, started)
        stack.enter_context(owned.group(started.pid))
        their_qmp.close()
        if port:
            port.close()
        for pipes in (console, agent):
            pipes.close_theirs()
        from_console, to_console = await console.streams()
        from_agent, to_agent = await agent.streams()
        stack.callback(to_console.close)
        stack.callback(to_agent.close)
        machine = Machine(started, from_agent, to_agent, to_console, stderr_path)
        readers = [
            asyncio.create_task(machine.read_console(from_console, on_console)),
            asyncio.create_task(machine.read_agent()),
        ]
        for reader in readers:
            reader.add_done_callback(machine.watch_reader)
        events = asyncio.create_task(machine.read_events())
        end = asyncio.create_task(machine.watch_qemu(readers))
        try:
            await machine.connect_qmp(qmp)
            yield machine
        finally:
            process.end_group(started)
            await machine.disconnect_qmp()
            events.cancel()
            await asyncio.gather(end, *readers, return_exceptions=True)


# GDB takes the name of a socket only, so this one has a name, for this user alone and while the machine lives.
@contextlib.contextmanager
def _listening(path: Path) -> Iterator[socket.socket]:
    with owned.folder(path):
        try:
            with wire.bind(path.parent, path.name) as listener:
                yield listener
        finally:
            path.unlink(missing_ok=True)


# A pipe from QEMU to us and one back. QEMU opens its ends anew by /dev/fd, so ours see the end when QEMU goes.
class _Pipes:
    def __init__(self) -> None:
        self.from_guest, self.guest_out = os.pipe2(os.O_CLOEXEC)
        self.guest_in, self.to_guest = os.pipe2(os.O_CLOEXEC)
        for end in (self.guest_out, self.guest_in):
            fcntl.fcntl(end, fcntl.F_SETPIPE_SZ, _AHEAD)

    def close_theirs(self) -> None:
        os.close(self.guest_out)
        os.close(self.guest_in)

    async def streams(self) -> tuple[asyncio.StreamReader, asyncio.WriteTransport]:
        """Our ends; closing them is the event loop's from here on."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=_AHEAD)
        await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(self.from_guest, "rb", buffering=0)
        )
        writer, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, os.fdopen(self.to_guest, "wb", buffering=0))
        return reader, writer
