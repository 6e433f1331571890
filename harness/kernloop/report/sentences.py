# SPDX-License-Identifier: Apache-2.0
"""The kernel's own sentences as patterns: the text of a printk format, with a name in braces where a value is printed.

Names have a shape of their own: `{func}` and `{where}` are `%pS` (a symbol with offset), `{src}` is `%s:%d`; `{cpu}`,
`{pid}`, `{n}` are numbers, `{x}` is hexadecimal, `{comm}` a task's name, `{access}` what a checker calls it, `{what}`
any text. `{what:[a-z-]+}` gives it a shape of its own, `{Read|Write}` is a choice without a name, `{..}` is whatever
stands there. A sentence is looked for anywhere in a line; `^` binds it to the beginning and `$` to the end.

>>> sentence("BUG: soft lockup - CPU#{cpu} stuck for {n}s!").search("BUG: soft lockup - CPU#3 stuck for 22s!")["cpu"]
'3'
"""

from __future__ import annotations

import re
from functools import lru_cache

from .patterns import Pattern

__all__ = ["SYMBOL", "sentence"]

SYMBOL = r"[A-Za-z_$][\w$]*(?:\.[\w.]+)?"
# They begin where a word does: from each of its letters would take the square of a line's length.
_WHOLE = r"(?<![\w$.])"
_SHAPES = {
    "cpu": r"\d{1,6}",
    "pid": r"\d{1,10}",
    "comm": r".{0,100}?",
    "func": rf"{_WHOLE}{SYMBOL}(?=\+0x)",
    "where": rf"{_WHOLE}{SYMBOL}(?=\+0x)",
    "access": r"Read|Write",
    "what": r".*?",
}
_NAMELESS = {
    "n": r"\d+",
    "x": r"[0-9a-f]+",
    "src": r"(?<![\w./-])[\w./-]+\.[a-z]+:\d+",
    "..": r".{0,400}?",
    "sym": rf"{_WHOLE}{SYMBOL}\+0x",
}
_HOLE = re.compile(r"\{([^{}]+(?:\{[^{}]*\}[^{}]*)*)\}")


@lru_cache(maxsize=512)
def sentence(text: str) -> Pattern:
    """The pattern that finds a sentence."""
    begin, end = text.startswith("^"), text.endswith("$")
    parts = _HOLE.split(text[begin : len(text) - end])
    if parts[-1] == "" and len(parts) > 1 and parts[-2] == "what" and not end:
        parts[-2] = r"what:.*\S"
    holes = (_shape(part) if odd % 2 else re.escape(part).replace(r"\ ", " ") for odd, part in enumerate(parts))
    return Pattern("^" * begin + "".join(holes) + "$" * end)


def _shape(hole: str) -> str:
    name, own, shape = hole.partition(":")
    if own and name.isidentifier():
        return f"(?P<{name}>{shape})"
    if hole in _NAMELESS:
        return _NAMELESS[hole]
    return f"(?P<{hole}>{_SHAPES[hole]})" if hole in _SHAPES else f"(?:{hole})"
