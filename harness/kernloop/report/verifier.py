# SPDX-License-Identifier: Apache-2.0
"""Why a BPF object did not load: the verifier's log and libbpf's complaints, boiled down to one cause and one place.

The cause is the last line before `processed N insns` that is none of the verifier's narration (verifier_log.py);
verifier_causes.py knows what it means, verifier_facts.py what the log says of it. Kernel 7.3 adds a block behind that
line (kernel/bpf/diagnostics.c: `Verification failed:`, `Reason:`, `At:`, `Suggestion:`), used where it
is there. Unresolved symbols fail in libbpf before any log.

>>> parse_rejection("libbpf: extern (func ksym) 'scx_bpf_consume': not found in kernel or module BTFs").kind
'relocation'
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .verifier_causes import Cause, Kind, causes
from .verifier_facts import Facts, clip, facts, fill
from .verifier_log import Log, find_log, insn_of, messages, state_of, states, text_lines

__all__ = ["UNKNOWN", "Rejection", "parse_rejection"]

UNKNOWN = "unknown"

_AT = re.compile(r"^  (?:\S+ @ )?(?P<file>\S+?):(?P<line>\d+):\d+\s*$")
_AT_TEXT = re.compile(r"^\s*>>> *\d+ \| (?P<text>.*\S)")
_WORD = re.compile(r"[a-z]+[ ,:]")
_MOST_MESSAGE, _MOST_SOURCE, _MOST_REASON = 300, 160, 300
# With its debug output on, libbpf says thousands of things, and what went wrong at the end.
_MOST_SAID = 2000


@dataclass(frozen=True)
class Rejection:
    """One program, one cause.

    `cause` is the verifier's own sentence, `cause_id` a row of verifier_causes.toml or `unknown`; `title` and
    `explanation` say it in words, `hint` is what to change. `registers` are those that matter, `register_states` all
    that are known. `reason` and `suggestion` are the kernel's own (7.3 and later).
    """

    program: str
    cause: str
    source_file: str
    source_line: int | None
    source_text: str
    instruction: str
    kind: Kind
    insns_processed: int | None
    register_states: tuple[str, ...]
    hint: str
    reason: str = ""
    cause_id: str = UNKNOWN
    title: str = ""
    explanation: str = ""
    registers: tuple[str, ...] = ()
    suggestion: str = ""


def parse_rejection(text: str) -> Rejection | None:
    """The failure that a loader's output tells of, or None. A verifier log without libbpf's frame will do as well."""
    lines = text_lines(text)
    log = find_log(lines)
    if log.lines or log.block:
        return _from_log(log)
    said = [line.split("libbpf: ", 1)[1] for line in lines if "libbpf: " in line][-_MOST_SAID:]
    for row in causes() if said else ():
        for line in said if row.libbpf else ():
            if match := _search(row.libbpf, line):
                return _without_log(log.program, row, match)
    if log.error:
        return _bare(log.program, f"BPF program load failed: {log.error}")
    return None


def _from_log(log: Log) -> Rejection | None:
    at, said = messages(log.lines)
    if at is None and not log.block and not log.error and log.whole:
        return None
    end = at if at is not None else len(log.lines)
    title = log.block[0].partition(": ")[2] if log.block else ""
    cause = said[-1] if said else title
    row, groups = _classify(said or (title,))
    alloc = int(groups["insn"]) if row and row.id == "reference_leak" and "insn" in groups else None
    found = facts(log, end, groups, alloc, hot=row is not None and row.id == "too_complex")
    source = found.source
    place = (source.file, source.line, source.text) if source else ("", None, "")
    if log.block and alloc is None:
        place = _place(log.block, place)
    if not cause:
        cause = "the log ends before the verifier's last word" if not log.whole else f"load failed: {log.error}"
    return Rejection(
        log.program,
        clip(cause, _MOST_MESSAGE),
        place[0],
        place[1],
        clip(place[2], _MOST_SOURCE),
        clip(found.insn, _MOST_SOURCE),
        row.kind if row else "verifier" if at is not None else "other",
        log.processed,
        _registers(log.lines[:end]),
        fill(row.cure, found.values) if row else _UNKNOWN_CURE if at is not None else _CUT_CURE,
        clip(_section(log.block, "Reason"), _MOST_REASON),
        row.id if row else UNKNOWN,
        row.title if row else f"the verifier says: {clip(cause, 100)}",
        _explained(row, found, cause),
        found.registers,
        clip(_section(log.block, "Suggestion"), _MOST_REASON),
    )


_UNKNOWN_CURE = "kernloop does not know this message: read the last lines of the log, or give it to bpf@vger.kernel.org"
_CUT_CURE = "give the verifier a larger log buffer (bpf_program__set_log_buf()), or log level 1"


def _explained(row: Cause | None, found: Facts, cause: str) -> str:
    if row is None:
        return f"unknown; the verifier's last sentence: {clip(cause, _MOST_MESSAGE)}"
    text = fill(row.text, found.values).strip()
    # A function keeps its name.
    return text[:1].upper() + text[1:] if _WORD.match(text) else text


def _without_log(program: str, row: Cause, match: re.Match[str]) -> Rejection:
    groups = Cause.groups(match)
    found = Facts(groups, (), None, "")
    text = clip(match[0], _MOST_MESSAGE)
    if named := re.match(r"prog '([^']+)'", match.string):
        program = named[1]
    return Rejection(
        program, text, "", None, "", "", row.kind, None, (), fill(row.cure, groups), "", row.id, row.title,
        _explained(row, found, text),
    )  # fmt: skip


def _bare(program: str, cause: str) -> Rejection:
    return Rejection(
        program,
        cause,
        "",
        None,
        "",
        "",
        "other",
        None,
        (),
        "",
        title=cause,
        explanation=f"unknown: {cause}",
    )


# The row for what was said: of the last sentence, then of those before it, which say the details.
def _classify(said: tuple[str, ...]) -> tuple[Cause | None, dict[str, str]]:
    text = "\n".join(said)
    for row in causes():
        if match := _search(row.verifier, text):
            return row, Cause.groups(match)
    return None, {}


def _search(pattern: re.Pattern[str] | None, text: str) -> re.Match[str] | None:
    return pattern.search(text) if pattern else None


# What is known of the registers at the end of these lines; only the last ones matter.
def _registers(lines: tuple[str, ...]) -> tuple[str, ...]:
    known: dict[str, str] = {}
    for line in lines[-200:]:
        insn = insn_of(line)
        state = insn.state if insn else state_of(line)
        known.update((name, value) for name, value in states(state or "")[1] if name.startswith("R"))
    return tuple(f"{name}={known[name]}" for name in sorted(known, key=lambda name: int(name[1:])))


# A section of the block of 7.3, its lines joined: a title line, then lines indented by two.
def _section(block: tuple[str, ...], title: str) -> str:
    start = next((n for n, line in enumerate(block) if line == f"{title}:"), None)
    if start is None:
        return ""
    end = next((n for n in range(start + 1, len(block)) if not block[n].startswith("  ")), len(block))
    return " ".join(line.strip() for line in block[start + 1 : end])


def _place(block: tuple[str, ...], known: tuple[str, int | None, str]) -> tuple[str, int | None, str]:
    start = next((n for n, line in enumerate(block) if line == "At:"), None)
    if start is None:
        return known
    end = next((n for n in range(start + 1, len(block)) if not block[n].strip()), len(block))
    lines = block[start + 1 : end]
    if where := next((match for line in lines if (match := _AT.match(line))), None):
        shown = next((match for line in lines if (match := _AT_TEXT.match(line))), None)
        return where["file"], int(where["line"]), shown["text"].strip() if shown else known[2]
    return known
