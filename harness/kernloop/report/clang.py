# SPDX-License-Identifier: Apache-2.0
"""Compiler diagnostics: `file:line:col: error: text`, the source line and the caret, as clang and gcc write them.

Format: clang/lib/Frontend/TextDiagnostic.cpp; since clang 17 and gcc 9 the source line is led by `  12 | `.

>>> parse_diagnostics("a.c:3:5: error: use of undeclared identifier 'x'")[0].line
3
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from .lines import read_line, split_lines

__all__ = ["Diagnostic", "parse_diagnostics"]

_HEAD = re.compile(
    r"^(?P<file>[^\s:][^:\n]*):(?:(?P<line>\d+):(?:(?P<column>\d+):)?)? "
    r"(?P<severity>fatal error|error|warning|note|remark): (?P<message>.*\S)"
)
_NUMBERED = re.compile(r"^\s*(?:\d+)? \| ?(?P<text>.*)$")
_CARET = re.compile(r"^[\s~]*\^[\s~]*")
_SUMMARY = re.compile(r"^\d+ (?:warning|error)s?(?: and \d+ errors?)? generated\.")


@dataclass(frozen=True)
class Diagnostic:
    """One complaint of a compiler with its notes; `line` and `column` are None where it names none."""

    file: str
    line: int | None
    column: int | None
    severity: str
    message: str
    source: str
    notes: tuple[Diagnostic, ...] = ()


def parse_diagnostics(text: str) -> tuple[Diagnostic, ...]:
    """All diagnostics in order; a note goes to the complaint before it."""
    found: list[Diagnostic] = []
    lines = [read_line(raw).text for raw in split_lines(text)]
    for number, line in enumerate(lines):
        head = _HEAD.match(line)
        if not head:
            continue
        following = lines[number + 1] if number + 1 < len(lines) else ""
        item = Diagnostic(
            head["file"],
            int(head["line"]) if head["line"] else None,
            int(head["column"]) if head["column"] else None,
            head["severity"],
            head["message"],
            _source(following),
        )
        if item.severity == "note" and found:
            found[-1] = replace(found[-1], notes=(*found[-1].notes, item))
        else:
            found.append(item)
    return tuple(found)


# The quoted source line, when the line after a head is one.
def _source(line: str) -> str:
    if numbered := _NUMBERED.match(line):
        return numbered["text"].strip()
    if _HEAD.match(line) or _SUMMARY.match(line) or _CARET.match(line) or not line.startswith((" ", "\t")):
        return ""
    return line.strip()
