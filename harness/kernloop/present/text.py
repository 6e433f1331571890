# SPDX-License-Identifier: Apache-2.0
"""A guest's bytes as text that can be shown: no escape sequence or control character gets through, lines keep their
numbers, and of a very long console the parts that matter are kept.

>>> printable("\\x1b[31mred\\x1b[0m\\x00\\r")
'red\u2400'
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kernloop.report.lines import without_escapes

__all__ = ["Block", "blocks", "printable", "tail"]

_MAX_LINE = 4000
_AROUND = 200
# Control characters as their pictures; what only pretends to be something else (C1, bidirectional marks, surrogates,
# non-characters) as the mark for "no character".
_SHOWN = {
    **{code: 0x2400 + code for code in range(0x20) if chr(code) not in "\t\n"},
    0x7F: 0x2421,
    **dict.fromkeys([*range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A), 0xFFFE, 0xFFFF], 0xFFFD),
    **dict.fromkeys(range(0xD800, 0xE000), 0xFFFD),
}


@dataclass(frozen=True)
class Block:
    """Consecutive lines of a console, the first of them number `first`; `marked` when a report is made of them.

    `anchor` names the report that begins here, "" for none. A block that was left out has `left_out` lines and none.
    """

    first: int
    lines: tuple[str, ...]
    marked: bool = False
    anchor: str = ""
    left_out: int = 0


def printable(text: str) -> str:
    """`text` without what a terminal would act on."""
    return without_escapes(text).rstrip("\r").translate(_SHOWN)


def tail(path: Path, limit: int) -> str:
    """The last `limit` bytes of a file, printable; "" when it is not there."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - limit))
            data = file.read()
    except OSError:
        return ""
    lead = f"({size - limit} bytes before this are left out)\n" if size > limit else ""
    return lead + "\n".join(printable(line) for line in data.decode(errors="replace").split("\n"))


def blocks(console: bytes, ranges: Sequence[tuple[int, int]], *, limit: int = 4 << 20) -> list[Block]:
    """`console` in blocks, the 1-based inclusive `ranges` marked. About `limit` bytes of a longer one are kept: its
    beginning, its end, and what is in and around the ranges."""
    # Only a newline ends a line, as for the parser that counted them.
    text = console.decode(errors="replace").removesuffix("\n")
    lines = [_cut(printable(line)) for line in text.split("\n")] if text else []
    kept = _kept(lines, ranges, limit)
    marked = bytearray(len(lines))
    for first, last in ranges:
        for number in range(max(first, 1) - 1, min(last, len(lines))):
            marked[number] = 1
    begins = {first for first, _ in ranges}
    found: list[Block] = []
    at = 0
    while at < len(lines):
        end = at + 1
        state = (kept[at], marked[at])
        while end < len(lines) and (kept[end], marked[end]) == state and end + 1 not in begins:
            end += 1
        anchor = f"L{at + 1}" if at + 1 in begins else ""
        if kept[at]:
            found.append(Block(at + 1, tuple(lines[at:end]), bool(marked[at]), anchor))
        else:
            found.append(Block(at + 1, (), anchor=anchor, left_out=end - at))
        at = end
    return found


def _cut(line: str) -> str:
    return line if len(line) <= _MAX_LINE else f"{line[:_MAX_LINE]} ({len(line) - _MAX_LINE} characters more)"


# For each line, whether it is kept.
def _kept(lines: Sequence[str], ranges: Sequence[tuple[int, int]], limit: int) -> bytearray:
    count = len(lines)
    if sum(map(len, lines)) <= limit:
        return bytearray(b"\1" * count)
    kept = bytearray(count)

    def keep(numbers: Iterable[int], budget: int) -> None:
        for number in numbers:
            if not kept[number]:
                budget -= len(lines[number]) + 1
                if budget < 0:
                    return
                kept[number] = 1

    for first, last in ranges:
        share = limit // 4 // len(ranges)
        keep(range(max(first, 1) - 1, min(last, count)), share)
        keep(range(max(first - _AROUND, 1) - 1, min(last + _AROUND, count)), share)
    keep(range(count), limit // 4)
    keep(range(count - 1, -1, -1), limit // 4)
    return kept
