# SPDX-License-Identifier: Apache-2.0
"""The search alone, over histories and symptoms that are made up."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from histories import BAD, GOOD, Fake, linear, search, searched, tangled
from kernloop.errors import HarnessError
from kernloop.git.history import History
from kernloop.git.search import DOUBT, Refused, Search
from kernloop.git.vote import Policy, Shot, Sign, Standing


def hidden(seed: int, parents: dict[str, tuple[str, ...]], shows: float, noise: float = 0.0) -> Fake:
    """A culprit somewhere, and 20 % of the other commits unbuildable; neither it nor its parents are."""
    chance = random.Random(f"{seed} hidden")
    culprit = chance.choice([name for name in parents if name != GOOD])
    spared = {culprit, *parents[culprit], GOOD, BAD}
    broken = frozenset(name for name in parents if name not in spared and chance.random() < 0.2)
    return Fake(parents, culprit, broken, shows, noise, seed)


@pytest.mark.parametrize("seed", range(20))
def test_a_symptom_in_half_of_the_runs_is_found_where_a_fifth_does_not_build(seed: int) -> None:
    probe = hidden(seed, linear(64), shows=0.5)
    answer = search(probe, probe.parents, Policy(runs=10))
    assert answer.candidates == (probe.culprit,)
    assert answer.doubt <= DOUBT


def test_so_it_is_in_a_hundred_tangled_histories_and_with_few_builds() -> None:
    right, commits = 0, 0
    for seed in range(100):
        probe = hidden(seed, tangled(64, seed), shows=0.5)
        right += search(probe, probe.parents, Policy(runs=10)).candidates == (probe.culprit,)
        commits += len(set(probe.asked))
    assert right == 100
    assert commits / 100 < 13


def test_too_few_runs_are_noticed_and_more_are_made() -> None:
    """3 runs miss a bad commit one time in eight: where the bad end shows it at all, the answer is still right."""
    right, refused = 0, 0
    for seed in range(100):
        probe = hidden(seed, linear(64), shows=0.5)
        try:
            right += search(probe, probe.parents, Policy(runs=3)).candidates == (probe.culprit,)
        except Refused:
            refused += 1
    assert right >= 99 - refused
    assert refused < 25


def test_a_good_commit_that_fails_now_and_then_is_good_by_the_share_of_its_runs() -> None:
    wrong = 0
    for seed in range(100):
        probe = hidden(seed, linear(64), shows=0.8, noise=0.1)
        answer = search(probe, probe.parents, Policy(runs=10, fail_if=5))
        wrong += answer.candidates != (probe.culprit,)
    assert wrong == 0


@given(st.integers(0, 10**6), st.integers(2, 40), st.booleans())
def test_every_commit_of_every_history_can_be_found(seed: int, count: int, flat: bool) -> None:
    parents = linear(count) if flat else tangled(count, seed)
    probe = Fake(parents, random.Random(seed).choice([name for name in parents if name != GOOD]))
    assert search(probe, parents).candidates == (probe.culprit,)


def test_no_commit_is_judged_more_often_than_its_verdict_needs() -> None:
    probe = Fake(linear(64), "c40")
    search(probe, probe.parents)
    # Both ends and six halvings; the answer and its parent stand for a second look.
    assert len(set(probe.asked)) <= 8
    assert {name: probe.asked.count(name) for name in ("c40", "c39", GOOD)} == {"c40": 4, "c39": 2, GOOD: 1}


def test_commits_that_do_not_build_leave_candidates() -> None:
    probe = Fake(linear(20), "c10", frozenset({"c8", "c9", "c11"}))
    assert search(probe, probe.parents).candidates == ("c8", "c9", "c10")
    probe = Fake(linear(20), "c10", frozenset(f"c{number}" for number in range(1, 20)))
    answer = search(probe, probe.parents)
    assert answer.candidates == (*(f"c{number}" for number in range(1, 20)), BAD)
    assert (answer.bad, answer.good) == (BAD, (GOOD,))


def test_a_culprit_whose_parent_does_not_build_is_no_single_answer() -> None:
    probe = Fake(linear(20), "c10", frozenset({"c9"}))
    assert search(probe, probe.parents).candidates == ("c9", "c10")


def test_the_search_keeps_away_from_commits_that_do_not_build() -> None:
    """A run of 24 that do not build, in the middle of 64, costs few builds."""
    probe = Fake(linear(64), "c60", frozenset(f"c{number}" for number in range(20, 44)))
    assert search(probe, probe.parents).candidates == ("c60",)
    assert len(set(probe.asked) & probe.broken) <= 5


def test_a_merge_that_broke_what_worked_on_both_sides_is_the_answer() -> None:
    parents = {GOOD: (), "a1": (GOOD,), "b1": (GOOD,), "a2": ("a1",), "b2": ("b1",), "m": ("a2", "b2"), BAD: ("m",)}
    assert search(Fake(parents, "m"), parents).candidates == ("m",)
    assert search(Fake(parents, "b1"), parents).candidates == ("b1",)


def test_criss_cross_merges() -> None:
    parents = {
        GOOD: (), "a1": (GOOD,), "b1": (GOOD,), "a2": ("a1", "b1"), "b2": ("b1", "a1"), "a3": ("a2", "b2"),
        "b3": ("b2", "a2"), BAD: ("a3", "b3"),
    }  # fmt: skip
    for culprit in parents:
        if culprit != GOOD:
            assert search(Fake(parents, culprit), parents).candidates == (culprit,)


def test_a_good_that_fails_and_a_bad_that_passes_are_refused() -> None:
    parents = linear(8)
    with pytest.raises(Refused, match="the good revision c0 shows the symptom"):
        search(lambda commit: Shot(Sign.SHOWN), parents)
    with pytest.raises(Refused, match="the bad revision end is not bad: 0 of 10 runs showed the symptom"):
        search(lambda commit: Shot(Sign.CLEAN), parents, Policy(10))
    with pytest.raises(Refused, match="the bad revision end cannot be judged: does not build"):
        search(Fake(parents, "c4", frozenset({BAD})), parents)


def test_a_merge_base_that_fails_is_refused_and_one_that_does_not_build_is_not() -> None:
    parents = linear(8)
    with pytest.raises(Refused, match="the merge base base shows the symptom"):
        search(lambda one: Shot(Sign.CLEAN if one == GOOD else Sign.SHOWN), parents, bases=["base"])
    probe = Fake(parents, "c4", frozenset({"base"}))
    assert search(probe, parents, bases=["base"]).candidates == ("c4",)


def test_a_good_end_that_was_lucky_is_found_out() -> None:
    """It shows the symptom in its second round: what was believed of it is taken back."""

    def probe(commit: str) -> Shot:
        asked.append(commit)
        return Shot(Sign.CLEAN if commit == GOOD and asked.count(GOOD) == 1 else Sign.SHOWN)

    asked: list[str] = []
    with pytest.raises(Refused, match="the good revision c0 is not good: 1 of 2 runs showed the symptom"):
        search(probe, linear(8))


def test_a_good_that_was_lucky_is_found_out_and_the_search_goes_on() -> None:
    right = Fake(linear(64), "c10")

    def probe(commit: str) -> Shot:
        shot = right(commit)
        return Shot(Sign.CLEAN) if commit == "c32" and right.asked.count(commit) == 1 else shot

    under_way = Search(searched(linear(64)), [GOOD], BAD, probe, Policy())
    assert under_way.run().candidates == ("c10",)
    assert under_way.tallies["c32"].standing is Standing.BAD


def test_where_the_parent_does_not_build_a_good_one_that_contains_it_is_judged_again() -> None:
    """x is bad because of p, which does not build; that p is good was believed because m, which contains it, was."""
    parents = {GOOD: (), "p": (GOOD,), "m": ("p",), "x": ("p",), BAD: ("m", "x")}
    right = Fake(parents, "p", frozenset({"p"}))

    def probe(commit: str) -> Shot:
        shot = right(commit)
        return Shot(Sign.CLEAN) if commit == "m" and right.asked.count(commit) == 1 else shot

    assert search(probe, parents).candidates == ("p", "m")


def test_three_commits_in_a_row_that_the_machine_fails_end_it() -> None:
    def probe(commit: str) -> Shot:
        ends = {GOOD: Sign.CLEAN, BAD: Sign.SHOWN}
        return Shot(ends[commit]) if commit in ends else Shot(Sign.UNJUDGED, "the disk is full", fault=True)

    with pytest.raises(HarnessError, match=r"3 commits in a row could not be judged.*: the disk is full") as caught:
        search(probe, linear(64))
    assert not isinstance(caught.value, Refused)


def test_a_fault_of_the_machine_now_and_then_changes_nothing() -> None:
    for seed in range(50):
        right, chance = Fake(linear(64), "c23"), random.Random(seed)

        def probe(commit: str, right: Fake = right, chance: random.Random = chance) -> Shot:
            fault = Shot(Sign.UNJUDGED, "lost", fault=True)
            return fault if chance.random() < 0.1 and commit not in (GOOD, BAD) else right(commit)

        assert "c23" in search(probe, linear(64)).candidates


def test_thirty_thousand_commits_take_a_second() -> None:
    parents = {f"c{n}": (f"c{n - 1}", *([f"c{n - 40}"] if n % 10 == 0 and n > 40 else [])) for n in range(1, 30_000)}
    history = History(parents)
    begun = time.process_time()
    assert history.middle(set(parents), parents, {"c15000"}) is not None
    assert time.process_time() - begun < 3


@given(st.integers(0, 10**6), st.integers(1, 30))
def test_what_is_asked_for_halves_best(seed: int, count: int) -> None:
    history = searched(tangled(count, seed))
    inside = set(history.parents)
    middle = history.middle(inside, inside, set())
    assert middle is not None

    def halves(commit: str) -> int:
        contained = len(history.ancestors(commit))
        return min(contained, len(inside) - contained)

    assert halves(middle) == max(map(halves, inside))
