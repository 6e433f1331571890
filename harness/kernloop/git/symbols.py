# SPDX-License-Identifier: Apache-2.0
"""Which of the symbols in which two configurations differ make a kernel fail: delta debugging.

The algorithm is ddmin (Zeller and Hildebrandt, "Simplifying and isolating failure-inducing input", 2002): from the good
configuration, with fewer and fewer symbols as in the bad one, as long as it fails. It asks nothing of the symbols: some
need others, and some mixes do not build, which counts as not failing. In the end no symbol can be left out.

Kconfig has the last word on each mix (`settle`): it drops what lacks a dependency and adds what is selected. Mixes that
come out the same are one and are judged once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from kernloop.errors import HarnessError
from kernloop.git.search import DOUBT, Refused
from kernloop.git.vote import Policy, Shot, Sign, Standing, Tally, doubt, rate, vote

__all__ = ["Culprit", "Mix", "SymbolSearch", "differing", "key", "mixed"]

Values = Mapping[str, str]
_FAULTS = 3
_ROUNDS = 6


@dataclass(frozen=True)
class Mix:
    """A configuration as Kconfig settled it: the good one with the symbols `taken` from the bad one."""

    taken: tuple[str, ...]
    values: Values

    @property
    def key(self) -> str:
        return key(self.values)


@dataclass(frozen=True)
class Culprit:
    """A symbol that makes the difference. `needed_by`: the others that Kconfig drops without it, if that is all."""

    symbol: str
    good: str
    bad: str
    needed_by: tuple[str, ...]
    without: Standing


class SymbolSearch:
    """A search under way; `tallies` has what was judged, by the mix's key, and `mixes` the mixes of these keys."""

    def __init__(
        self,
        good: Values,
        bad: Values,
        settle: Callable[[Values], Values],
        probe: Callable[[Mix], Shot],
        policy: Policy,
        *,
        on_step: Callable[[Mix, int], None] = lambda mix, left: None,
        on_judged: Callable[[Mix], None] = lambda mix: None,
    ) -> None:
        self.tallies: dict[str, Tally] = {}
        self.mixes: dict[str, Mix] = {}
        self._settle = settle
        self._probe = probe
        self._policy = policy
        self._on_step = on_step
        self._on_judged = on_judged
        self._settled: dict[tuple[str, ...], Mix] = {}
        self._faults = 0
        self._good, self._bad = settle(good), settle(bad)
        self.symbols = differing(self._good, self._bad)

    def run(self) -> tuple[Culprit, ...]:
        """The symbols, in the order of the configuration. Raises Refused, and HarnessError as the commits' search."""
        self._check_ends()
        found = self._fewest(self.symbols)
        while (fewer := self._again(found)) is not None:
            found = self._fewest(fewer)
        return tuple(self._culprit(symbol, found) for symbol in found)

    def mix(self, taken: Sequence[str]) -> Mix:
        """The good configuration with `taken` as in the bad one."""
        wanted = tuple(taken)
        if wanted not in self._settled:
            values = self._settle(mixed(self._good, self._bad, wanted)) if wanted else self._good
            self._settled[wanted] = Mix(wanted, self._bad if wanted == self.symbols else values)
        return self._settled[wanted]

    def tally(self, taken: Sequence[str]) -> Tally:
        """What is known of that mix."""
        return self.tallies.get(self.mix(taken).key, Tally())

    def _judge(self, taken: Sequence[str], *, full: bool = False, again: bool = False) -> Standing:
        mix = self.mix(taken)
        tally = self.tallies.setdefault(mix.key, Tally())
        self.mixes.setdefault(mix.key, mix)
        if tally.standing is not None and not again:
            return tally.standing
        self._on_step(mix, len(taken))
        standing = vote(tally, self._policy, lambda: self._probe(mix), full=full)
        while self._soft(tally):
            standing = vote(tally, self._policy, lambda: self._probe(mix))
        self._on_judged(mix)
        self._faults = self._faults + 1 if tally.faulty else 0
        if self._faults >= _FAULTS:
            raise HarnessError(
                f"{_FAULTS} configurations in a row could not be judged, by no fault of theirs: {tally.why}",
                hint="cure that, then resume",
            )
        return standing

    def _soft(self, tally: Tally) -> bool:
        share = rate(self.tallies.values())
        fresh = tally.standing is Standing.GOOD and not tally.stuck and tally.rounds < _ROUNDS
        return fresh and doubt(tally, self._policy, share) > DOUBT

    def _check_ends(self) -> None:
        if not self.symbols:
            raise Refused("Kconfig makes the same of both configurations", commit="", hint="are they of this tree?")
        for taken, end, wanted, other in (
            (self.symbols, "bad", Standing.BAD, "does not show the symptom"),
            ((), "good", Standing.GOOD, "shows the symptom"),
        ):
            standing = self._judge(taken, full=wanted is Standing.BAD and self._policy.runs > 1)
            tally = self.tally(taken)
            if standing is Standing.SKIP and tally.faulty:
                raise HarnessError(
                    f"the {end} configuration cannot be judged: {tally.why}", hint="cure it, then resume"
                )
            if standing is not wanted:
                what = other if standing is not Standing.SKIP else "cannot be judged"
                raise Refused(
                    f"the {end} configuration {what}: {tally.count(Sign.SHOWN)} of {tally.judged} runs; {tally.why}",
                    commit="",
                    hint="the tree, the command or the configuration is another than when it was seen",
                )

    # ddmin: halves first, then smaller parts and what is left without them.
    def _fewest(self, taken: Sequence[str]) -> tuple[str, ...]:
        found, parts = tuple(taken), 2
        while len(found) > 1:
            chunks = _split(found, parts)
            rests = [tuple(one for one in found if one not in chunk) for chunk in chunks] if parts > 2 else []
            chunk = next((chunk for chunk in chunks if self._fails(chunk)), None)
            rest = next((rest for rest in rests if self._fails(rest)), None) if chunk is None else None
            if chunk is not None:
                found, parts = chunk, 2
            elif rest is not None:
                found, parts = rest, max(parts - 1, 2)
            elif parts < len(found):
                parts = min(2 * parts, len(found))
            else:
                break
        return found

    def _fails(self, taken: Sequence[str]) -> bool:
        return self._judge(taken) is Standing.BAD

    # What it all rests on, judged a second time: a set that fails and is smaller, if a pass was luck.
    def _again(self, found: tuple[str, ...]) -> tuple[str, ...] | None:
        for symbol in found if len(found) > 1 else ():
            rest = tuple(one for one in found if one != symbol)
            tally = self.tally(rest)
            if tally.standing is Standing.GOOD and tally.rounds < 2 and not tally.stuck:
                self._judge(rest, again=True)
            if self._fails(rest):
                return rest
        return None

    def _culprit(self, symbol: str, found: tuple[str, ...]) -> Culprit:
        rest = tuple(one for one in found if one != symbol)
        values, whole = self.mix(rest).values, self.mix(found).values
        lost = tuple(one for one in rest if values.get(one, "n") != whole.get(one, "n"))
        good, bad = self._good.get(symbol, "n"), self._bad.get(symbol, "n")
        return Culprit(symbol, good, bad, lost, self._judge(rest))


def key(values: Values) -> str:
    """A configuration's name: the same for the same symbols and values."""
    return hashlib.sha256(json.dumps(sorted(values.items())).encode()).hexdigest()[:16]


def differing(good: Values, bad: Values) -> tuple[str, ...]:
    """The symbols with different values, in the order of the configurations: those of one menu stand together."""
    order = dict.fromkeys([*bad, *good])
    return tuple(symbol for symbol in order if good.get(symbol, "n") != bad.get(symbol, "n"))


def mixed(good: Values, bad: Values, taken: Sequence[str]) -> dict[str, str]:
    """`good` with the symbols `taken` as in `bad`; "n" is said, for a symbol that is left out gets its default."""
    return {**good, **{symbol: bad.get(symbol, "n") for symbol in taken}}


def _split(items: tuple[str, ...], parts: int) -> list[tuple[str, ...]]:
    ends = [len(items) * part // parts for part in range(parts + 1)]
    return [items[begin:end] for begin, end in pairwise(ends) if begin < end]
