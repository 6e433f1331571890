# SPDX-License-Identifier: Apache-2.0
"""A refused BPF program in the bytes of any log: a loader's output, a console, a journal.

>>> find_rejection(b"[ 0.1] all is well\\n") is None
True
"""

from __future__ import annotations

import re

from .verifier import Rejection, parse_rejection

__all__ = ["find_rejection"]

_BEGIN, _END = b"-- BEGIN PROG LOAD LOG --", b"-- END PROG LOAD LOG --"
_LIBBPF, _PROCESSED = b"libbpf: ", b" insns (limit "
# What only a refusal makes libbpf say (tools/lib/bpf/libbpf.c). Its other complaints stand on the consoles of healthy
# machines.
_TELLS = (
    b"BPF program load failed: ",
    b"extern (func ksym) ",
    b"extern (var ksym) ",
    b"(strong): not resolved",
    b"struct_ops init_kern",
    b"failed to find kernel BTF type ID of ",
    b"failed to load object",
)
_INSN = re.compile(rb"^\d+: \([0-9a-f]{2}\) ", re.MULTILINE)
# The line that names the program and its error stands right before the log.
_BEFORE, _BEHIND = 8 << 10, 1 << 10
# A log that lost both ends has nothing but instructions.
_HEAD, _MOST = 1 << 20, 64 << 20


def find_rejection(data: bytes) -> Rejection | None:
    """The refusal that a log tells of last, or None."""
    libbpf, verifier = _LIBBPF in data, _PROCESSED in data
    if not libbpf and not verifier and not _INSN.search(data[:_HEAD]):
        return None
    at = data.rfind(_BEGIN)
    if at >= 0:
        end = data.find(_END, at)
        part = data[max(at - _BEFORE, 0) : end + _BEHIND if end >= 0 else len(data)]
    elif verifier or not libbpf or any(tell in data for tell in _TELLS):
        part = data[-_MOST:]
    else:
        return None
    return parse_rejection(part[-_MOST:].decode("utf-8", "replace"))
