# SPDX-License-Identifier: Apache-2.0
"""What a kernel with its debugging information tells of a crash: `Decoded`, frozen and without an open file."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Decoded", "DecodedFrame", "Excerpt", "Instruction", "Location", "Note", "SourceLine"]


@dataclass(frozen=True)
class Location:
    """A place in the source; `file` is relative to the kernel's tree where it lies in it, `line` counts from 1."""

    function: str
    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True)
class DecodedFrame:
    """One frame of the report. `places` go from the innermost inlined function to the one that `function` names.

    `exact`: the instruction itself (of RIP, or an interrupted one), not the one behind a call. `note` says why there
    are no places, or what is doubtful about them.
    """

    function: str
    offset: int | None
    size: int | None
    module: str | None
    reliable: bool
    exact: bool
    places: tuple[Location, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class SourceLine:
    number: int
    text: str
    guilty: bool = False


@dataclass(frozen=True)
class Excerpt:
    """The source around a place; without lines, `note` says why."""

    place: Location
    path: str
    lines: tuple[SourceLine, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Instruction:
    """One instruction of the Code: line; `offset` is that in `function`, or else from the faulting instruction."""

    offset: int
    encoded: str
    text: str
    guilty: bool = False


@dataclass(frozen=True)
class Note:
    """What a register's value, or the faulting address, means. `certain` is false for a candidate."""

    subject: str
    value: int
    text: str
    certain: bool = True


@dataclass(frozen=True)
class Decoded:
    """`guilty` is the line to look at first; `reasons` say what could not be decoded, and why."""

    frames: tuple[DecodedFrame, ...] = ()
    guilty: Location | None = None
    source: tuple[Excerpt, ...] = ()
    code: tuple[Instruction, ...] = ()
    notes: tuple[Note, ...] = ()
    reasons: tuple[str, ...] = ()
