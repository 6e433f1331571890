# SPDX-License-Identifier: Apache-2.0
"""Regular expressions that are compiled when they are first used: a console without a crash needs hardly any of them,
and all together take 100 ms, a third of the time in which a guest is restored."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

__all__ = ["Pattern"]

_METHODS = ("match", "search", "fullmatch", "findall", "finditer", "sub", "groupindex")


class Pattern:
    """As `re.Pattern`, of which it has what the parsers use; `text` is the expression, `flags` those of `re`."""

    if TYPE_CHECKING:

        def match(self, text: str, at: int = 0) -> re.Match[str] | None: ...
        def search(self, text: str, at: int = 0) -> re.Match[str] | None: ...
        def fullmatch(self, text: str) -> re.Match[str] | None: ...
        def findall(self, text: str) -> list[str]: ...
        def finditer(self, text: str) -> Iterator[re.Match[str]]: ...
        def sub(self, replacement: str, text: str) -> str: ...
        @property
        def groupindex(self) -> Mapping[str, int]: ...

    def __init__(self, text: str, flags: int = 0) -> None:
        self.text = text
        self.flags = flags

    # Called once: from then on the compiled pattern's own methods are attributes, with nothing in between.
    def __getattr__(self, name: str) -> Any:
        if name not in _METHODS:
            raise AttributeError(name)
        compiled = re.compile(self.text, self.flags)
        self.__dict__.update((method, getattr(compiled, method)) for method in _METHODS)
        return self.__dict__[name]
