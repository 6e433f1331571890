# SPDX-License-Identifier: Apache-2.0
"""Why a hunk does not fit, and where most of it would: for each hunk of a patch, compared with the file as it is.

git demands every context line, where the hunk says or at an offset (apply.c, find_pos); patch(1) gives up to two
lines at the ends ("fuzz"). Neither says what differs.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from unidiff.errors import UnidiffParseError
from unidiff.patch import Hunk, PatchedFile, PatchSet

__all__ = ["Difference", "HunkReport", "explain"]

_FUZZ = 2
# With fewer of its lines than this a place is not where a hunk belongs.
_LIKELY = 0.4
_MOST_DIFFERENCES = 8
_START = re.compile(r"^(?:diff --git |--- \S)", re.M)


@dataclass(frozen=True)
class Difference:
    """At `line` of the file the hunk wants the lines `wanted`, and `found` are there."""

    line: int
    wanted: tuple[str, ...]
    found: tuple[str, ...]


@dataclass(frozen=True)
class HunkReport:
    """`status`: applies, offset, anchored, already-applied, whitespace, fuzz, differs, nowhere, file-missing,
    file-exists, binary.

    `wanted` is the line that the hunk names, `at` the one where it fits, or fits best; `matched` of `lines` lines fit.
    """

    file: str
    number: int
    total: int
    wanted: int
    status: str
    message: str
    at: int | None = None
    matched: int = 0
    lines: int = 0
    differences: tuple[Difference, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether git itself takes it."""
        return self.status in ("applies", "offset")


def explain(patch: str, read: Callable[[str], str | None]) -> tuple[HunkReport, ...]:
    """One report a hunk, for any text. `read` gives a file's text by its path in the tree, None if it is not there."""
    start = _START.search(patch)
    try:
        files = list(PatchSet(patch[start.start() :] if start else ""))
    except (UnidiffParseError, ValueError):
        # git has the last word on what it cannot read, and says it.
        return ()
    return tuple(report for file in files for report in _file(file, read))


def _file(file: PatchedFile, read: Callable[[str], str | None]) -> list[HunkReport]:
    name = _path(file.source_file if not file.is_added_file else file.target_file)
    there = read(name)
    have = None if there is None else there.split("\n")
    total = len(file)
    if file.is_binary_file:
        return [HunkReport(name, 1, 1, 0, "binary", "a binary file: git compares it whole")]
    reports = []
    for number, hunk in enumerate(file, 1):
        told = _Told(name, number, total, hunk)
        if file.is_added_file:
            reports.append(told.created(have))
        elif have is None:
            reports.append(told.says("file-missing", "the file is not there"))
        else:
            reports.append(told.placed(have))
    return reports


# Without a/ or b/.
def _path(name: str) -> str:
    name = name.strip('"')
    return name.partition("/")[2] or name


