# SPDX-License-Identifier: Apache-2.0
"""A refused BPF program as a report: of a log without a crash, or of the loader's words in a run's directory."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from kernloop.present.logs import Log
from kernloop.report.verifier import Rejection
from kernloop.report.verifier_facts import clip
from kernloop.report.verifier_scan import find_rejection

__all__ = ["KIND", "Refusal", "next_step", "refusal_object", "refused"]

KIND = "verifier"
# The cause says most of it already.
_MOST_REASON = 160


@dataclass(frozen=True)
class Refusal:
    """What was found, and in which file."""

    source: str
    rejection: Rejection


def refused(log: Log) -> Refusal | None:
    """The refusal that a log tells of; that of a run of `verify` stands in its loader.txt."""
    if found := find_rejection(log.data):
        return Refusal(log.name, found)
    found = find_rejection(log.beside("loader.txt").encode())
    return Refusal(str(log.run / "loader.txt"), found) if found and log.run else None


def refusal_object(found: Rejection) -> dict[str, Any]:
    """Kind, title and cause of a refusal; the fields of a crash report that it has, and `verifier`."""
    title = f"{KIND}: {found.program}: {found.title}" if found.program else f"{KIND}: {found.title}"
    # Neither line numbers nor registers: the same mistake in the next build is the same.
    known = "\n".join([KIND, found.program, found.cause_id, found.source_text])
    return {
        "kind": KIND,
        "family": KIND,
        "title": title,
        "function": found.program or None,
        "alt_titles": [],
        "corrupted": False,
        "reason": None,
        "fingerprint": sha256(known.encode()).hexdigest()[:16],
        "message": found.cause,
        "verifier": {
            "cause_id": found.cause_id,
            "cause": found.explanation,
            "cure": found.hint or None,
            "program": found.program or None,
            "source": {"file": found.source_file, "line": found.source_line, "text": found.source_text}
            if found.source_text
            else None,
            "instruction": found.instruction or None,
            "registers": list(found.registers),
            "processed_insns": found.insns_processed,
            "kernel_says": clip(found.reason, _MOST_REASON) or None,
        },
    }


def next_step(found: Rejection) -> str:
    """What to do once the cure is known."""
    place = f"{found.source_file}:{found.source_line}" if found.source_line is not None else "the program"
    what = f"change {place} as `cure` says" if found.hint else f"look at {place}"
    return f"{what}, then load it again: kernloop verify FILE.bpf.c"
