# SPDX-License-Identifier: Apache-2.0
"""The table of causes: data/verifier_causes.toml, which says of what it consists.

>>> releases("bpf_iter_num_new")
'bpf_iter_num_destroy()'
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal

__all__ = ["Cause", "Kind", "causes", "releases"]

Kind = Literal["verifier", "relocation", "btf", "complexity", "license", "other"]

_MACROS = {
    "%reg%": r"(?P<reg>R\d+)",
    "%arg%": r"(?:(?P<reg>R\d+)|args?#?(?P<arg>\d+))",
    "%nullable%": r"\w*_or_null\w*",
}
_GROUP = re.compile(r"\(\?P<(\w+)>")


@dataclass(frozen=True)
class Cause:
    """One row: what the verifier and libbpf call it, what it means, what to change."""

    id: str
    title: str
    kind: Kind
    text: str
    cure: str
    verifier: re.Pattern[str] | None
    libbpf: re.Pattern[str] | None

    @staticmethod
    def groups(match: re.Match[str]) -> dict[str, str]:
        """What the groups of a match have caught, by name."""
        return {name.rpartition("__")[0]: value for name, value in match.groupdict().items() if value}


@cache
def causes() -> tuple[Cause, ...]:
    """All rows, in the order in which they are tried."""
    return tuple(
        Cause(
            row["id"], row["title"], row["kind"], row["text"], row["cure"],
            _any(row.get("verifier", ())), _any(row.get("libbpf", ())),
        )
        for row in _table()["cause"]
    )  # fmt: skip


def releases(acquire: str) -> str:
    """What gives back what the function `acquire` takes; '' where that is not known."""
    for pattern, release in _table()["releases"].items():
        if match := re.fullmatch(pattern, acquire):
            return str(match.expand(release))
    return ""


@cache
def _table() -> dict[str, Any]:
    text = resources.files(__package__).joinpath("data/verifier_causes.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


# One expression of many: the same group may stand in several of them, so each name is numbered.
def _any(patterns: list[str] | tuple[str, ...]) -> re.Pattern[str] | None:
    parts = []
    for n, pattern in enumerate(patterns):
        for macro, meaning in _MACROS.items():
            pattern = pattern.replace(macro, meaning)
        parts.append(f"(?:{_GROUP.sub(lambda group, n=n: f'(?P<{group[1]}__{n}>', pattern)})")  # type: ignore[misc]
    return re.compile("|".join(parts), re.MULTILINE) if parts else None
