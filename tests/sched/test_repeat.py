# SPDX-License-Identifier: Apache-2.0
"""Runs in real time weighed together: what fails, what only may have, and what the host did."""

from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernloop.sched import events
from kernloop.sched.repeat import interval, together


def result(figure: float, *, limit: float = 100, word: str = "", why: str = "") -> events.TestResult:
    word = word or ("pass" if figure <= limit else "fail")
    return events.TestResult(
        "idle", word == "pass", figure, limit, "ms", 1.0, why or (word if word != "pass" else ""), (), word
    )


def weigh(*tests: events.TestResult, starved: tuple[bool, ...] = ()) -> events.TestResult:
    [found] = together([[test] for test in tests], starved=starved or (False,) * len(tests))
    return found


def test_the_interval_is_students() -> None:
    # Of 1, 2, 3, 4, 5: mean 3, deviation 1.5811, t(4) = 2.776.
    found = interval([1, 2, 3, 4, 5])
    assert (found.mean, round(found.low, 3), round(found.high, 3)) == (3, 1.037, 4.963)
    assert interval([7.0]).low == -math.inf


@given(st.lists(st.floats(0, 1e6), min_size=2, max_size=60))
def test_the_mean_is_in_its_interval_whatever_was_measured(values: list[float]) -> None:
    found = interval(values)
    assert found.low <= statistics.fmean(values) <= found.high or statistics.stdev(values) == 0


@pytest.mark.parametrize(
    ("figures", "word"),
    [
        ([10, 12, 90], "pass"),  # each held its limit
        ([500, 510, 490], "fail"),
        ([500], "inconclusive"),  # one run shows little
        ([101, 20, 30], "inconclusive"),
        ([101, 150, 900], "inconclusive"),  # all beyond, but so far apart that the mean may be anywhere
        ([150, 151, 152, 149, 99], "fail"),  # four of five, and the interval is beyond
    ],
)
def test_a_figure_fails_only_where_its_interval_is_beyond_the_limit(figures: list[float], word: str) -> None:
    found = weigh(*(result(figure) for figure in figures))
    assert found.result == word, found.why
    assert found.ok is (word == "pass")
    assert found.figure == pytest.approx(statistics.fmean(figures))


def test_a_figure_that_may_not_be_too_small_fails_in_the_same_way() -> None:
    rates = [result(10, limit=50, word="fail"), result(11, limit=55, word="fail"), result(9, limit=50, word="fail")]
    assert weigh(*rates).result == "fail"
    assert (
        weigh(*rates[:1], result(60, limit=50, word="pass"), result(70, limit=50, word="pass")).result == "inconclusive"
    )


def test_what_fails_without_a_figure_fails_if_it_fails_every_time() -> None:
    lost = result(20, word="fail", why="a wake-up was lost")
    assert (weigh(lost, lost).result, weigh(lost, result(130), lost).result) == ("fail", "fail")
    sometimes = weigh(lost, result(20), lost)
    assert (sometimes.result, sometimes.why) == ("inconclusive", "failed in 2 of 3 runs: a wake-up was lost")


def test_a_run_that_the_host_starved_lays_no_blame() -> None:
    found = weigh(result(500), result(510), starved=(True, True))
    assert (found.result, found.why) == ("inconclusive", "the host starved the guest: fail")
    assert weigh(result(500), result(20), result(30), starved=(True, False, False)).result == "pass"
    assert weigh(result(500), result(510), result(505), starved=(True, False, False)).result == "fail"


def test_what_eevdf_fails_as_well_most_times_is_inconclusive_and_once_is_nothing() -> None:
    unclear = result(300, word="inconclusive", why="EEVDF fails as well")
    assert weigh(unclear, unclear, result(10)).result == "inconclusive"
    assert weigh(unclear, result(10), result(12)).result == "pass"
    skipped = result(0, word="skipped", why="not claimed")
    assert weigh(skipped, skipped).result == "skipped"
