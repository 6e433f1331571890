# SPDX-License-Identifier: Apache-2.0
"""Ties the rows of a skill's table of pitfalls to the tests that show them: no row without a test."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

from support import ROOT

__all__ = ["Pitfalls"]

F = TypeVar("F", bound=Callable[..., None])


class Pitfalls:
    """The pitfalls of `skill`; a test claims the row whose symptom contains its words."""

    def __init__(self, skill: str) -> None:
        text = (ROOT / "skills" / skill / "SKILL.md").read_text()
        table = text.partition("\n## Pitfalls\n")[2].partition("\n## ")[0]
        self.rows = re.findall(r"^\| (?!symptom|---)([^|]*) \|", table.replace("\\|", "¦"), re.M)
        self.claimed: dict[str, str] = {}

    def shown(self, words: str) -> Callable[[F], F]:
        """The test shows the row whose first cell has `words`."""

        def claim(test: F) -> F:
            rows = [row for row in self.rows if words in row]
            assert len(rows) == 1, f"{words!r} is in {len(rows)} rows"
            self.claimed[rows[0]] = test.__name__
            return test

        return claim

    def check(self) -> None:
        """Every row is shown by a test."""
        assert [row for row in self.rows if row not in self.claimed] == []
