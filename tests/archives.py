# SPDX-License-Identifier: Apache-2.0
"""Read cpio archives back, by a parser written from the format's document alone."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Member:
    name: str
    mode: int
    inode: int
    owner: tuple[int, int]
    mtime: int
    rdev: tuple[int, int]
    data: bytes


def members(data: bytes) -> list[Member]:
    """Documentation/driver-api/early-userspace/buffer-format.rst: 13 fields of 8 hex digits after the magic."""
    found: list[Member] = []
    at = 0
    while True:
        assert data[at : at + 6] == b"070701"
        fields = [int(data[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        inode, mode, uid, gid, _links, mtime, size, _, _, major, minor, name_size, _check = fields
        name_end = at + 110 + name_size
        assert data[name_end - 1] == 0
        name = data[at + 110 : name_end - 1].decode()
        body = name_end + -name_end % 4
        if name == "TRAILER!!!":
            assert set(data[body:]) <= {0}
            return found
        found.append(Member(name, mode, inode, (uid, gid), mtime, (major, minor), data[body : body + size]))
        at = body + size + -size % 4
