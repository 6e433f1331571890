# SPDX-License-Identifier: Apache-2.0
"""A long output read piece by piece: whole lines from a cursor on, which is a byte of its file."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from kernloop.errors import UsageError

__all__ = ["LIMIT", "Page", "read"]

# About 1,500 tokens.
LIMIT = 6000


@dataclass(frozen=True)
class Page:
    """`text` ends before byte `cursor` of a file of `size` bytes."""

    text: str
    cursor: int
    size: int

    @property
    def more(self) -> bool:
        return self.cursor < self.size


def read(path: Path, *, since: int = 0, limit: int = LIMIT, grep: str = "") -> Page:
    """At most `limit` bytes, or one line where that is longer; `grep` keeps lines that fit. Raises UsageError."""
    try:
        wanted = re.compile(grep.encode())
    except re.error as error:
        raise UsageError(f"{grep!r} is no regular expression: {error}", hint="escape ( [ * with a backslash") from None
    kept = bytearray()
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            at = file.seek(min(since, size))
            while line := file.readline():
                if wanted.search(line.rstrip(b"\n")):
                    if kept and len(kept) + len(line) > limit:
                        break
                    kept += line
                at += len(line)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", hint="name a file that debug told") from None
    return Page(kept.decode(errors="replace"), at, size)
