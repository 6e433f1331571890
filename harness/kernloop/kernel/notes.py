# SPDX-License-Identifier: Apache-2.0
"""ELF notes: the build-id that names a kernel, and what says how it can be started."""

from __future__ import annotations

import struct

__all__ = ["build_id_of_notes", "note"]

_NT_GNU_BUILD_ID = 3


def build_id_of_notes(notes: bytes) -> str:
    """The GNU build-id in an ELF note section, hex; "" without one. /sys/kernel/notes has the same bytes."""
    return (note(notes, b"GNU\0", _NT_GNU_BUILD_ID) or b"").hex()


def note(notes: bytes, owner: bytes, wanted: int) -> bytes | None:
    """The body of `owner`'s first note of the kind `wanted`."""
    at = 0
    while at + 12 <= len(notes):
        name_size, size, kind = struct.unpack_from("<III", notes, at)
        name = notes[at + 12 : at + 12 + name_size]
        body = at + 12 + (name_size + 3 & ~3)
        if kind == wanted and name == owner:
            return notes[body : body + size]
        at = body + (size + 3 & ~3)
    return None
