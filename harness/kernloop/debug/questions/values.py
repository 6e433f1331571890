# SPDX-License-Identifier: Apache-2.0
"""Values as GDB prints them, cut to a depth and into rows: one a member of a struct, one an element of an array."""

from __future__ import annotations

import re
from collections.abc import Iterator

__all__ = ["pruned", "rows"]

_OPEN, _CLOSE = "{<(", "}>)"
_NAMED = re.compile(r"^[\w:]+ = ")


def pruned(text: str, depth: int) -> str:
    """`text` with what stands deeper in braces than `depth` left out."""
    kept: list[str] = []
    level = 0
    for character, quoted in _characters(text):
        level -= character == "}" and not quoted
        if level <= depth:
            kept.append(character)
        level += character == "{" and not quoted
        if character == "{" and not quoted and level == depth + 1:
            kept.append("...")
    return "".join(kept)


def rows(text: str) -> list[str]:
    """The members of a struct or elements of an array; another value is one row. `text` may lack its end."""
    if not text.startswith("{"):
        return [text]
    found: list[str] = []
    for piece in _pieces(text.removesuffix("}")[1:]):
        # A text with repeats is printed with commas of its own: "ab", '\\000' <repeats 13 times>.
        if found and _NAMED.match(found[0]) and not _NAMED.match(piece):
            found[-1] += f", {piece}"
        else:
            found.append(piece)
    return found


def _pieces(text: str) -> Iterator[str]:
    level, begin, last = 0, 0, ""
    for at, (character, quoted) in enumerate(_characters(text)):
        if not quoted:
            # -> is no bracket.
            level += (character in _OPEN) - (character in _CLOSE and not (character == ">" and last == "-"))
            if character == "," and level == 0:
                yield text[begin:at].strip()
                begin = at + 1
        last = character
    if text[begin:].strip():
        yield text[begin:].strip()


# Each with whether it stands in a string or is a quote of one.
def _characters(text: str) -> Iterator[tuple[str, bool]]:
    quote, escaped = "", False
    for character in text:
        if quote:
            yield character, True
            if escaped:
                escaped = False
            elif character == "\\":
                escaped = True
            elif character == quote:
                quote = ""
        else:
            quote = character if character in "\"'" else ""
            yield character, bool(quote)
