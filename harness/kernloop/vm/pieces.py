# SPDX-License-Identifier: Apache-2.0
"""A console or a command's output, read piece by piece while it grows."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kernloop import runs
from kernloop.errors import UsageError

__all__ = ["ConsolePiece", "compiled", "piece", "read_console", "search"]


@dataclass(frozen=True)
class ConsolePiece:
    """Bytes of a console from `start` on; go on at `cursor`. `more` when there is more already."""

    data: bytes
    start: int
    cursor: int
    more: bool

    @property
    def text(self) -> str:
        return self.data.decode(errors="replace")


def read_console(run: Path, *, since: int = 0, limit: int = 16384, grep: str = "") -> ConsolePiece:
    """A piece of the console of the run at `run`, which may be over; see VM.console."""
    found = piece(run / "console.log", since, limit if not grep else sys.maxsize)
    if not grep:
        return found
    wanted = compiled(grep)
    lines = found.data.splitlines(keepends=True)
    if lines and not lines[-1].endswith(b"\n") and runs.is_live(run):
        lines.pop()  # its rest is still to come
    kept = bytearray()
    at = found.start
    for text in lines:
        if wanted.search(text.rstrip(b"\r\n")):
            if kept and len(kept) + len(text) > limit:
                return ConsolePiece(bytes(kept), found.start, at, True)
            kept += text[:limit]
        at += len(text)
    return ConsolePiece(bytes(kept), found.start, at, False)


def compiled(pattern: str) -> re.Pattern[bytes]:
    """Raises UsageError when `pattern` is no regular expression."""
    try:
        return re.compile(pattern.encode())
    except re.error as error:
        raise UsageError(
            f"{pattern!r} is no regular expression: {error}", hint="escape ( [ * with a backslash"
        ) from None


def piece(file: Path, since: int, limit: int) -> ConsolePiece:
    """`limit` bytes of `file` from byte `since` on (negative: from the end). Raises UsageError without a file."""
    try:
        with file.open("rb") as source:
            size = source.seek(0, os.SEEK_END)
            begin = max(size + since, 0) if since < 0 else min(since, size)
            source.seek(begin)
            data = source.read(max(0, min(limit, size - begin)))
    except FileNotFoundError:
        raise UsageError(f"there is no {file}", hint="kernloop vm list") from None
    return ConsolePiece(data, begin, begin + len(data), begin + len(data) < size)


def search(log: Path, wanted: re.Pattern[bytes], since: int) -> dict[str, Any]:
    """The first line of `log` after byte `since` that fits; `cursor` is behind it, or behind the last whole line."""
    with log.open("rb") as file:
        at = min(max(since, 0), log.stat().st_size)
        file.seek(at)
        for text in file:
            whole = text.endswith(b"\n")
            if wanted.search(text.rstrip(b"\r\n")):
                return {"matched": True, "line": text.decode(errors="replace").rstrip(), "cursor": at + len(text)}
            if not whole:
                break
            at += len(text)
    return {"matched": False, "line": "", "cursor": at}
