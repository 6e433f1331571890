# SPDX-License-Identifier: Apache-2.0
"""`git range-diff` read: what became of each patch from one version of a series to the next (range-diff.c, output)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

__all__ = ["Pair", "parse"]

_HEAD = re.compile(
    r"\s*(?P<n>\d+|-+):\s+(?P<old>[0-9a-f]+|-+)\s+(?P<sign>[=!<>])\s+(?P<m>\d+|-+):\s+(?P<new>[0-9a-f]+|-+)\s(?P<subject>.*)"
)
_STATES = {"=": "same", "!": "changed", "<": "dropped", ">": "added"}


@dataclass(frozen=True)
class Pair:
    """`state`: same, changed, dropped, added. Numbers count from 1, 0 where there is none; `diff` is one of diffs."""

    state: str
    subject: str
    old_number: int
    old: str
    new_number: int
    new: str
    diff: tuple[str, ...] = ()


def parse(lines: Iterable[str]) -> tuple[Pair, ...]:
    """In the order of the new version, as git tells it."""
    found: list[Pair] = []
    diff: list[str] = []

    def close() -> None:
        if found and diff:
            found[-1] = replace(found[-1], diff=tuple(diff))
        diff.clear()

    for line in lines:
        match = None if line.startswith("    ") else _HEAD.fullmatch(line)
        if not match:
            diff.append(line[4:])
            continue
        close()
        number = {key: int(match[key]) if match[key].isdigit() else 0 for key in ("n", "m")}
        commit = {key: match[key].strip("-") for key in ("old", "new")}
        state = _STATES[match["sign"]]
        found.append(Pair(state, match["subject"], number["n"], commit["old"], number["m"], commit["new"]))
    close()
    return tuple(found)
