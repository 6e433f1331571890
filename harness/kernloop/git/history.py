# SPDX-License-Identifier: Apache-2.0
"""The commits between good and bad as a graph, and which of them to test next.

The midpoints are computed here and not by `git bisect`, which keeps its state in files that a kill can leave half
written, cannot take a verdict back (a flaky symptom's "good" may turn out wrong), and jumps away from skipped commits
by chance. Here everything follows from the graph and the verdicts, so a resumed search asks the same questions. The
meaning of good, bad and skip is git's (git-bisect-lk2009, "Bisection algorithm in details"), so git, which is given the
log in the end, comes to the same answer.

>>> History({"a": (), "b": ("a",), "c": ("b",), "d": ("c",)}).middle({"a", "b", "c", "d"}, {"a", "b", "c"}, set())
'b'
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

__all__ = ["History"]


@dataclass(frozen=True)
class History:
    """Commits and their parents, parents first; a parent that is no key lies outside of what is searched."""

    parents: Mapping[str, tuple[str, ...]]

    def ancestors(self, commit: str) -> set[str]:
        """`commit` and all it contains, as far as that is inside."""
        found: set[str] = set()
        todo = [commit]
        while todo:
            one = todo.pop()
            if one in self.parents and one not in found:
                found.add(one)
                todo.extend(self.parents[one])
        return found

    def border(self, inside: set[str]) -> list[str]:
        """The parents of commits `inside` that are not inside, each once."""
        return list(
            dict.fromkeys(
                parent for commit in self.parents if commit in inside for parent in self.parents[commit]
                if parent not in inside
            )
        )  # fmt: skip

    def middle(self, candidates: set[str], untested: Iterable[str], skipped: set[str], reach: float = 1) -> str | None:
        """Which of `untested` halves `candidates` best, and lies well away from what is `skipped`; None: there is none.

        What does not build rarely stands alone: `reach` steps from a skipped commit a test is worth half.
        """
        weights = self._weights(candidates)
        near = self._distances(candidates, skipped & candidates)

        def worth(commit: str) -> float:
            halves = min(weights[commit], len(candidates) - weights[commit])
            return halves * (1 - 0.5 ** (near[commit] / reach)) if commit in near else halves

        open_ = set(untested)
        return max((commit for commit in self.parents if commit in open_), key=worth, default=None)

    # How many of `candidates` each of them contains, itself included. Sets are the bits of integers, dropped when the
    # last child has taken them: 100,000 commits of the kernel take two seconds and little memory.
    def _weights(self, candidates: set[str]) -> dict[str, int]:
        children = Counter(
            parent for commit in candidates for parent in set(self.parents[commit]) if parent in candidates
        )
        bits: dict[str, int] = {}
        weights = {}
        for number, commit in enumerate(one for one in self.parents if one in candidates):
            own = 1 << number
            for parent in set(self.parents[commit]) & candidates:
                own |= bits[parent]
                children[parent] -= 1
                if not children[parent]:
                    del bits[parent]
            weights[commit] = own.bit_count()
            if children[commit]:
                bits[commit] = own
        return weights

    # How many steps each of `candidates` is away from the nearest of `skipped`; what no step leads to is left out.
    def _distances(self, candidates: set[str], skipped: set[str]) -> dict[str, int]:
        beside: dict[str, list[str]] = {commit: [] for commit in candidates}
        for commit in candidates:
            for parent in self.parents[commit]:
                if parent in candidates:
                    beside[commit].append(parent)
                    beside[parent].append(commit)
        found = dict.fromkeys(skipped, 0)
        todo = deque(found)
        while todo:
            one = todo.popleft()
            for other in beside[one]:
                if other not in found:
                    found[other] = found[one] + 1
                    todo.append(other)
        return found
