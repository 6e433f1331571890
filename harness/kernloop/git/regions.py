# SPDX-License-Identifier: Apache-2.0
"""Conflicts in a text, as git marks them, and where they are in either side's file."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import SequenceMatcher

__all__ = ["Region", "place", "regions"]


@dataclass(frozen=True)
class Region:
    """One conflict: `line` of the marker in the file, and each side's lines; `base` is None without diff3's part."""

    line: int
    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    base: tuple[str, ...] | None = None


def regions(content: str) -> tuple[Region, ...]:
    """The conflicts between markers in `content`. Never raises; what is not closed is no conflict."""
    found: list[Region] = []
    part = ""
    start = 0
    sides: dict[str, list[str]] = {}
    for number, line in enumerate(content.split("\n"), 1):
        mark = line[:7]
        whole = len(line) == 7 or line[7:8] in (" ", "\r")
        if mark == "<<<<<<<" and whole:
            part, start, sides = "ours", number, {"ours": [], "theirs": []}
        elif part == "ours" and mark == "|||||||" and whole:
            part, sides["base"] = "base", []
        elif part in ("ours", "base") and line.rstrip("\r") == "=======":
            part = "theirs"
        elif part == "theirs" and mark == ">>>>>>>" and whole:
            base = tuple(sides["base"]) if "base" in sides else None
            found.append(Region(start, tuple(sides["ours"]), tuple(sides["theirs"]), base))
            part = ""
        elif part:
            sides[part].append(line)
    return tuple(found)


def place(found: tuple[Region, ...], index: int, merged: str, side: list[str], which: str) -> int:
    """The line, from 0, at which `side` ("ours" or "theirs") has its part of conflict `index` of `merged`."""
    # The merged text with that side taken everywhere, aligned with the side.
    lines = merged.split("\n")
    taken: list[str] = []
    at = wanted = 0
    for number, region in enumerate(found):
        taken += lines[at : region.line - 1]
        if number == index:
            wanted = len(taken)
        part = region.ours if which == "ours" else region.theirs
        taken += part
        base = region.base or ()
        at = region.line - 1 + 3 + len(region.ours) + len(region.theirs) + len(base) + (region.base is not None)
    taken += lines[at:]
    for block in SequenceMatcher(None, taken, side).get_matching_blocks():
        if block.a <= wanted < block.a + block.size:
            return block.b + wanted - block.a
        if block.a > wanted:
            return max(block.b - (block.a - wanted), 0)
    return min(wanted, len(side))
