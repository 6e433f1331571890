# SPDX-License-Identifier: Apache-2.0
"""QEMU's gdbstub: opened when a debugger wants it and closed when that is gone. No VM pays for it, none is lost by it.

A debugger that is killed leaves its breakpoints in QEMU, which would stop the guest at the next of them for ever
(gdb_chr_event() in QEMU's gdbstub/system.c looks at new connections only). So whoever closes the stub first detaches in
its place: that takes them out, and lets the guest go on (handle_detach() in gdbstub/gdbstub.c).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

from kernloop.errors import HarnessError, UsageError
from kernloop.vm.session import Session

__all__ = ["NAME", "opened"]

# The socket, in the run directory.
NAME = "gdbstub"
# By the process's number, which a debugger before us may have made QEMU want: CPUs are threads of process 1.
_DETACH, _OK = b"$D;1#b0", b"$OK#9a"
_DETACH_SECONDS = 15.0


@contextlib.asynccontextmanager
async def opened(session: Session, *, dead: bool) -> AsyncIterator[None]:
    """The stub listens on NAME in the run directory, for this user. A guest that is `dead` does not go on afterwards.

    Raises UsageError when it is open already, HarnessError when QEMU does not open it.
    """
    machine, folder = session.machine, session.run.path
    if session.debugged:
        raise UsageError("a debugger is at this VM already", hint="one at a time: detach it")
    # A unix socket's path holds 107 bytes; QEMU reaches the folder by our descriptor of it.
    end = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    path = f"/proc/{os.getpid()}/fd/{end}/{NAME}"
    try:
        session.debug(True)
        said = await machine.qmp("human-monitor-command", {"command-line": f"gdbserver unix:{path},server=on,wait=off"})
        if not Path(path).is_socket():
            raise HarnessError(f"QEMU does not open its gdbstub: {str(said).strip()}", hint="is /proc mounted?")
        Path(path).chmod(0o600)
        session.run.note("gdbstub-opened")
        try:
            yield
        finally:
            if not machine.ended.done():
                if not dead and not machine.panicked.is_set():
                    await _detach(path)
                await machine.qmp("human-monitor-command", {"command-line": "gdbserver none"})
                if not dead and not machine.panicked.is_set():
                    await machine.qmp("cont")
                session.run.note("gdbstub-closed")
    finally:
        with contextlib.suppress(FileNotFoundError):
            Path(path).unlink()
        os.close(end)
        session.debug(False)


# What a debugger says that goes. QEMU takes us for the next one, for the last is gone.
async def _detach(path: str) -> None:
    with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
        async with asyncio.timeout(_DETACH_SECONDS):
            reader, writer = await asyncio.open_unix_connection(path)
            try:
                writer.write(_DETACH)
                await reader.readuntil(_OK)
            finally:
                writer.close()
