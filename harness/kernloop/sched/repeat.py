# SPDX-License-Identifier: Apache-2.0
"""Several runs of one suite in real time weighed together: a test fails only where chance is no explanation.

In virtual time one run is as good as a hundred. In real time each differs, so a figure beyond its limit counts only
when the interval that holds its mean with 95 % confidence lies beyond the limit as a whole.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from kernloop.sched.events import TestResult

__all__ = ["Interval", "interval", "together"]

# Two-sided 95 % quantiles of Student's t for 1, 2, ... degrees of freedom; beyond, those of the normal distribution
# are less than 2.5 % off.
_T95 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131),
    *(2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
_NORMAL95 = 1.960


@dataclass(frozen=True)
class Interval:
    """The mean of a sample, and where that of all runs is, with 95 % confidence."""

    mean: float
    low: float
    high: float

    def excludes(self, value: float) -> bool:
        return not self.low <= value <= self.high


def interval(values: Sequence[float]) -> Interval:
    """Of one value alone nothing is known: it may be anywhere."""
    mean = statistics.fmean(values)
    free = len(values) - 1
    if free == 0:
        return Interval(mean, -math.inf, math.inf)
    quantile = _T95[free - 1] if free <= len(_T95) else _NORMAL95
    half = quantile * statistics.stdev(values) / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half)


def together(runs: Sequence[Sequence[TestResult]], *, starved: Sequence[bool]) -> tuple[TestResult, ...]:
    """One result for each test of `runs`. What failed in a run that the host starved is not the scheduler's failure."""
    names = list(dict.fromkeys(test.name for run in runs for test in run))
    found = []
    for name in names:
        of_name = [
            replace(test, ok=False, result="inconclusive", why=f"the host starved the guest: {test.why}")
            if poor and test.result == "fail"
            else test
            for run, poor in zip(runs, starved, strict=True)
            for test in run
            if test.name == name
        ]
        found.append(_weigh(of_name, len(runs)))
    return tuple(found)


def _weigh(tests: Sequence[TestResult], runs: int) -> TestResult:
    passed, failed, unclear = ([test for test in tests if test.result == word] for word in _WORDS)
    judged = [*passed, *failed]
    if not judged:
        return unclear[0] if unclear else tests[0]
    seen = interval([test.figure for test in judged])
    limit = statistics.fmean(test.limit for test in judged)
    base = replace(
        judged[0],
        figure=seen.mean,
        limit=limit,
        seconds=sum(test.seconds for test in tests),
        ok=True,
        result="pass",
        why="",
        detail=_detail(judged, seen, runs),
    )
    if failed:
        why = _blames(passed, failed)
        verdict, text = ("fail", failed[0].why) if why is None else ("inconclusive", why)
        return replace(base, ok=False, result=verdict, why=text)
    if len(passed) <= len(unclear):
        return replace(base, ok=False, result="inconclusive", why=unclear[0].why)
    return base


_WORDS = ("pass", "fail", "inconclusive")


# None when the failures are the scheduler's beyond doubt, else what speaks against it.
def _blames(passed: Sequence[TestResult], failed: Sequence[TestResult]) -> str | None:
    total = len(passed) + len(failed)
    often = f"failed in {len(failed)} of {total} runs: {failed[0].why}"
    beyond = {test.figure > test.limit for test in failed}
    # Where a figure of the same side passes, something else than the figure has failed.
    if len(beyond) == 1 and all((test.figure > test.limit) not in beyond for test in passed):
        # Of limits that EEVDF's figure sets, each run has its own: what is weighed is how far beyond it the figure is.
        ratio = interval([test.figure / test.limit if test.limit else math.inf for test in (*passed, *failed)])
        if total > 1 and ratio.excludes(1):
            return None
        if total == 1:
            return f"{often}; one run shows little, give it --repeat 5"
        return f"{often}; 95 % of confidence: {ratio.low:.2g} to {ratio.high:.2g} of the limit"
    return None if len(failed) > 1 and not passed else often


def _detail(tests: Sequence[TestResult], seen: Interval, runs: int) -> tuple[tuple[str, float], ...]:
    pairs = [("runs", float(runs)), ("worst", max(test.figure for test in tests))]
    if len(tests) > 1:
        # No figure of a test is below 0.
        pairs += [("mean_low_95", round(max(seen.low, 0), 6)), ("mean_high_95", round(seen.high, 6))]
    return (*tests[0].detail, *pairs)
