# SPDX-License-Identifier: Apache-2.0
"""What a guest is handed by fw_cfg at its start: files, a job, entropy; guest/handover.c takes it."""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace

from kernloop.vm import cpio

__all__ = ["blob", "changed"]

_HEADER = struct.Struct("<8sQII64s")
_MEMBER = 110
# Up to so much later a seeded job begins: a few ticks, so that it meets them in another phase.
_DELAY_US = 16_000


def blob(archive: bytes, *, seed: int | None) -> bytes:
    """The payload with `archive` (cpio, may be empty) to unpack at /.

    Without `seed` the entropy is the host's own. With one it is the seed's, and so is a delay of some milliseconds:
    another seed is another interleaving, and the same seed the same again.
    """
    if seed is None:
        entropy, delay = os.urandom(64), 0
    else:
        digest = hashlib.sha512(b"kernloop seed %d" % seed).digest()
        entropy, delay = digest, int.from_bytes(digest[:4], "little") % _DELAY_US
    return _HEADER.pack(b"KLOOP001", len(archive), zlib.adler32(archive), delay, entropy) + archive


def changed(handed: bytes, path: str, change: Callable[[bytes], bytes]) -> bytes:
    """What `blob` made of one of cpio.archive's, with the file at `path` changed, the same entropy and delay.

    Raises ValueError when there is no such file.
    """
    magic, length, _, delay, entropy = _HEADER.unpack_from(handed)
    entries = _entries(handed[_HEADER.size : _HEADER.size + length])
    if path not in {entry.path for entry in entries}:
        raise ValueError(f"no {path} in the archive")
    archive = cpio.archive(
        replace(entry, data=change(entry.data)) if entry.path == path else entry for entry in entries
    )
    return _HEADER.pack(magic, len(archive), zlib.adler32(archive), delay, entropy) + archive


# cpio "newc": a header of 13 hexadecimal fields behind the magic, the name and the data padded to 4 bytes each.
def _entries(data: bytes) -> list[cpio.Entry]:
    found: list[cpio.Entry] = []
    at = 0
    while data[at : at + 6] == b"070701":
        field = [int(data[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        mode, size, named = field[1], field[6], field[11]
        begin = at + _MEMBER + named + -(_MEMBER + named) % 4
        path = data[at + _MEMBER : at + _MEMBER + named - 1].decode()
        if path == "TRAILER!!!":
            return found
        found.append(cpio.Entry(path, mode, data[begin : begin + size], (field[9], field[10])))
        at = begin + size + -size % 4
    raise ValueError("no archive of ours")