class _Told:
    """One hunk and how its reports are made."""

    def __init__(self, file: str, number: int, total: int, hunk: Hunk) -> None:
        self._head = (file, number, total, hunk.source_start)
        lines = [line for line in hunk if line.line_type in " -+"]
        self._old = [line.value.rstrip("\n") for line in lines if line.line_type in " -"]
        self._new = [line.value.rstrip("\n") for line in lines if line.line_type in " +"]
        kinds = "".join(line.line_type for line in lines)
        self._lead = len(kinds) - len(kinds.lstrip(" "))
        self._trail = len(kinds) - len(kinds.rstrip(" "))
        # A hunk without old lines names the line before (`-0,0` too).
        self._want = max(hunk.source_start - (1 if hunk.source_length else 0), 0)
        # Without context on that side git takes a hunk only there (apply.c, apply_one_fragment).
        self._only_first = hunk.source_start <= 1
        self._only_last = not self._trail

    def says(
        self, status: str, message: str, at: int | None = None, matched: int = 0, differences: Sequence[Difference] = ()
    ) -> HunkReport:
        line = None if at is None else at + 1
        return HunkReport(*self._head, status, message, line, matched, len(self._old), tuple(differences))

    def created(self, have: list[str] | None) -> HunkReport:
        if have is None:
            return self.says("applies", "a new file", 0)
        if [line for line in have if line] == [line for line in self._new if line]:
            return self.says("already-applied", "the file is there already, and the same", 0)
        return self.says("file-exists", "the patch creates the file, and another one is there")

    def placed(self, have: list[str]) -> HunkReport:
        want, old, new = self._want, self._old, self._new
        whole = len(old)
        if not old:
            if not any(have):
                return self.says("applies", "fits into the empty file", 0)
            return self.says("anchored", "it has no context: git takes it only for an empty file")
        here = _nearest(have, old, want)
        done = _nearest(have, new, want) if new and new != old else None
        if here is not None and (edge := self._edge(have)):
            allowed, where = edge
            if have[allowed : allowed + whole] == old:
                here = allowed
            elif done is None:
                message = f"its lines are at line {here + 1}, but without context there git takes it only {where}"
                return self.says("anchored", message, here, whole)
            else:
                here = None
        if here == want:
            return self.says("applies", f"fits at line {want + 1}", here, whole)
        if done is not None and (here is None or abs(done - want) < abs(here - want)):
            return self.says("already-applied", f"its new lines are there already, at line {done + 1}", done)
        if here is not None:
            return self.says("offset", f"fits at line {here + 1}, {here - want:+d} lines off", here, whole)
        blank = _nearest([_squeezed(line) for line in have], [_squeezed(line) for line in old], want)
        if blank is not None:
            there = have[blank : blank + whole]
            differences = _differences(old, there, blank)
            message = f"fits at line {blank + 1} but for white space: {_kind(old, there)}"
            return self.says("whitespace", message, blank, whole - _count(differences), differences)
        for fuzz in range(1, _FUZZ + 1):
            top, end = min(fuzz, self._lead), whole - min(fuzz, self._trail)
            found = _nearest(have, old[top:end], want + top) if end > top else None
            # git wants the ends too: what differs there is what is to be looked at.
            if found is not None and (top or end < whole):
                at = max(found - top, 0)
                differences = _differences(old, have[at : at + whole], at)
                message = f"fits at line {at + 1} with fuzz {fuzz}: only lines at its ends differ"
                return self.says("fuzz", message, at, end - top, differences)
        return self._best(have)

    # The only place that git would try, and how to call it.
    def _edge(self, have: list[str]) -> tuple[int, str] | None:
        if self._only_first:
            # With no context after it either, it is the whole file.
            whole = not self._only_last or len(self._old) == _length(have)
            return (0 if whole else len(have) + 1), "at the file's beginning"
        if self._only_last:
            return max(_length(have) - len(self._old), 0), "at the file's end"
        return None

    # Where most of its lines are, some may have come or gone between them.
    def _best(self, have: list[str]) -> HunkReport:
        at = _likeliest(have, self._old, self._want)
        start, end = max(at - 3, 0), at + len(self._old) + 6
        matcher = SequenceMatcher(None, self._old, have[start:end], autojunk=False)
        blocks = [block for block in matcher.get_matching_blocks() if block.size]
        matched = sum(block.size for block in blocks)
        if not blocks or matched < _LIKELY * len(self._old):
            return self.says("nowhere", "nothing in the file is much like it")
        head, tail = blocks[0], blocks[-1]
        first, last = max(start + head.b - head.a, 0), start + tail.b + len(self._old) - tail.a
        # Line by line, where that is as good: in a table each row is like the next.
        for place in sorted(range(start, at + 4), key=lambda place: abs(place - self._want)):
            same = sum(a == b for a, b in zip(self._old, have[place : place + len(self._old)], strict=False))
            if same >= matched:
                first, last, matched = place, place + len(self._old), same
                break
        differences = _differences(self._old, have[first:last], first)
        message = f"fits best at line {first + 1}, with {matched} of its {len(self._old)} lines"
        return self.says("differs", message, first, matched, differences)


# A last line that is ended is followed by nothing.
def _length(have: list[str]) -> int:
    return len(have) - (have[-1] == "")


# The place nearest to `want` where all of `block` is.
def _nearest(have: list[str], block: list[str], want: int) -> int | None:
    size = len(block)
    if not size or size > len(have):
        return None
    # The rarest line finds the places; the others are compared there.
    counts = Counter(have)
    key = min(range(size), key=lambda index: counts.get(block[index], 0))
    places = [
        at - key
        for at, line in enumerate(have)
        if line == block[key] and at >= key and have[at - key : at - key + size] == block
    ]
    return min(places, key=lambda place: (abs(place - want), place), default=None)


# Lines that are rare in the file vote for where the hunk would begin; neighbours, moved by an inserted line, count too.
def _likeliest(have: list[str], block: list[str], want: int) -> int:
    places: dict[str, list[int]] = {}
    for at, line in enumerate(have):
        if line.strip():
            places.setdefault(line, []).append(at)
    votes: Counter[int] = Counter()
    for index, line in enumerate(block):
        found = places.get(line, [])
        if 0 < len(found) <= 50:
            for at in found:
                # In hundredths; what stands there once outweighs a return or a brace.
                votes[at - index] += 100 // len(found)
    if not votes:
        # All its lines are everywhere: then the place that it names is as good as any.
        return want
    weight = {place: sum(votes.get(place + near, 0) for near in (-2, -1, 0, 1, 2)) + votes[place] for place in votes}
    return max(min(weight, key=lambda place: (-weight[place], abs(place - want), place)), 0)


def _differences(wanted: Sequence[str], found: Sequence[str], at: int) -> list[Difference]:
    matcher = SequenceMatcher(None, list(wanted), list(found), autojunk=False)
    return [
        Difference(at + b1 + 1, tuple(wanted[a1:a2]), tuple(found[b1:b2]))
        for kind, a1, a2, b1, b2 in matcher.get_opcodes()
        if kind != "equal"
    ][:_MOST_DIFFERENCES]


def _count(differences: Sequence[Difference]) -> int:
    return sum(len(difference.wanted) for difference in differences)


def _squeezed(line: str) -> str:
    return " ".join(line.split())


def _kind(wanted: list[str], found: list[str]) -> str:
    pairs = [(a, b) for a, b in zip(wanted, found, strict=False) if a != b]
    if all(a.rstrip("\r") == b.rstrip("\r") for a, b in pairs):
        return "line ends (CRLF against LF)"
    if all(a.rstrip() == b.rstrip() for a, b in pairs):
        return "blanks at line ends"
    if all(a.expandtabs(8).strip() == b.expandtabs(8).strip() for a, b in pairs):
        return "indentation, tabs against blanks"
    return "blanks within lines"
