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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kernloop.errors import HarnessError, UsageError

__all__ = ["LINE_MAX", "SOCKET", "Connection", "bind", "connect", "failure", "line", "pack", "raised", "unpack"]

SOCKET = "socket"
LINE_MAX = 4 << 20
_CONNECT_SECONDS = 5.0


def line(message: dict[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"


def pack(data: bytes) -> str:
    return base64.b64encode(data).decode()


def unpack(text: str) -> bytes:
    return base64.b64decode(text)


def failure(error: HarnessError) -> dict[str, Any]:
    """`error` as it travels."""
    kind = "usage" if isinstance(error, UsageError) else "harness"
    evidence = str(error.evidence) if error.evidence else None
    return {"error": {"kind": kind, "message": error.message, "hint": error.hint, "evidence": evidence}}


def raised(error: dict[str, Any]) -> HarnessError:
    """`error` as it was before it travelled."""
    kind = UsageError if error["kind"] == "usage" else HarnessError
    evidence = Path(error["evidence"]) if error["evidence"] else None
    return kind(error["message"], hint=error["hint"], evidence=evidence)


def bind(folder: Path) -> socket.socket:
    """Listen in `folder`, for this user only."""
    listener = socket.socket(socket.AF_UNIX)
    old = os.umask(0o177)
    try:
        with _short(folder) as path:
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

    def messages(self, seconds: float | None) -> Iterator[dict[str, Any]]:
        """What the supervisor answers. Raises HarnessError when it says nothing for `seconds`, or is gone."""
        self.socket.settimeout(seconds)
        while True:
            try:
                text = self._file.readline(LINE_MAX)
            except TimeoutError:
                raise HarnessError(
                    f"the VM's supervisor has not answered for {seconds:g} s", hint="kernloop vm list shows its state"
                ) from None
            except OSError:
                text = b""
            if not text.endswith(b"\n"):
                raise _gone()
            yield json.loads(text)


def _gone() -> HarnessError:
    return HarnessError(
        "the VM's supervisor has gone, or given up on this request",
        hint="kernloop vm list; else kernloop runs list says how its run ended",
    )


# A unix socket's path holds 107 bytes (unix(7)); run directories may be deeper.
@contextlib.contextmanager
def _short(folder: Path) -> Iterator[str]:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{SOCKET}"
    finally:
        os.close(fd)
