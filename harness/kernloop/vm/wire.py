# SPDX-License-Identifier: Apache-2.0
"""How a VM's supervisor and its clients talk: JSON objects, one a line, over a unix socket in the run directory.

A connection is one request and its answers: `{"op": ...}` first, then from the supervisor any number of objects with
`out` or `err` (base64), at last one with `result` or `error`. The client of an exec may send `in` (base64) and `eof`.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from kernloop.errors import HarnessError, SubjectError, UsageError

__all__ = [
    "LINE_MAX",
    "SOCKET",
    "Connection",
    "Gone",
    "Unreachable",
    "bind",
    "connect",
    "failure",
    "line",
    "pack",
    "raised",
    "send_with_file",
    "unpack",
]

SOCKET = "socket"
LINE_MAX = 4 << 20
_CONNECT_SECONDS = 5.0
_KINDS: dict[str, type[HarnessError]] = {"usage": UsageError, "subject": SubjectError}


def line(message: dict[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"


def pack(data: bytes) -> str:
    return base64.b64encode(data).decode()


def unpack(text: str) -> bytes:
    return base64.b64decode(text)


def send_with_file(end: int, message: dict[str, Any], file: int) -> None:
    """Send `message` and the descriptor `file` by the socket `end`, which nothing was sent by before.

    Raises OSError when the other side is gone.
    """
    with socket.socket(fileno=os.dup(end)) as ours:
        # A line is far smaller than what a socket takes at once.
        socket.send_fds(ours, [line(message)], [file])


def failure(error: HarnessError) -> dict[str, Any]:
    """`error` as it travels."""
    kind = next((name for name, one in _KINDS.items() if isinstance(error, one)), "harness")
    evidence = str(error.evidence) if error.evidence else None
    return {"error": {"kind": kind, "message": error.message, "hint": error.hint, "evidence": evidence}}


def raised(error: dict[str, Any]) -> HarnessError:
    """`error` as it was before it travelled."""
    kind = _KINDS.get(error["kind"], HarnessError)
    evidence = Path(error["evidence"]) if error["evidence"] else None
    return kind(error["message"], hint=error["hint"], evidence=evidence)


def bind(folder: Path, name: str = SOCKET) -> socket.socket:
    """Listen by `name` in `folder`, for this user only."""
    listener = socket.socket(socket.AF_UNIX)
    old = os.umask(0o177)
    try:
        with _short(folder, name) as path:
            listener.bind(f"{path}.new")
            listener.listen(64)
            # Whoever sees it can connect.
            Path(f"{path}.new").rename(path)
    except BaseException:
        listener.close()
        raise
    finally:
        os.umask(old)
    return listener


def connect(folder: Path) -> Connection:
    """Reach the supervisor in `folder`. Raises OSError when nobody listens."""
    end = socket.socket(socket.AF_UNIX)
    end.settimeout(_CONNECT_SECONDS)
    try:
        with _short(folder) as path:
            end.connect(path)
    except BaseException:
        end.close()
        raise
    return Connection(end)


class Unreachable(HarnessError):
    """The other side is gone, or silent."""


class Gone(Unreachable):
    """Its process has closed the connection: it ends, or gave up on this request."""


class Connection:
    """A client's end. Use it as a context manager: the supervisor notices when it closes."""

    def __init__(self, end: socket.socket) -> None:
        self.socket = end
        self._file = end.makefile("rb")

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self.socket.close()

    def send(self, message: dict[str, Any]) -> None:
        """Raises HarnessError when the supervisor has gone since it was reached."""
        try:
            self.socket.sendall(line(message))
        except OSError:
            raise _gone() from None

    def hang_up(self) -> None:
        """Let the supervisor, and whoever reads from it in another thread, see the end of the connection."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)

    def finish(self, seconds: float) -> None:
        """Wait until the supervisor has done what it does at the end of the connection, for `seconds` at most."""
        self.socket.settimeout(seconds)
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)
            self.socket.recv(1)

    def message_with_file(self, seconds: float) -> tuple[dict[str, Any], int | None]:
        """The first thing that the supervisor says, and the descriptor that comes with it. Raises HarnessError."""
        self.socket.settimeout(seconds)
        data = b""
        files: list[int] = []
        while not data.endswith(b"\n"):
            try:
                piece, sent, _, _ = socket.recv_fds(self.socket, LINE_MAX, 1)
            except TimeoutError:
                _close(files)
                raise _silent(seconds) from None
            except OSError:
                piece, sent = b"", []
            files += sent
            if not piece:
                _close(files)
                raise _gone()
            data += piece
        return json.loads(data), files[0] if files else None

    def messages(self, seconds: float | None) -> Iterator[dict[str, Any]]:
        """What the supervisor answers. Raises HarnessError when it says nothing for `seconds`, or is gone."""
        self.socket.settimeout(seconds)
        while True:
            try:
                text = self._file.readline(LINE_MAX)
            except TimeoutError:
                raise _silent(seconds or 0) from None
            except OSError:
                text = b""
            if not text.endswith(b"\n"):
                raise _gone()
            yield json.loads(text)


def _close(files: Iterable[int]) -> None:
    for file in files:
        os.close(file)


def _silent(seconds: float) -> Unreachable:
    return Unreachable(
        f"the VM's supervisor has not answered for {seconds:g} s", hint="kernloop vm list shows its state"
    )


def _gone() -> Gone:
    return Gone(
        "the VM's supervisor has gone, or given up on this request",
        hint="kernloop vm list; else kernloop runs list says how its run ended",
    )


# A unix socket's path holds 107 bytes (unix(7)); run directories may be deeper.
@contextlib.contextmanager
def _short(folder: Path, name: str = SOCKET) -> Iterator[str]:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{name}"
    finally:
        os.close(fd)
