# SPDX-License-Identifier: Apache-2.0
"""Places in the source: names relative to the kernel's tree, and the lines around the guilty one."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from ..frames import base_name
from .decoded import Excerpt, Location, SourceLine

__all__ = ["Tree"]

_BEFORE, _AFTER = 4, 3
# A function longer than this has its name further up than we look.
_MAX_FUNCTION = 1500
_MAX_FILE = 8 << 20
_SYSCALL = re.compile(r"^__(?:do|se|x64|ia32|arm64|riscv)_(?:compat_)?sys_")


class Tree:
    """Where source files are: in a tree that was named, or where the compiler read them.

    `known` is the place of a function that is in init/main.c: it tells the tree's own path from DWARF's.
    """

    def __init__(self, tree: Path | None, known: Iterable[Location], beside: Path | None) -> None:
        self._compiled = next((_parent(p.file, "init/main.c") for p in known if p.file.endswith("init/main.c")), "")
        candidates = [tree, Path(self._compiled) if self._compiled else None]
        if beside is not None:
            candidates += [beside, beside / "source"]
        self._roots = [root for root in candidates if root is not None]

    def relative(self, place: Location) -> Location:
        """The place with its file as seen from the kernel's tree, where it lies in it."""
        file = os.path.normpath(place.file)
        if self._compiled and file.startswith(self._compiled + "/"):
            file = file[len(self._compiled) + 1 :]
        return replace(place, file=file)

    def excerpt(self, place: Location, built: float | None = None) -> Excerpt:
        """The lines around `place`; `built` is when the kernel was, for a file that changed since."""
        path, text = None, None
        for candidate in self._candidates(place):
            text = _read(candidate)
            if text is not None:
                path = candidate
                break
        if path is None or text is None:
            return Excerpt(place, place.file, note=f"{place.file} is not here")
        if place.line > len(text):
            return Excerpt(place, str(path), note=f"{path} has only {len(text)} lines: it is another version")
        if place.line < 1:
            return Excerpt(place, str(path), note=f"code of {place.file} that no line of it stands for")
        first = max(0, place.line - 1 - _BEFORE)
        lines = tuple(
            SourceLine(number, line.rstrip().expandtabs(8), number == place.line)
            for number, line in enumerate(text[first : place.line + _AFTER], start=first + 1)
        )
        return Excerpt(place, str(path), lines, _doubt(path, text, place, built))

    def _candidates(self, place: Location) -> Iterator[Path]:
        file = Path(place.file)
        if file.is_absolute():
            yield file
        else:
            yield from (root / file for root in self._roots)


def _read(path: Path) -> tuple[str, ...] | None:
    try:
        if path.stat().st_size > _MAX_FILE:
            return None
        return tuple(path.read_text(errors="replace").splitlines())
    except OSError:
        return None


def _doubt(path: Path, text: tuple[str, ...], place: Location, built: float | None) -> str:
    name = _SYSCALL.sub("", base_name(place.function))
    above = text[max(0, place.line - _MAX_FUNCTION) : place.line]
    if not any(name in line for line in above):
        return f"{path} does not name {name} above line {place.line}: made by a macro, or another version of the file"
    try:
        if built is not None and path.stat().st_mtime > built:
            return f"{path} changed after the kernel was built: the line may be another now"
    except OSError:
        pass
    return ""


def _parent(file: str, name: str) -> str:
    return os.path.normpath(file[: -len(name)]) if file != name else ""
