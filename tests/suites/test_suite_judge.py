# SPDX-License-Identifier: Apache-2.0
"""From what tests said and what became of the guest to a verdict: whose fault, which test, and no pass for nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from junitparser import Error, Failure, JUnitXml, Skipped

from kernloop import runs
from kernloop.cli.suite import details
from kernloop.present import junit, outcome_json
from kernloop.report.engine import parse_console
from kernloop.report.ktap import Status, parse
from kernloop.suites.judge import Judgement, judge, title
from kernloop.verdict import Verdict, exit_code
from kernloop.vm.machine import Ended, Hello
from kernloop.vm.session import End, Watched
from verdicts import FIXTURES, KERNEL

SCHEMA = "kernloop.kunit/1"


def watched(end: End, console: str = "") -> Watched:
    crashes = tuple(parse_console(console.split("\n")))
    return Watched(end, Hello("7.3.4", "ab12"), None, crashes, Ended(0, ""), None, None, "", "c0ffee", {"tests": 2.5})


def judged(
    ktap: str, end: End = End.COMMAND, console: str = "", blamed: tuple[tuple[str, ...], ...] = ()
) -> tuple[Judgement, Path]:
    with runs.create("kunit", SCHEMA, {"subject": "s"}) as record:
        seen = watched(end, console)
        found = judge(KERNEL, record, seen, parse(ktap.split("\n")), deadline=60, depth=64, blamed=blamed)
        return found, record.path


def suite_of(judgement: Judgement, run: Path) -> list[tuple[str | None, type | None, str | None]]:
    """The cases of the JUnit file, what each is, and its message."""
    outcome = judgement.outcome
    value = outcome_json(SCHEMA, run, outcome, exit_code=exit_code(outcome.verdict), **details(judgement))
    json.dumps(value)
    junit.write(run / "junit.xml", "kunit", "s", value)
    [suite] = JUnitXml.fromfile(str(run / "junit.xml"))
    return [
        (case.name, type(case.result[0]) if case.result else None, case.result[0].message if case.result else None)
        for case in suite
    ]


def test_all_passed_is_a_pass_with_a_case_for_each() -> None:
    judgement, run = judged("TAP version 13\n1..2\nok 1 a\nok 2 b")
    assert (judgement.outcome.verdict, judgement.outcome.summary) == (Verdict.PASS, "2 passed")
    assert suite_of(judgement, run) == [("a", None, None), ("b", None, None)]


def test_skips_are_named_with_their_reasons_and_tests_expected_to_fail_are_no_failure() -> None:
    judgement, run = judged("TAP version 13\n1..3\nok 1 a\nok 2 b # SKIP no device\nok 3 c # XFAIL a known bug")
    assert judgement.outcome.verdict is Verdict.PASS
    assert judgement.outcome.summary == "1 passed, 1 skipped (b), 1 xfail"
    assert suite_of(judgement, run)[1:] == [
        ("b", Skipped, "no device"),
        ("c", Skipped, "it failed, as it was expected to: a known bug"),
    ]


@pytest.mark.parametrize(
    "ktap",
    [
        "TAP version 13\n1..2\nok 1 a # SKIP\nok 2 b # SKIP why",
        "TAP version 13\n1..0 # SKIP why",
        "KTAP version 1\n1..0",
        "",
    ],
)
def test_nothing_that_ran_is_never_a_pass(ktap: str) -> None:
    judgement, run = judged(ktap)
    assert judgement.outcome.verdict is Verdict.INCONCLUSIVE
    assert exit_code(judgement.outcome.verdict) == 125
    assert "no test ran" in judgement.outcome.summary
    assert Error in [kind for _, kind, _ in suite_of(judgement, run)]


def test_failures_are_named_with_where_they_spoke() -> None:
    judgement, run = judged("TAP version 13\n1..3\nok 1 a\n# x.c:3: not so\nnot ok 2 b # exit=1\nnot ok 3 c")
    outcome = judgement.outcome
    assert (outcome.verdict, outcome.summary) == (Verdict.TEST_FAILED, "b fail, c fail; 1 passed, 2 failed")
    assert "ktap.log lines 4 to 5: what b said" in outcome.next
    assert suite_of(judgement, run)[1] == ("b", Failure, "exit=1")


def test_tests_that_were_planned_and_never_came_are_no_pass() -> None:
    judgement, _ = judged("TAP version 13\n1..3\nok 1 a")
    assert judgement.outcome.verdict is Verdict.TEST_FAILED
    assert judgement.totals.missing == 2
    assert judgement.problems == ("line 3: the plan was 3, there are 1 results",)


def test_time_outs_are_a_hang_even_beside_failures() -> None:
    judgement, _ = judged("TAP version 13\n1..3\nok 1 a\nnot ok 2 b # TIMEOUT 45 seconds\nnot ok 3 c")
    assert judgement.outcome.verdict is Verdict.HANG
    assert judgement.outcome.summary == "timed out: b; 1 passed, 1 failed, 1 timed out"


def test_a_panic_names_the_test_that_ran_in_the_verdict_and_in_the_junit_file() -> None:
    console = (FIXTURES / "console/sysrq-crash-7.3.4.log").read_text(errors="replace")
    ktap = "KTAP version 1\n1..1\n    KTAP version 1\n    # Subtest: evil\n    1..2\n    ok 1 fine\n    # crash: here\n"
    judgement, run = judged(ktap, End.PANIC, console, (("evil", "crash"),))
    assert judgement.outcome.verdict is Verdict.PANIC
    assert judgement.outcome.summary.startswith("while evil.crash ran: ")
    assert (judgement.running, judgement.totals.crashed) == ("evil.crash", 1)
    cases = {name: (kind, message) for name, kind, message in suite_of(judgement, run)}
    assert cases["evil.fine"] == (None, None)
    kind, message = cases["evil.crash"]
    assert kind is Failure
    assert str(message).startswith("panic: while evil.crash ran: ")


def test_a_crash_outranks_what_the_tests_say_of_themselves() -> None:
    judgement, _ = judged(
        "TAP version 13\n1..1\nok 1 a", console="[    1.000000] Oops: 0002 [#1] SMP", blamed=(("a",),)
    )
    assert judgement.outcome.verdict is Verdict.OOPS
    assert judgement.totals.passed == 1


def test_a_test_is_called_what_its_user_calls_it() -> None:
    assert title(("selftests: sched_ext: runner", "minimal")) == "sched_ext:minimal"
    assert title(("selftests: timers: posix_timers",)) == "timers:posix_timers"
    assert title(("lists", "add")) == "lists.add"
    assert [one.status for one in judged("TAP version 13\n1..1\nok 1 a")[0].results] == [Status.PASS]
