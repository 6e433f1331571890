# SPDX-License-Identifier: Apache-2.0
"""A guest's memory as its QEMU has it: regions, and what the kernel left in it for whoever reads it from outside."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Ram", "note_in", "regions"]

_REGION = re.compile(r"^\s*([0-9a-f]{16})-([0-9a-f]{16}) \(prio -?\d+, (?:nv-)?ram\)", re.MULTILINE)
# The note's name, padded; its length and the text's stand 12 bytes in front (elf(5)).
_NOTE = b"VMCOREINFO\0\0"
_NOTE_HEAD = 12
_MOST_NOTE = 1 << 16


@dataclass(frozen=True)
class Ram:
    """`size` bytes of guest memory at physical address `start`, which QEMU has at `host`."""

    start: int
    size: int
    host: int


def regions(mtree: str) -> Iterator[tuple[int, int]]:
    """Start and size of each region of memory in the text of QEMU's `info mtree -f`, as the CPUs see it."""
    for view in mtree.split("FlatView #")[1:]:
        if ' AS "memory"' not in view:
            continue
        for begin, end in _REGION.findall(view):
            yield int(begin, 16), int(end, 16) - int(begin, 16) + 1
        return


def note_in(data: bytes) -> bytes:
    """The text of the VMCOREINFO note somewhere in `data`, b"" without one (kernel/vmcore_info.c)."""
    at = data.find(_NOTE)
    while at >= 0:
        size = int.from_bytes(data[max(at - _NOTE_HEAD + 4, 0) : max(at - _NOTE_HEAD + 8, 0)], "little")
        text = data[at + len(_NOTE) : at + len(_NOTE) + size]
        if size <= _MOST_NOTE and text.startswith(b"OSRELEASE="):
            return text
        at = data.find(_NOTE, at + 1)
    return b""
