# SPDX-License-Identifier: Apache-2.0
"""From single runs to what a commit is: good, bad or not to be judged, when a symptom may show in some runs only.

A commit is bad when `fail_if` of `runs` runs show the symptom, good when that cannot happen any more. Runs that could
not be judged do not count; when they are the most of them, or the commit does not build, it is a skip. What has been
judged can be judged again by more rounds of runs, which add up:

- `fail_if` 1 says that a good commit never shows the symptom, so one sight of it is proof in any number of rounds;
- a higher one says that a good commit may show it by chance, so what counts is the share, `fail_if` in each `runs`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from math import comb, sqrt

from kernloop.errors import UsageError

__all__ = ["Policy", "Shot", "Sign", "Standing", "Tally", "doubt", "rate", "vote"]

_Z = 1.645


class Sign(StrEnum):
    """What one run says: the symptom, its absence, nothing this time, or nothing however often it is run."""

    SHOWN = "shown"
    CLEAN = "clean"
    UNJUDGED = "unjudged"
    UNTESTABLE = "untestable"


class Standing(StrEnum):
    """What a commit is, in git's words."""

    GOOD = "good"
    BAD = "bad"
    SKIP = "skip"


@dataclass(frozen=True)
class Shot:
    """One run, or the attempt at one. `fault`: kernloop or the machine failed. `kernel`: the digest of what ran."""

    sign: Sign
    why: str = ""
    evidence: str = ""
    fault: bool = False
    kernel: str = ""


@dataclass(frozen=True)
class Policy:
    """A commit is bad when `fail_if` of `runs` runs show the symptom. Raises UsageError for what cannot be."""

    runs: int = 1
    fail_if: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.fail_if <= self.runs:
            raise UsageError(
                f"{self.fail_if} of {self.runs} runs cannot fail", hint="--runs N --fail-if K, with 1 <= K <= N"
            )

    def threshold(self, rounds: int) -> int:
        """So many of `rounds` rounds of runs make a commit bad."""
        return 1 if self.fail_if == 1 else self.fail_if * rounds


@dataclass
class Tally:
    """The runs of one commit so far, and what they make it (None: not voted on yet). `stuck`: another round failed."""

    shots: list[Shot] = field(default_factory=list)
    rounds: int = 0
    standing: Standing | None = None
    stuck: bool = False

    def count(self, sign: Sign) -> int:
        return sum(shot.sign is sign for shot in self.shots)

    @property
    def judged(self) -> int:
        return self.count(Sign.SHOWN) + self.count(Sign.CLEAN)

    @property
    def faulty(self) -> bool:
        """Whether it is the machine's doing that the commit is a skip."""
        lost = [shot for shot in self.shots if shot.sign in (Sign.UNJUDGED, Sign.UNTESTABLE)]
        return self.standing is Standing.SKIP and all(shot.fault for shot in lost)

    @property
    def why(self) -> str:
        """The reason of the run that tells most about the standing."""
        telling = {
            Standing.BAD: (Sign.SHOWN,),
            Standing.GOOD: (Sign.CLEAN,),
            Standing.SKIP: (Sign.UNTESTABLE, Sign.UNJUDGED),
            None: tuple(Sign),
        }[self.standing]
        return next((shot.why for shot in reversed(self.shots) if shot.sign in telling and shot.why), "")


def vote(tally: Tally, policy: Policy, shoot: Callable[[], Shot], *, full: bool = False) -> Standing:
    """Run until one more round is decided, or with `full` until it is complete; the new standing.

    A commit that was judged before and cannot be judged now stays what it was.
    """
    before = tally.standing
    begun = len(tally.shots)
    goal, threshold = policy.runs * (tally.rounds + 1), policy.threshold(tally.rounds + 1)
    standing = None
    while standing is None:
        shown, clean = tally.count(Sign.SHOWN), tally.count(Sign.CLEAN)
        decided = shown >= threshold or clean > goal - threshold
        if shown + clean >= goal or (decided and not full):
            standing = Standing.BAD if shown >= threshold else Standing.GOOD
        elif _hopeless(tally.shots[begun:], policy):
            standing = Standing.SKIP
        else:
            tally.shots.append(shoot())
    if standing is Standing.SKIP and before is not None:
        tally.stuck = True
        return before
    tally.rounds += 1
    tally.standing = standing
    return standing


def rate(tallies: Iterable[Tally]) -> float:
    """In which share of its runs the symptom shows at least, from what bad commits did; 1 when they always showed it.

    The lower end of Wilson's interval (95 %, one-sided): bad commits that happened not to show it are not among them,
    so the mean is too high, and the more so the fewer the runs.
    """
    bad = [tally for tally in tallies if tally.standing is Standing.BAD]
    shown, judged = sum(tally.count(Sign.SHOWN) for tally in bad), sum(tally.judged for tally in bad)
    if shown == judged:
        return 1.0
    mean, spread = shown / judged, _Z**2 / judged
    return (mean + spread / 2 - sqrt(spread * (mean * (1 - mean) + spread / 4))) / (1 + spread)


def doubt(tally: Tally, policy: Policy, share: float) -> float:
    """How probable it is that a bad commit, showing the symptom in `share` of its runs, is taken for this good one."""
    runs, below = tally.judged, policy.threshold(tally.rounds)
    return sum(comb(runs, k) * share**k * (1 - share) ** (runs - k) for k in range(min(below, runs + 1)))


# A build that fails fails again. Other failures may pass: given up when they are the most of the runs, two at least.
def _hopeless(shots: list[Shot], policy: Policy) -> bool:
    lost = sum(shot.sign is Sign.UNJUDGED for shot in shots)
    return any(shot.sign is Sign.UNTESTABLE for shot in shots) or (
        lost >= 2 and (lost > len(shots) - lost or lost > policy.runs)
    )
