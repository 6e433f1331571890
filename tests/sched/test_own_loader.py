# SPDX-License-Identifier: Apache-2.0
"""A scheduler with its own loader: what the loader tells of itself, and how its end is told from an ejection."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kernloop import runs
from kernloop.kernel.kernel import Kernel
from kernloop.sched import judge
from kernloop.sched.events import Stats, SuiteReader
from kernloop.sched.judge import Judgement
from kernloop.verdict import Verdict
from kernloop.vm.machine import Ended, Hello
from kernloop.vm.session import End, Watched

KERNEL = Kernel("debian:7.3.4", "7.3.4", "", "ab12", "", Path("/x"), None, None, None, None, None)
DONE = Watched(
    End.COMMAND, Hello("7.3.4", "ab12"), 1, (), Ended(0, ""), "guest-shutdown", None, "", "c0ffee", {"boot": 6.5}
)  # fmt: skip


def reader(*events: dict[str, Any]) -> SuiteReader:
    seen = SuiteReader()
    seen.feed(b"".join(json.dumps(event).encode() + b"\n" for event in events))
    return seen


def judged(*events: dict[str, Any], console: str = "", enabled: bool = True) -> Judgement:
    up = [{"event": "enabled", "ops": "land", "seconds": 1.5}] if enabled else []
    with runs.create("verify", "kernloop.verify/1", {"subject": "scx_land"}) as run:
        (run.path / "console.log").write_text(console)
        seen = reader({"event": "start", "tests": ["idle"]}, *up, *events)
        return judge.judge(KERNEL, run, DONE, seen, deadline=300, build_seconds=0)


def stats(answer: object, after: str = "idle") -> dict[str, Any]:
    return {"event": "stats", "after": after, "answer": answer if isinstance(answer, str) else json.dumps(answer)}


def said(text: str) -> dict[str, Any]:
    return {"event": "loader", "stream": "stderr", "line": text}


LOST = {"event": "test", "name": "idle", "ok": False, "why": "the scheduler was ejected or restarted during the test"}
EJECTED = {"event": "ejected", "after": "idle", "state": "disabled"}


def test_the_loaders_statistics_stand_in_the_result_by_test_and_dotted_name() -> None:
    answer = {"errno": 0, "args": {"resp": {"nr_running": 2, "name": "x", "llcs": [{"load": 0.5}, {"load": 1}]}}}
    seen = reader(stats(answer), stats({"errno": 0, "args": {"resp": {"nr_running": 3}}}, "saturation"))
    assert seen.stats == [
        Stats("idle", (("nr_running", 2.0), ("llcs.0.load", 0.5), ("llcs.1.load", 1.0))),
        Stats("saturation", (("nr_running", 3.0),)),
    ]


def test_what_no_json_number_can_be_is_left_out_of_the_statistics() -> None:
    answer = '{"errno":0,"args":{"resp":{"a":NaN,"b":Infinity,"c":1' + "0" * 400 + ',"d":true,"e":7}}}'
    assert reader(stats(answer)).stats == [Stats("idle", (("d", 1.0), ("e", 7.0)))]
    assert reader(stats("[" * 100_000)).stats[0].figures == ()


@pytest.mark.parametrize(
    ("event", "why"),
    [
        (stats({"errno": 22, "args": {"resp": "unknown stat target"}}), "unknown stat target"),
        (stats("rubbish"), "the statistics socket gave no scx_stats answer"),
        (stats("[1]"), "the statistics socket gave no scx_stats answer"),
        ({"event": "stats", "after": "idle", "why": "did not answer"}, "did not answer"),
    ],
)
def test_statistics_that_cannot_be_had_say_why(event: dict[str, Any], why: str) -> None:
    assert reader(event).stats == [Stats("idle", (), why)]


def test_a_loader_that_loads_its_scheduler_anew_is_told_from_an_ejection() -> None:
    found = judged(
        LOST, EJECTED, said("EXIT: unregistered from BPF (cpu 1 went offline)"),
        {"event": "restarted", "enable_seq": 2, "seconds": 1.25}, {"event": "loader-exit", "status": -1, "signal": 9},
    )  # fmt: skip
    assert (found.outcome.verdict, found.during) == (Verdict.TEST_FAILED, "idle")
    assert found.outcome.summary == (
        "during idle: the scheduler gave up (unregistered from BPF: cpu 1 went offline), "
        "and its loader loaded it anew 1.2 s later"
    )
    assert "SCX_ECODE_ACT_RESTART" in found.outcome.next


@pytest.mark.parametrize(
    ("status", "number", "how"), [(0, 0, "ended by itself (exit 0)"), (-1, 11, "was killed by SIGSEGV")]
)
def test_a_loader_that_ends_on_its_own_takes_the_blame_not_the_scheduler(status: int, number: int, how: str) -> None:
    found = judged(LOST, {"event": "loader-exit", "status": status, "signal": number}, EJECTED)
    assert found.outcome.verdict is Verdict.TEST_FAILED
    assert f"the scheduler's loader {how}, and the scheduler went with it" in found.outcome.summary


STALLED = (
    '[   41.1] sched_ext: BPF scheduler "land" enabled\n'
    '[   46.2] sched_ext: BPF scheduler "land" disabled (runnable task stall)\n'
    "[   46.2] sched_ext: land: sh[42] failed to run for 5.060s\n"
)


def test_a_loader_that_exits_0_after_an_ejection_changes_nothing_about_it() -> None:
    found = judged(
        LOST, EJECTED, said("EXIT: runnable task stall (sh[42] failed to run for 5.060s)"),
        {"event": "loader-exit", "status": 0, "signal": 0}, console=STALLED,
    )  # fmt: skip
    assert found.outcome.verdict is Verdict.EJECTED
    assert found.exit is not None
    assert found.exit.kind == 1026


def test_an_ejection_that_only_the_loader_tells_of_is_none() -> None:
    found = judged(
        LOST, EJECTED, said("EXIT: runnable task stall (sh[42] failed to run for 5.060s)"),
        {"event": "loader-exit", "status": 1, "signal": 0},
    )  # fmt: skip
    assert found.outcome.verdict is Verdict.TEST_FAILED
    assert found.exit is None


@pytest.mark.parametrize(
    ("words", "summary", "step"),
    [
        (
            ["error: unexpected argument '--slice'", "", "Usage: scx_land"],
            ": error: unexpected argument '--slice'",
            "args",
        ),
        (["Error: Failed to load BPF program: Invalid argument (os error 22)"], "Invalid argument", "configuration"),
        ([], "enabled (exit 1)", "loader.txt"),
    ],
)
def test_a_loader_that_never_enabled_has_its_complaint_in_the_summary(
    words: list[str], summary: str, step: str
) -> None:
    gone = {"event": "not-enabled", "why": "the loader ended before the scheduler was enabled"}
    found = judged(*map(said, words), {"event": "loader-exit", "status": 1, "signal": 0}, gone, enabled=False)
    assert found.outcome.verdict is Verdict.INCONCLUSIVE
    assert summary in found.outcome.summary
    assert step.replace("args", "right arguments") in found.outcome.next
