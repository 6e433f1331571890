# SPDX-License-Identifier: Apache-2.0
"""From what a guest's tests said, and what became of the guest, to one verdict: a crash names the test that ran."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from kernloop.kernel.kernel import Kernel
from kernloop.report.compiler import Diagnostic
from kernloop.report.ktap import GOOD, Report, Status, Test, Totals, leaves, totals
from kernloop.report.severity import Severity
from kernloop.runs import Run
from kernloop.verdict import Outcome, Verdict
from kernloop.vm.judge import judge_machine, unjudged
from kernloop.vm.session import Watched

__all__ = ["OWN_RUNNER", "Judgement", "Result", "judge", "title"]

# The one program of sched_ext's selftests: what it runs are the tests.
OWN_RUNNER = "runner"

_NAMED = 6


@dataclass(frozen=True)
class Result:
    """A test that counts: a program's own tests, or the program where it names none. `seconds` where it is known."""

    name: str
    status: Status
    reason: str = ""
    seconds: float | None = None
    diagnostics: tuple[str, ...] = ()
    lines: tuple[int, int] | None = None


@dataclass(frozen=True)
class Judgement:
    """The outcome and what it rests on. `running` is the test that was under way when it all ended early, `lacking` are
    symbols that the tests ask for and the kernel is built without."""

    outcome: Outcome
    totals: Totals = field(default_factory=Totals)
    results: tuple[Result, ...] = ()
    running: str = ""
    problems: tuple[str, ...] = ()
    diagnostics: tuple[Diagnostic, ...] = ()
    tree: tuple[Test, ...] = ()
    lacking: tuple[str, ...] = ()


def judge(
    kernel: Kernel,
    run: Run,
    watched: Watched,
    report: Report,
    *,
    deadline: float,
    depth: int,
    blamed: Sequence[tuple[str, ...]] = (),
    seconds: Mapping[tuple[str, ...], float] | None = None,
    times: Mapping[str, float] | None = None,
    log: str = "ktap.log",
    stuck: bool = False,
) -> Judgement:
    """The verdict on the tests of `report`, counted down to `depth`. `blamed` has a test's path for each crash.

    `log` is the file in the run directory that the report was made of; `stuck` a test that could not be ended, in a
    guest that runs nothing any more.
    """
    took = seconds or {}
    results = tuple(
        Result(
            title(path) if path[-1] else f"{title(path[:-1])} test {test.number}".strip(),
            test.status,
            _why(test),
            round(took[path], 3) if path in took else None,
            test.diagnostics,
            test.lines,
        )
        for path, test in leaves(report.tests, depth)
    )
    base = Judgement(
        replace(unjudged(kernel, run, watched), exit_status=None, times={**(times or {}), **watched.times}),
        totals(report.tests, depth),
        results,
        title(report.running),
        tuple(f"line {one.line}: {one.what}" for one in report.problems),
        tree=report.tests,
    )
    machine = judge_machine(kernel, run, watched, deadline=deadline)
    if machine is not None:
        return replace(base, outcome=_machine(base, machine, watched, blamed, stuck))
    return replace(base, outcome=_tests(base, run.path / log, report))


def title(path: Sequence[str]) -> str:
    """A test's path as users write it: `sched_ext:dequeue`, `timers:posix_timers`, `list-kunit-test.list_test_add`."""
    if path and (found := re.match(r"selftests: (\S+): (.*)", path[0])):
        program = [] if found[2] == OWN_RUNNER and path[1:] else [found[2]]
        return ":".join([found[1], *program, *path[1:]])
    return ".".join(path)


def _machine(
    base: Judgement, machine: Outcome, watched: Watched, blamed: Sequence[tuple[str, ...]], stuck: bool
) -> Outcome:
    name = base.running
    if machine.verdict in (Verdict.PANIC, Verdict.OOPS):
        # Of several the machine's verdict is on the worst, the first of these if there are more.
        bad = [
            title(path)
            for crash, path in zip(watched.crashes, blamed, strict=False)
            if crash.severity is (Severity.PANIC if machine.verdict is Verdict.PANIC else Severity.OOPS)
        ]
        name = bad[0] if bad and bad[0] else name
    done = base.totals.passed + base.totals.failed + base.totals.skipped
    during = f"while {name} ran: " if name else ""
    late = machine.verdict is Verdict.HANG
    if late and stuck:
        machine = replace(machine, summary="it could not be ended, and the guest runs nothing any more")
    alive = late and watched.answered_sysrq and not stuck
    return replace(
        machine,
        # A living guest had only too much to do: nothing is known of the tests that did not come to run.
        verdict=Verdict.INCONCLUSIVE if alive else machine.verdict,
        summary=f"{during}{machine.summary}; until then {done} tests had ended",
        times=base.outcome.times,
    )


def _tests(base: Judgement, log: Path, report: Report) -> Outcome:
    found = {status: [one for one in base.results if one.status is status] for status in Status}
    late, missing = found[Status.TIMEOUT], found[Status.MISSING]
    bad = [one for one in base.results if one.status not in GOOD]
    counts = _counts(found)
    if late:
        verdict, summary = Verdict.HANG, f"timed out: {_list(late)}; {counts}"
        step = f"{log} shows how far each came; a slow machine needs a longer --timeout-per-test"
    elif bad:
        verdict, summary = Verdict.TEST_FAILED, f"{_list(bad)}; {counts}"
        step = _look(log, bad[0])
        if len(missing) == len(bad):
            step = f"{log}: the tests stopped before these"
    elif report.bail_out is not None:
        verdict, summary = Verdict.TEST_FAILED, f"the tests gave up: {report.bail_out}; {counts}"
        step = f"see {log}"
    elif not any(one.status is Status.PASS for one in base.results):
        verdict = Verdict.INCONCLUSIVE
        why = report.skipped or next((f"{one.name}: {one.reason}" for one in base.results if one.reason), "")
        summary = f"no test ran: {counts}" + (f" ({why})" if why else "")
        step = "does the kernel have what the tests need? The target's config file names the symbols"
    else:
        verdict, summary, step = Verdict.PASS, counts, ""
    return replace(base.outcome, verdict=verdict, summary=summary, next=step)


def _counts(found: Mapping[Status, Sequence[Result]]) -> str:
    words = {Status.PASS: "passed", Status.FAIL: "failed", Status.SKIP: "skipped", Status.TIMEOUT: "timed out"}
    said = []
    for status, some in found.items():
        names = f" ({_list(some)})" if status is Status.SKIP else ""
        said += [f"{len(some)} {words.get(status, status.value)}{names}"] if some else []
    return ", ".join(said) or "no tests"


def _list(some: Sequence[Result]) -> str:
    names = [
        f"{one.name} {one.status}" if one.status not in (Status.TIMEOUT, Status.SKIP) else one.name for one in some
    ]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _look(log: Path, first: Result) -> str:
    where = f" lines {first.lines[0]} to {first.lines[1]}" if first.lines else ""
    return f"{log}{where}: what {first.name} said"


# Where a result does not say why, what stands before it often does: tests that skip say so.
def _why(test: Test) -> str:
    if test.reason or test.status is not Status.SKIP:
        return test.reason
    said = [line.lstrip("# ") for line in test.diagnostics if re.search(r"\bskip", line, re.I)]
    return re.sub(r"^skip(ping|ped)?[:,]?\s*", "", said[-1], flags=re.I) if said else ""
