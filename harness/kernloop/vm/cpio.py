# SPDX-License-Identifier: Apache-2.0
"""Write initramfs archives: cpio "newc", as Documentation/driver-api/early-userspace/buffer-format.rst defines it.

Owners, times and inode numbers are fixed, so equal contents give equal bytes: the archive's digest names it in caches
and in verdicts.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

__all__ = ["Entry", "archive", "device", "directory", "regular", "symlink"]


@dataclass(frozen=True)
class Entry:
    """One member of the archive; `path` has no leading slash, `mode` carries the file type bits."""

    path: str
    mode: int
    data: bytes = b""
    rdev: tuple[int, int] = (0, 0)


def regular(path: str, data: bytes, mode: int = 0o644) -> Entry:
    return Entry(path, stat.S_IFREG | mode, data)


def directory(path: str, mode: int = 0o755) -> Entry:
    return Entry(path, stat.S_IFDIR | mode)


def symlink(path: str, target: str) -> Entry:
    return Entry(path, stat.S_IFLNK | 0o777, target.encode())


def device(path: str, major: int, minor: int, mode: int = 0o600) -> Entry:
    """A character device node."""
    return Entry(path, stat.S_IFCHR | mode, rdev=(major, minor))


def archive(entries: Iterable[Entry]) -> bytes:
    """The archive of `entries` in path order, with the parent folders nobody named added, padded to 512 bytes."""
    by_path: dict[str, Entry] = {}
    for entry in entries:
        path = entry.path.strip("/")
        for parent in PurePosixPath(path).parents:
            if str(parent) != ".":
                by_path.setdefault(str(parent), directory(str(parent)))
        by_path[path] = Entry(path, entry.mode, entry.data, entry.rdev)
    out = bytearray()
    for inode, path in enumerate(sorted(by_path), start=1):
        out += _member(by_path[path], inode)
    out += _member(Entry("TRAILER!!!", 0), 0)
    out += b"\0" * (-len(out) % 512)
    return bytes(out)


def _member(entry: Entry, inode: int) -> bytes:
    name = entry.path.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    fields = (inode, entry.mode, 0, 0, links, 0, len(entry.data), 0, 0, *entry.rdev, len(name), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields)
    head = header + name
    return head + b"\0" * (-len(head) % 4) + entry.data + b"\0" * (-len(entry.data) % 4)
