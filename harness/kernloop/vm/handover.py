# SPDX-License-Identifier: Apache-2.0
"""What a guest is handed by fw_cfg at its start: files, a job, entropy; guest/handover.c takes it."""

from __future__ import annotations

import hashlib
import os
import struct
import zlib

__all__ = ["blob"]

_HEADER = struct.Struct("<8sQII64s")
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
