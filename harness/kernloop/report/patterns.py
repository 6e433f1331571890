# SPDX-License-Identifier: Apache-2.0
"""Regular expressions that are compiled when they are first used: a console without a crash needs hardly any of them,
and all together take 30 ms, a tenth of the time in which a guest is restored."""

from __future__ import annotations

import re
from functools import cached_property

__all__ = ["Pattern"]


class Pattern:
    """As `re.Pattern`, of which it has what the parsers use."""

    def __init__(self, text: str, flags: int = 0) -> None:
        self._text = text
        self._flags = flags

    @cached_property
    def _compiled(self) -> re.Pattern[str]:
        return re.compile(self._text, self._flags)

    def match(self, text: str) -> re.Match[str] | None:
        return self._compiled.match(text)

    def search(self, text: str) -> re.Match[str] | None:
        return self._compiled.search(text)

    def sub(self, replacement: str, text: str) -> str:
        return self._compiled.sub(replacement, text)
