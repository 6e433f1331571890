# SPDX-License-Identifier: Apache-2.0
"""The search for symbols, over a Kconfig that is made up."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

import pytest

from kernloop.git.search import Refused
from kernloop.git.symbols import Culprit, Mix, SymbolSearch, differing
from kernloop.git.vote import Policy, Shot, Sign, Standing

NAMES = [f"S{number}" for number in range(200)]
GOOD = {**dict.fromkeys(NAMES[:120], "y"), "HZ": "250", "FIXED": "y"}
BAD = {**dict.fromkeys(NAMES[60:], "y"), "HZ": "1000", "FIXED": "y"}
Values = Mapping[str, str]


def settle(needs: Mapping[str, str]) -> Callable[[Values], Values]:
    """A Kconfig in which each symbol of `needs` depends on another."""

    def settled(values: Values) -> Values:
        kept = {name: value for name, value in values.items() if value != "n"}
        while dropped := [name for name in kept if name in needs and needs[name] not in kept]:
            for name in dropped:
                del kept[name]
        return kept

    return settled


def search(
    fails: Callable[[Values], bool],
    needs: Mapping[str, str] | None = None,
    broken: Callable[[Values], bool] = lambda values: False,
    policy: Policy | None = None,
    shows: float = 1.0,
    seed: int = 0,
) -> tuple[tuple[Culprit, ...], list[str]]:
    chance, asked = random.Random(seed), []

    def probe(mix: Mix) -> Shot:
        asked.append(mix.key)
        if broken(mix.values):
            return Shot(Sign.UNTESTABLE, "does not build")
        return Shot(Sign.SHOWN if fails(mix.values) and chance.random() < shows else Sign.CLEAN)

    return SymbolSearch(GOOD, BAD, settle(needs or {}), probe, policy or Policy()).run(), asked


def names(found: tuple[Culprit, ...]) -> list[str]:
    return [culprit.symbol for culprit in found]


def test_one_symbol_of_many_is_found_with_few_builds() -> None:
    assert len(differing(GOOD, BAD)) == 141
    for symbol in ("S130", "S199", "S121", "HZ"):
        value = BAD[symbol]
        found, asked = search(lambda values, symbol=symbol, value=value: values.get(symbol) == value)  # type: ignore[misc]
        assert names(found) == [symbol]
        assert len(set(asked)) <= 18


def test_a_symbol_that_is_off_can_be_the_one() -> None:
    found, _ = search(lambda values: "S7" not in values)
    assert found == (Culprit("S7", "y", "n", (), Standing.GOOD),)


def test_two_that_only_fail_together_are_both_found() -> None:
    found, _ = search(lambda values: "S122" in values and "S190" in values)
    assert names(found) == ["S122", "S190"]
    assert [culprit.needed_by for culprit in found] == [(), ()]


def test_what_the_symbol_depends_on_is_found_with_it_and_told_apart() -> None:
    """S150 depends on S180, which on S130: without these Kconfig drops it."""
    found, _ = search(lambda values: "S150" in values, needs={"S150": "S180", "S180": "S130"})
    assert {culprit.symbol: culprit.needed_by for culprit in found} == {
        "S150": (), "S180": ("S150",), "S130": ("S150", "S180"),
    }  # fmt: skip


def test_mixes_that_do_not_build_are_skipped() -> None:
    """Any mix with just one of two symbols does not build."""
    found, _ = search(lambda values: "S160" in values, broken=lambda values: ("S160" in values) != ("S185" in values))
    assert names(found) == ["S160", "S185"]
    assert {culprit.without for culprit in found} == {Standing.SKIP}


def test_a_mix_that_comes_out_the_same_is_judged_once() -> None:
    found, asked = search(lambda values: "S150" in values, needs=dict.fromkeys(NAMES[121:150], "NONE"))
    assert names(found) == ["S150"]
    assert max(map(asked.count, asked)) <= 2


@pytest.mark.parametrize("seed", range(20))
def test_a_flaky_symptom_is_voted(seed: int) -> None:
    symbol = random.Random(seed).choice(NAMES[120:])
    found, _ = search(lambda values: symbol in values, policy=Policy(10), shows=0.5, seed=seed)
    assert names(found) == [symbol]


def test_a_good_that_fails_a_bad_that_passes_and_no_difference_are_refused() -> None:
    with pytest.raises(Refused, match="the bad configuration does not show the symptom"):
        search(lambda values: False)
    with pytest.raises(Refused, match="the good configuration shows the symptom"):
        search(lambda values: True)
    with pytest.raises(Refused, match=r"the bad configuration cannot be judged: .*does not build"):
        search(lambda values: True, broken=lambda values: True)
    with pytest.raises(Refused, match="Kconfig makes the same of both"):
        SymbolSearch(GOOD, dict(GOOD), settle({}), lambda mix: Shot(Sign.CLEAN), Policy()).run()
