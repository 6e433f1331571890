# SPDX-License-Identifier: Apache-2.0
"""From the lines of one report to what it says: which row of the table it is, who is guilty, whether it is whole.

A report whose body is missing is never guessed at: it keeps the words of its header, and `corrupted` says why.

>>> analyse(["WARNING: possible recursive locking detected"]).corrupted
'the header is there, what belongs below it is not'
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .blame import suspects
from .frames import base_name, source_name
from .oops_table import Row, fallback, matching_rows
from .patterns import Pattern
from .severity import Severity
from .stackline import frame_names, heading
from .titles import clean_title

__all__ = ["Findings", "analyse"]

# How far below its heading a trace may begin, and the least that a report has below the heading of a trace.
_TRACE_REACH = 15
_TRACE_LEAST = 3

_STAMP_INSIDE = Pattern(r"\[ *\d+\.\d+\]")


@dataclass(frozen=True)
class Findings:
    """What the lines of a report say, its first line being the header."""

    row: Row | None
    kind: str
    title: str
    function: str | None
    corrupted: str
    groups: tuple[tuple[str, str], ...] = ()


def analyse(lines: Sequence[str], printk: bool = True) -> Findings:
    rows = matching_rows(lines[0], printk) if lines else []
    if not rows:
        return Findings(None, "other", clean_title(lines[0]) if lines else "", None, "")
    missing = False
    for row, match in rows:
        body = _needed(row, lines)
        if body is None:
            missing = True
            continue
        if missing and row.kind in ("bug", "warning", "info") and not row.blame:
            break
        groups = {name: text for name, text in (match.groupdict() | body).items() if text}
        return _findings(row, groups, lines)
    row, match = fallback(lines[0]) or rows[0]
    what = match.groupdict().get("what") or ""
    title = clean_title(_fill(row.title, {"what": what}, None))
    return Findings(row, row.kind, title, None, "the header is there, what belongs below it is not")


# What the body says, or None where a line that this row needs is not there. The lines come in the order of the needs.
def _needed(row: Row, lines: Sequence[str]) -> dict[str, str] | None:
    found: dict[str, str] = {}
    at = 0
    for need in row.body:
        while at < len(lines) and not (match := need.search(lines[at])):
            at += 1
        if at == len(lines):
            return None
        at += 1
        found |= {name: text for name, text in match.groupdict().items() if text} if match else {}
    return found


def _findings(row: Row, groups: dict[str, str], lines: Sequence[str]) -> Findings:
    reason = "only seen where the report that belongs to it was lost" if row.damaged else ""
    function = groups.get("func") or groups.get("old")
    if row.blame:
        names, sound = suspects(lines, row.blame)
        # A header that names a function knows more than a trace that is not there.
        function = names[0] if names else groups.get("where") if row.kind == "warning" else None
        if not sound:
            reason = reason or ("another trace is in between" if names else "no frame that could be guilty")
    elif row.needs and "func" in {name for need in row.body for name in need.groupindex} and not function:
        reason = reason or "the guilty function is not named"
    function = base_name(function) if function else None
    words = {name: text for name, text in groups.items() if name not in ("func", "where")}
    said = _fill(row.title, words, function)
    title = clean_title(said)
    if not reason and _STAMP_INSIDE.search(said):
        reason = "the header is mixed with another line"
    if not reason and not row.bare and row.severity is not Severity.EJECTED:
        reason = _trace_damage(lines)
    kind = row.refine(groups.get("what", ""), groups.get("access", "")) if row.refine else row.kind
    return Findings(row, kind, title, function, reason, tuple(groups.items()))


def _fill(title: str, words: dict[str, str], function: str | None) -> str:
    if function is None:
        for link in (" in {func}/", " in {func}", " from {func}"):
            title = title.replace(link, "/" if link.endswith("/") else "")
    known = {"what": "", "reason": "", "access": "", "lock": "", **words}
    known["func"] = source_name(function) if function else ""
    text = title.format(**known).strip()
    # A row may name both the culprit and the function that complained: where they are one, once is enough.
    return text.replace(f"{function}/{function}", f"{function}") if function else text


# A heading of a trace must have frames below it, and at least one trace must be there.
def _trace_damage(lines: Sequence[str]) -> str:
    seen: set[str] = set()
    complete = False
    for number, line in enumerate(lines):
        sort = heading(line)
        if sort is None or sort in seen:
            continue
        seen.add(sort)
        if len(lines) - number < _TRACE_LEAST:
            return "cut off where a trace begins"
        if _has_frames(lines[number + 1 : number + 1 + _TRACE_REACH]):
            complete = True
        elif sort != "registers":
            return "a trace without frames"
    return "" if complete else "no trace"


def _has_frames(lines: Sequence[str]) -> bool:
    for line in lines:
        if heading(line):
            return False
        if frame_names(line) or "(stack is not available)" in line:
            return True
    return False
