# SPDX-License-Identifier: Apache-2.0
"""The function around a line of C in kernel style: its name begins in column 0, its body is between braces in column 0.

>>> enclosing(["int add(int a)", "{", "    return a + b;", "}"], 3)
'add'
"""

from __future__ import annotations

from collections.abc import Sequence

from .patterns import Pattern

__all__ = ["enclosing"]

_DEFINITION = Pattern(r"^(?:\w.*?\b)?(?!__attribute)(?P<name>[A-Za-z_]\w*)\s*\(")
_MACRO_DEFINED = Pattern(r"^(?:SYSCALL_DEFINE\d|COMPAT_SYSCALL_DEFINE\d)\((?P<name>\w+)")


def enclosing(source: Sequence[str], line: int) -> str:
    """The function that `line` (from 1) of `source` lies in, "" for none."""
    for number in range(min(line, len(source)) - 1, -1, -1):
        text = source[number]
        if text.startswith("}") and number != line - 1:
            return ""
        if text.startswith("{"):
            return _name_above(source, number)
        # The line complained of may be the head itself.
        if number == line - 1 and text[:1].isalpha() and not text.rstrip().endswith(";"):
            return _named(text)
    return ""


def _name_above(source: Sequence[str], brace: int) -> str:
    for number in range(brace - 1, max(brace - 12, -1), -1):
        text = source[number]
        if text.startswith(("}", "#")) or not text.strip():
            return ""
        if text[:1].isalpha() or text.startswith("_"):
            name = _named(text)
            if name:
                return name
    return ""


def _named(text: str) -> str:
    found = _MACRO_DEFINED.match(text) or _DEFINITION.match(text)
    return found["name"] if found else ""
