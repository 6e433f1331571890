# SPDX-License-Identifier: Apache-2.0
"""The frames that host and guest agent exchange over virtio-serial; guest/init.c is the other end and has the table."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from kernloop.errors import UsageError

__all__ = ["STDIN_WINDOW", "Decoder", "Frame", "Kind", "encode", "run_request", "with_option"]

# So many bytes of a command's stdin may be on their way, sent and not yet TAKEN: WINDOW of guest/init.c.
STDIN_WINDOW = 1 << 18

_HEADER = struct.Struct("<cxHI")
# guest/init.c takes no more: FRAME_MAX, and WORDS_MAX for the arguments and the environment.
_MAX = 1 << 20
_MAX_ARGUMENTS = 4000


class Kind(StrEnum):
    HELLO = "H"
    NOTES = "N"
    STDOUT = "O"
    STDERR = "E"
    EXIT = "X"
    PRINTED = "M"
    FAILED = "F"
    TAKEN = "T"
    READY = "Z"
    RUN = "R"
    STDIN = "I"
    KILL = "K"
    SHUTDOWN = "S"
    HOLD = "P"
    REST = "Q"
    RESTORED = "C"
    LIFE = "L"
    DRAIN = "D"


@dataclass(frozen=True)
class Frame:
    kind: Kind
    job: int
    data: bytes


class Decoder:
    """Bytes in, whole frames out."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that `data` completes. Raises ValueError on bytes that no agent of ours sends."""
        self._buffer += data
        while len(self._buffer) >= _HEADER.size:
            kind, job, length = _HEADER.unpack_from(self._buffer)
            if length > _MAX:
                raise ValueError(f"a frame of {length} bytes")
            if len(self._buffer) < _HEADER.size + length:
                return
            body = bytes(self._buffer[_HEADER.size : _HEADER.size + length])
            del self._buffer[: _HEADER.size + length]
            yield Frame(Kind(kind.decode("latin-1")), job, body)


def encode(frame: Frame) -> bytes:
    return _HEADER.pack(frame.kind.encode(), frame.job, len(frame.data)) + frame.data


def run_request(argv: Sequence[str], *, cwd: str, env: Mapping[str, str]) -> bytes:
    """The payload of a RUN frame, also the contents of /kl/job.

    Raises UsageError for what C strings cannot hold, and for more than a guest takes.
    """
    words = [cwd, str(len(argv)), *argv, *(f"{name}={value}" for name, value in env.items())]
    if not argv or not argv[0] or any("\0" in word for word in words):
        raise UsageError("a command needs a name, and its words cannot hold NUL", hint="kernloop run -- uname -r")
    payload = b"".join(word.encode(errors="surrogateescape") + b"\0" for word in words)
    if len(argv) > _MAX_ARGUMENTS or len(payload) > _MAX:
        raise UsageError(
            f"the command is too long for a guest: {len(argv)} words, {len(payload)} bytes",
            hint="write it into a script: kernloop run --with script.sh -- sh script.sh",
        )
    return payload


def with_option(request: bytes, option: str, value: str) -> bytes:
    """What `run_request` made, with another word behind the first `option` of its command. Raises ValueError."""
    words = request.split(b"\0")
    words[words.index(option.encode(), 2, 2 + int(words[1])) + 1] = value.encode()
    return b"\0".join(words)
