# SPDX-License-Identifier: Apache-2.0
"""A decoded crash as lines of text: where, the source there, the trace with its lines, registers, code, doubts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kernloop.report.symbols import Decoded, DecodedFrame, Instruction

__all__ = ["brief_lines", "code_lines", "decoded_lines", "trace_lines"]

# Of the Code: line around the faulting instruction.
_BEFORE, _AFTER = 8, 4


def decoded_lines(found: Decoded) -> list[str]:
    """All of it, the weightiest first."""
    return [
        *_head(found),
        *_titled("trace:", trace_lines(found)),
        *_titled("code:", code_lines(found)),
        *_doubts(found),
    ]


def brief_lines(found: Decoded) -> list[str]:
    """The same in few words: the guilty statement, registers, the trace."""
    marked = [(one.place, line.text.strip()) for one in found.source for line in one.lines if line.guilty]
    return [*(f"{place}: {text}" for place, text in marked), *_notes(found), *trace_lines(found), *_doubts(found)]


def trace_lines(found: Decoded) -> list[str]:
    """The frames, each with its place below those inlined into it, stale ones left out; none when none has a place."""
    if not any(frame.places for frame in found.frames):
        return []
    return [line for frame in found.frames if frame.reliable for line in _frame(frame)]


def code_lines(found: Decoded) -> list[str]:
    """The instructions around the faulting one, which is marked."""
    at = next((number for number, one in enumerate(found.code) if one.guilty), 0)
    return [_instruction(one) for one in found.code[max(0, at - _BEFORE) : at + 1 + _AFTER]]


def _head(found: Decoded) -> Iterator[str]:
    for excerpt in found.source:
        yield f"at {excerpt.place} in {excerpt.place.function}()" + (f": {excerpt.note}" if excerpt.note else "")
        for line in excerpt.lines:
            yield f"  {'>' if line.guilty else ' '} {line.number:5} | {line.text}"
    yield from _notes(found)


def _notes(found: Decoded) -> Iterator[str]:
    for note in found.notes:
        doubt = "" if note.certain or "perhaps" in note.text else "perhaps: "
        yield f"{note.subject}: {doubt}{note.text}"


def _doubts(found: Decoded) -> Iterator[str]:
    for reason in found.reasons:
        yield f"not decoded: {reason}"


def _titled(title: str, lines: list[str]) -> list[str]:
    return [title, *(f"  {line}" for line in lines)] if lines else []


def _frame(frame: DecodedFrame) -> Iterator[str]:
    name = f"{frame.function}+{frame.offset:#x}/{frame.size:#x}" if frame.size is not None else frame.function
    module = f" [{frame.module}]" if frame.module else ""
    if not frame.places:
        yield f"{name}{module}" + (f" ({frame.note})" if frame.note else "")
        return
    *inlined, own = frame.places
    for place in inlined:
        yield f"{place.function} {place} (inlined)"
    yield f"{name}{module} {own}"


def _instruction(one: Instruction) -> str:
    return f"{'=>' if one.guilty else '  '} {one.offset:+#7x}: {one.text}"
