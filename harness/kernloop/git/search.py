# SPDX-License-Identifier: Apache-2.0
"""The search for the first bad commit: which commit to judge next, and when the answer is to be believed.

It asks a `probe` for single runs, one at a time, and depends on nothing else: given the same answers it asks the same
questions. That is how an interrupted search is resumed, and how tests search thousands of histories in seconds.

A flaky symptom makes a bad commit look good now and then. Such a mistake ends the search at a commit too late, and
one of that commit's parents is bad. So in the end the commit found is judged again, and so are its parents, with as
many further runs as it takes until all of them being bad is improbable, given how often bad commits showed the symptom.
Who contradicts what was believed before wins, and the search goes on from there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import ceil, log2
from typing import NoReturn

from kernloop.errors import HarnessError, SubjectError
from kernloop.git.history import History
from kernloop.git.vote import Policy, Shot, Sign, Standing, Tally, doubt, rate, vote

__all__ = ["DOUBT", "Answer", "Probe", "Refused", "Search"]

Probe = Callable[[str], Shot]

# A good commit that the answer rests on has at most this chance of being bad, and one on the way there that one: with
# fewer --runs than the symptom asks for, as bad commits tell how often it shows, a good one is given more.
DOUBT = 0.01
_MISS = 0.05
# Rounds of runs that one commit gets at most, and runs at least before these rounds count.
_ROUNDS = 4
_RUNS = 60
# Runs that the bad commit found gets again, at least: that it failed once, and so was chosen, tells no rate.
_AGAIN = 3
# So many commits in a row that the machine kept from being judged are the machine's end, not the commits'.
_FAULTS = 3


class Refused(SubjectError):
    """What was said of good and bad is not so: there is nothing to search. `commit` is the one that contradicts."""

    verdict = "rejected"

    def __init__(self, message: str, *, commit: str, hint: str) -> None:
        super().__init__(message, hint=hint)
        self.commit = commit


@dataclass(frozen=True)
class Answer:
    """`candidates`: one of these, in history's order, is the first bad commit; one alone is it. `bad`: the one of them
    that was seen to be bad; `good`: those seen to be good right before. At least a `share` of the runs of bad commits
    shows the symptom; `doubt`: the chance that one of the `good` is bad all the same."""

    candidates: tuple[str, ...]
    bad: str
    good: tuple[str, ...]
    share: float
    doubt: float


class Search:
    """A search under way. `tallies` holds all that was judged, in order; `goods` and `bad` are the ends as given.

    `bases` are to be judged first: what good and bad have in common where one does not contain the other. `on_step` is
    told of each commit before it is judged, and about how many more will be; `on_judged` after it.
    """

    def __init__(
        self,
        history: History,
        goods: Iterable[str],
        bad: str,
        probe: Probe,
        policy: Policy,
        *,
        bases: Iterable[str] = (),
        name: Callable[[str], str] = lambda commit: commit[:12],
        on_step: Callable[[str, int], None] = lambda commit, left: None,
        on_judged: Callable[[str], None] = lambda commit: None,
    ) -> None:
        self.history = history
        self.goods = tuple(goods)
        self.bad = bad
        self.policy = policy
        self.tallies: dict[str, Tally] = {}
        self._bases = tuple(bases)
        self._probe = probe
        self._name = name
        self._on_step = on_step
        self._on_judged = on_judged
        self._faults = 0
        self._skips = 0

    def run(self) -> Answer:
        """The answer. Raises Refused, and HarnessError when the machine fails time and again."""
        self._check_ends()
        while True:
            candidates = self.candidates()
            skipped = {commit for commit in candidates if self._standing(commit) is Standing.SKIP}
            untested = {commit for commit in candidates if self._standing(commit) is None}
            # One that does not build may stand alone; the more in a row, the longer such a stretch must be.
            following = self.history.middle(candidates, untested, skipped, 2 ** max(self._skips - 1, 0))
            if following is not None:
                self._judge(following, left=_left(len(candidates)) - 1)
            elif self._confirmed(candidates):
                return self._answer(candidates)

    def candidates(self) -> set[str]:
        """The commits that can be the first bad one, by what is known now; `earliest_bad` is one of them."""
        return self._before(self.earliest_bad())

    def earliest_bad(self) -> str:
        """The bad commit that leaves the fewest candidates: as for git, the search goes on below one."""
        bad = [commit for commit in self.history.parents if self._standing(commit) is Standing.BAD]
        if not bad:
            self._refuse_bad()
        return min(bad, key=lambda commit: len(self._before(commit)))

    def believed_good(self) -> list[str]:
        """The commits judged good, without those that contain a bad one: there a symptom was missed."""
        bad = {commit for commit in self.tallies if self._standing(commit) is Standing.BAD}
        return [
            commit
            for commit in self.tallies
            if self._standing(commit) is Standing.GOOD and not bad & self.history.ancestors(commit)
        ]

    def _before(self, bad: str) -> set[str]:
        return self.history.ancestors(bad).difference(*map(self.history.ancestors, self.believed_good()))

    def _standing(self, commit: str) -> Standing | None:
        tally = self.tallies.get(commit)
        return tally.standing if tally else None

    # One more round of runs for a commit.
    def _judge(self, commit: str, *, left: int, full: bool = False) -> Standing:
        self._on_step(commit, left)
        tally = self.tallies.setdefault(commit, Tally())
        standing = vote(tally, self.policy, lambda: self._probe(commit), full=full)
        while self._soft(tally, _MISS):
            standing = vote(tally, self.policy, lambda: self._probe(commit))
        self._faults = self._faults + 1 if tally.faulty else 0
        self._skips = self._skips + 1 if standing is Standing.SKIP else 0
        self._on_judged(commit)
        if self._faults >= _FAULTS:
            raise HarnessError(
                f"{_FAULTS} commits in a row could not be judged, by no fault of theirs: {tally.why}",
                hint="cure that, then resume",
            )
        return standing

    def _check_ends(self) -> None:
        left = _left(len(self.history.parents)) + len(self.goods) + len(self._bases)
        # In full: how often it shows the symptom tells what a pass is worth.
        if self._must_be_judged(self.bad, "bad", left, full=True) is not Standing.BAD:
            self._refuse_bad()
        for good in self.goods:
            left -= 1
            if self._must_be_judged(good, "good", left) is Standing.BAD:
                why = self.tallies[good].why
                raise Refused(
                    f"the good revision {self._name(good)} shows the symptom: {why}",
                    commit=good,
                    hint="name an older one, or a --signature if this is another failure",
                )
        for base in self._bases:
            left -= 1
            if base not in self.tallies and self._judge(base, left=left) is Standing.BAD:
                raise Refused(
                    f"the merge base {self._name(base)} shows the symptom: it was fixed on the way to the good one",
                    commit=base,
                    hint="name a good revision that the bad one contains",
                )

    def _must_be_judged(self, commit: str, end: str, left: int, *, full: bool = False) -> Standing:
        standing = self._judge(commit, left=left, full=full and self.policy.runs > 1)
        if standing is Standing.SKIP:
            tally = self.tallies[commit]
            message = f"the {end} revision {self._name(commit)} cannot be judged: {tally.why}"
            if tally.faulty:
                raise HarnessError(message, hint="cure that, then resume")
            raise Refused(message, commit=commit, hint="name another revision near it")
        return standing

    # Whether all that the answer rests on was judged again and stands. False: something changed, search on.
    def _confirmed(self, candidates: set[str]) -> bool:
        bad = self.earliest_bad()
        while self._owes_a_round(bad):
            if self._judge(bad, left=1, full=True) is not Standing.BAD:
                return False
        for commit in self._grounds(candidates):
            while self._owes_a_round(commit):
                standing = self._judge(commit, left=1)
                if standing is Standing.BAD:
                    self._refuse_outside(commit)
                if standing is not Standing.GOOD:
                    return False
        return True

    # Each is judged twice, a bad one by some runs, and a good one until it is hardly in doubt.
    def _owes_a_round(self, commit: str) -> bool:
        tally = self.tallies.get(commit)
        if tally is None:
            return True
        again = ceil(_AGAIN / self.policy.runs) if tally.standing is Standing.BAD else 1
        return (tally.rounds < 1 + again and not tally.stuck) or self._soft(tally, DOUBT)

    # Whether more runs are due for a commit that is taken for good.
    def _soft(self, tally: Tally, limit: float) -> bool:
        return (
            tally.standing is Standing.GOOD
            and not tally.stuck
            and tally.rounds < max(_ROUNDS, ceil(_RUNS / self.policy.runs))
            and doubt(tally, self.policy, self._share()) > limit
        )

    # The commits whose being good makes `candidates` all that is left: each parent at the border, or if that cannot be
    # judged (or is not worth a build, as where the answer is not one commit) a good one that contains it.
    def _grounds(self, candidates: set[str]) -> list[str]:
        believed = self.believed_good()
        grounds: dict[str, None] = {}
        for parent in self.history.border(candidates):
            standing = self._standing(parent)
            if standing is Standing.GOOD or (standing is None and len(candidates) == 1):
                grounds[parent] = None
            elif parent in self.history.parents:
                containing = (good for good in believed if parent in self.history.ancestors(good))
                grounds.update(dict.fromkeys(list(containing)[:1]))
            else:
                grounds.update(dict.fromkeys(self.goods))
        return list(grounds)

    def _share(self) -> float:
        return rate(self.tallies.values())

    def _refuse_bad(self) -> NoReturn:
        raise Refused(
            f"the bad revision {self._name(self.bad)} is not bad: {self._runs(self.bad)} showed the symptom",
            commit=self.bad,
            hint="run the command on it by hand; where the symptom comes seldom, more --runs",
        )

    # What lies outside is contained in a good end: then nothing inside explains what is seen.
    def _refuse_outside(self, commit: str) -> None:
        if commit in self.history.parents:
            return
        what = "the good revision" if commit in self.goods else "a revision that the good one contains,"
        raise Refused(
            f"{what} {self._name(commit)} is not good: {self._runs(commit)} showed the symptom: "
            + self.tallies[commit].why,
            commit=commit,
            hint="name an older good revision; where the symptom comes seldom, more --runs",
        )

    def _answer(self, candidates: set[str]) -> Answer:
        share = self._share()
        grounds = self._grounds(candidates)
        doubts = [doubt(self.tallies[commit], self.policy, share) for commit in grounds if commit in self.tallies]
        return Answer(
            tuple(commit for commit in self.history.parents if commit in candidates),
            self.earliest_bad(),
            tuple(grounds),
            share,
            max(doubts, default=0.0),
        )

    def _runs(self, commit: str) -> str:
        tally = self.tallies[commit]
        return f"{tally.count(Sign.SHOWN)} of {tally.judged} runs"


# About how many steps it takes to find one of `count` commits, and to judge it and its parent again.
def _left(count: int) -> int:
    return ceil(log2(count)) + 2
