# SPDX-License-Identifier: Apache-2.0
"""`verify --time real`: the same suite on the host's clock, several times, and how much the host took away from it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kernloop.runs import Run
from kernloop.sched import repeat
from kernloop.sched.events import TestResult
from kernloop.sched.judge import Judgement
from kernloop.sched.verify import Made, Request, make, start
from kernloop.verdict import Evidence, Outcome, Verdict, worst

__all__ = ["Repetition", "Several", "execute"]

# Of the time that QEMU's threads wanted to run: more than this waited for, and latencies are the host's.
_STARVED = 0.1
# What the kernel itself, or the scheduler's own end, says stands however often it comes.
_JUDGED_BY_TESTS = frozenset({Verdict.PASS, Verdict.TEST_FAILED, Verdict.INCONCLUSIVE})


@dataclass(frozen=True)
class Repetition:
    """`folder` is in the run directory. `waited` is the share of QEMU's time that it waited for the host's CPUs."""

    folder: str
    verdict: Verdict
    summary: str
    accelerator: str
    run_seconds: float
    wait_seconds: float

    @property
    def waited(self) -> float:
        whole = self.run_seconds + self.wait_seconds
        return self.wait_seconds / whole if whole else 0.0


@dataclass(frozen=True)
class Several:
    """The judgement on all repetitions together."""

    judgement: Judgement
    repetitions: tuple[Repetition, ...] = ()


def execute(
    request: Request,
    run: Run,
    times: int,
    *,
    say: Callable[[str], None],
    on_event: Callable[[dict[str, Any]], None],
) -> Several:
    """Build once, run `times` times, each with its evidence in a folder of its own. Raises HarnessError."""
    made = make(request, run, say=say)
    if isinstance(made, Judgement):
        return Several(made)
    done: list[tuple[Repetition, Judgement]] = []
    for number in range(1, times + 1):
        say(f"run {number} of {times} of {made.kernel.release} in real time ({made.guest.spec.accelerator})")
        one = _once(request, made, run, number, on_event)
        done.append(one)
        if one[1].outcome.verdict not in _JUDGED_BY_TESTS:
            break
    return Several(_judge(done, run), tuple(repetition for repetition, _ in done))


def _once(
    request: Request, made: Made, run: Run, number: int, on_event: Callable[[dict[str, Any]], None]
) -> tuple[Repetition, Judgement]:
    folder = run.path / f"run-{number}"
    folder.mkdir()
    meter = _Meter()

    def heard(event: dict[str, Any]) -> None:
        meter.look()
        on_event(event)

    judgement = start(request, made, Run(folder), on_event=heard, on_guest=meter.begin)
    outcome = judgement.outcome
    evidence = tuple(replace(item, path=f"{folder.name}/{item.path}") for item in outcome.evidence)
    core = outcome.vmcore
    if core is not None and core.path:
        core = replace(core, path=f"{folder.name}/{core.path}")
    judgement = replace(judgement, outcome=replace(outcome, evidence=evidence, vmcore=core))
    repetition = Repetition(
        folder.name, outcome.verdict, outcome.summary, made.guest.spec.accelerator, *meter.seconds()
    )
    run.note("repetition", number=number, verdict=outcome.verdict, waited=round(repetition.waited, 3))
    return repetition, judgement


# What a kernel says stands; of tests, what chance does not explain.
def _judge(done: list[tuple[Repetition, Judgement]], run: Run) -> Judgement:
    last = done[-1][1]
    total = {"total": round(run.elapsed, 3)}
    if last.outcome.verdict not in _JUDGED_BY_TESTS:
        more = f" (run {len(done)})" if len(done) > 1 else ""
        return replace(
            last, outcome=replace(last.outcome, summary=last.outcome.summary + more, times=last.outcome.times | total)
        )
    starved = [repetition.waited > _STARVED for repetition, _ in done]
    tests = repeat.together([judgement.tests for _, judgement in done], starved=starved)
    outcome = _outcome(last.outcome, done, tests, starved)
    return replace(last, tests=tests, outcome=replace(outcome, times=last.outcome.times | total))


def _outcome(
    base: Outcome, done: list[tuple[Repetition, Judgement]], tests: tuple[TestResult, ...], starved: list[bool]
) -> Outcome:
    often = f"{len(done)} runs" if len(done) > 1 else "1 run"
    slow = f"; the host starved {sum(starved)} of them" if any(starved) else ""
    for word, verdict in (("fail", Verdict.TEST_FAILED), ("inconclusive", Verdict.INCONCLUSIVE)):
        bad = [test for test in tests if test.result == word]
        if bad:
            first = bad[0]
            step = f"{first.name} in virtual time, which no host disturbs: leave --time real away"
            summary = f"{first.name}: {first.why}: {first.figure:.4g} {first.unit} on average, limit {first.limit:.4g}"
            return replace(
                base, verdict=verdict, summary=f"{summary} ({often}{slow})", next=step, evidence=_events(done)
            )
    # A message of the kernel, or a suite that did not end: what the single verdicts say beside their tests.
    others = [one.outcome for _, one in done if one.outcome.verdict is not Verdict.PASS and not _by_a_test(one)]
    if others:
        verdict = worst(one.verdict for one in others)
        return next(one for one in others if one.verdict is verdict)
    passed = sum(test.result == "pass" for test in tests)
    return replace(base, verdict=Verdict.PASS, summary=f"{passed} tests, {often}{slow}", next="")


def _by_a_test(judgement: Judgement) -> bool:
    return any(test.result in ("fail", "inconclusive") for test in judgement.tests)


def _events(done: list[tuple[Repetition, Judgement]]) -> tuple[Evidence, ...]:
    return tuple(
        Evidence(f"{one.folder}/events.jsonl", f"run {n}: {one.verdict}") for n, (one, _) in enumerate(done, 1)
    )


class _Meter:
    """How long QEMU's threads ran, how long they had to wait (Documentation/scheduler/sched-stats.rst)."""

    def __init__(self) -> None:
        self._tasks: Path | None = None
        self._first = self._last = (0, 0)

    def begin(self, pid: int) -> None:
        self._tasks = Path(f"/proc/{pid}/task")
        self._first = self._last = self._read()

    def look(self) -> None:
        ran, waited = self._read()
        if ran >= self._last[0]:
            self._last = (ran, waited)

    def seconds(self) -> tuple[float, float]:
        """Run and wait, in seconds, from `begin` to the last look."""
        (ran, waited), (ran_before, waited_before) = self._last, self._first
        return round((ran - ran_before) / 1e9, 3), round((waited - waited_before) / 1e9, 3)

    def _read(self) -> tuple[int, int]:
        ran = waited = 0
        for task in self._tasks.glob("*/schedstat") if self._tasks else ():
            with contextlib.suppress(OSError, ValueError):
                run, wait, _ = map(int, task.read_text().split())
                ran, waited = ran + run, waited + wait
        return ran, waited
