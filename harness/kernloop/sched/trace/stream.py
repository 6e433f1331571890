# SPDX-License-Identifier: Apache-2.0
"""What scxtrace.c wrote: texts that explain the data, and the pages of each CPU's ring buffer.

Pages stay in the file, known by their place: a recording may be larger than what one wants in memory.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

__all__ = ["Stream", "index"]

_FRAME = struct.Struct("<cBHI")


@dataclass(frozen=True)
class Stream:
    """`texts` by name in their order, `pages` of each CPU as (offset, length); `whole` when nothing was cut off."""

    path: Path
    texts: tuple[tuple[str, str], ...]
    pages: dict[int, tuple[tuple[int, int], ...]]
    whole: bool

    def text(self, name: str) -> str:
        """The last text of that name, "" for none."""
        return next((text for found, text in reversed(self.texts) if found == name), "")

    def all(self, name: str) -> list[str]:
        return [text for found, text in self.texts if found == name]

    def open_pages(self, cpu: int) -> Iterator[bytes]:
        """The pages of `cpu`, in their order."""
        with self.path.open("rb") as file:
            for offset, length in self.pages.get(cpu, ()):
                file.seek(offset)
                yield file.read(length)


def index(path: Path) -> Stream:
    """The frames of the file at `path`. One that is cut off, as when its guest died, is left out."""
    texts: list[tuple[str, str]] = []
    pages: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
    size = path.stat().st_size
    at = 0
    with path.open("rb") as file:
        while (frame := _frame(file, at, size)) is not None:
            kind, cpu, length = frame
            at += _FRAME.size
            if kind == b"P":
                pages[cpu].append((at, length))
            else:
                name, _, text = file.read(length).partition(b"\0")
                texts.append((name.decode(errors="replace"), text.decode(errors="replace")))
            at += length
    found = {cpu: tuple(of_cpu) for cpu, of_cpu in sorted(pages.items())}
    return Stream(path, tuple(texts), found, at == size and any(name == "why" for name, _ in texts))


def _frame(file: BinaryIO, at: int, size: int) -> tuple[bytes, int, int] | None:
    file.seek(at)
    head = file.read(_FRAME.size)
    if len(head) < _FRAME.size:
        return None
    kind, zero, cpu, length = _FRAME.unpack(head)
    if kind not in (b"P", b"T") or zero or at + _FRAME.size + length > size:
        return None
    return kind, cpu, length
