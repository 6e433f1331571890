# SPDX-License-Identifier: Apache-2.0
"""Which of a kernel's many names was meant by one that it does not have."""

from __future__ import annotations

import difflib
import heapq
from collections.abc import Iterable

__all__ = ["nearest"]

# difflib looks at so many only: a kernel has 60,000 functions.
_CANDIDATES = 200


def nearest(wanted: str, names: Iterable[str], count: int = 4) -> tuple[str, ...]:
    """The `count` names most like `wanted`, the most alike first."""
    pieces = _pieces(wanted)

    def shared(name: str) -> float:
        other = _pieces(name)
        return len(pieces & other) / (len(pieces | other) or 1)

    likely = heapq.nlargest(_CANDIDATES, set(names), key=lambda name: (shared(name), name))
    return tuple(difflib.get_close_matches(wanted, [name for name in likely if shared(name)], count, 0.5))


def _pieces(name: str) -> set[str]:
    return {name[at : at + 3] for at in range(max(len(name) - 2, 1))}
