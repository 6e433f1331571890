# SPDX-License-Identifier: Apache-2.0
"""Texts that make a regular expression slow, made from the expression itself: what it wants up to one of its
repetitions, then what that repetition takes, over and over, and an end that fits nothing.

>>> next(iter(attacks("a(b+)c", 0, 8)))
'abbbbbbb\\x01'
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from importlib import import_module
from types import FunctionType, ModuleType
from typing import Any

from kernloop.report.patterns import Pattern

__all__ = ["attacks", "expressions"]

# The parser and the names of its nodes (`re._parser`, since Python 3.11); not public, and nothing else tells them.
_parser: Any = import_module("re._parser")
_nodes: Any = import_module("re._constants")

_MANY = 20
_TRIED = "a 0:/x(_-.Z\t[]#'\"+*"
_CHOICES = 3
_NOWHERE = "\x01"


def expressions(holder: object, name: str, seen: set[int] | None = None) -> Iterator[tuple[str, str, int]]:
    """Name, text and flags of each expression in `holder`: a module, a table, a row, a function that keeps one."""
    seen = set() if seen is None else seen
    if isinstance(holder, re.Pattern):
        yield name, holder.pattern if isinstance(holder.pattern, str) else holder.pattern.decode(), holder.flags
        return
    if isinstance(holder, Pattern):
        yield name, holder.text, holder.flags
        return
    if id(holder) in seen:
        return
    seen.add(id(holder))
    for key, value in _parts(holder):
        yield from expressions(value, f"{name}.{key}", seen)


def _parts(holder: object) -> Iterator[tuple[str, object]]:
    if isinstance(holder, dict):
        yield from ((str(key), value) for key, value in holder.items())
    elif isinstance(holder, tuple | list):
        yield from ((str(number), value) for number, value in enumerate(holder))
    elif hasattr(holder, "__dataclass_fields__") and not isinstance(holder, type):
        yield from ((key, getattr(holder, key)) for key in holder.__dataclass_fields__)
    elif isinstance(holder, FunctionType):
        yield from ((str(number), cell.cell_contents) for number, cell in enumerate(holder.__closure__ or ()))
    elif isinstance(holder, ModuleType):
        yield from ((key, value) for key, value in vars(holder).items() if not isinstance(value, ModuleType))


def attacks(expression: str, flags: int, size: int) -> Iterator[str]:
    """Texts of `size` characters, each for another repetition or another character of it."""
    tree = _parser.parse(expression, flags & ~re.LOCALE)
    whole = _sample(tree, 0)
    seen = set[str]()
    for before, once in _repetitions(tree, ""):
        for head, unit in ((before, once), ("", before + once), (before, before[-1:] + once), ("", whole[:-1])):
            text = (head + unit * (size // len(unit) + 1))[:size] + _NOWHERE if unit else ""
            if text and text not in seen:
                seen.add(text)
                yield text


# Of each repetition: what comes before it, and what it takes once.
def _repetitions(nodes: Any, before: str) -> Iterator[tuple[str, str]]:
    for node in nodes:
        code, value = node
        if code in (_nodes.MAX_REPEAT, _nodes.MIN_REPEAT, _nodes.POSSESSIVE_REPEAT):
            _, most, body = value
            if most >= _MANY:
                yield from ((before, _sample(body, choice)) for choice in range(_CHOICES))
            yield from _repetitions(body, before)
        elif code is _nodes.SUBPATTERN:
            yield from _repetitions(value[-1], before)
        elif code is _nodes.BRANCH:
            for branch in value[1]:
                yield from _repetitions(branch, before)
        elif code is _nodes.ATOMIC_GROUP:
            yield from _repetitions(value, before)
        before += _sample([node], 0)


# A text that the nodes take; `choice` says which of several.
def _sample(nodes: Any, choice: int) -> str:
    text = ""
    for code, value in nodes:
        if code is _nodes.LITERAL:
            text += chr(value)
        elif code is _nodes.NOT_LITERAL:
            text += "b" if value == ord("a") else "a"
        elif code is _nodes.ANY:
            text += "a0 "[choice]
        elif code is _nodes.IN:
            text += _of_set(value, choice)
        elif code is _nodes.SUBPATTERN:
            text += _sample(value[-1], choice)
        elif code is _nodes.BRANCH:
            text += _sample(value[1][choice % len(value[1])], choice)
        elif code in (_nodes.MAX_REPEAT, _nodes.MIN_REPEAT, _nodes.POSSESSIVE_REPEAT):
            text += _sample(value[2], choice) * max(value[0], 1)
        elif code is _nodes.ATOMIC_GROUP:
            text += _sample(value, choice)
    return text


def _of_set(items: Sequence[Any], choice: int) -> str:
    negated = items[0][0] is _nodes.NEGATE
    named = [chr(value) for code, value in items if code is _nodes.LITERAL]
    fits = re.compile(_written(items))
    taken = [c for c in _TRIED if fits.fullmatch(c)] or ([] if negated else named)
    return taken[choice % len(taken)] if taken else ""


_CLASSES = {
    "CATEGORY_DIGIT": r"\d",
    "CATEGORY_NOT_DIGIT": r"\D",
    "CATEGORY_SPACE": r"\s",
    "CATEGORY_NOT_SPACE": r"\S",
    "CATEGORY_WORD": r"\w",
    "CATEGORY_NOT_WORD": r"\W",
}


# A set as it was written, or about so.
def _written(items: Sequence[Any]) -> str:
    text = ""
    for code, value in items:
        if code is _nodes.NEGATE:
            text += "^"
        elif code is _nodes.LITERAL:
            text += re.escape(chr(value))
        elif code is _nodes.RANGE:
            text += f"{re.escape(chr(value[0]))}-{re.escape(chr(value[1]))}"
        elif code is _nodes.CATEGORY:
            text += _CLASSES[str(value)]
    return f"[{text}]"
