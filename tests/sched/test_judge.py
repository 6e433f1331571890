# SPDX-License-Identifier: Apache-2.0
"""Verdicts on schedulers, from runs recorded in real guests and from what can go wrong around them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from kernloop import runs
from kernloop.kernel.kernel import Kernel
from kernloop.report.compiler import parse
from kernloop.report.engine import parse_console
from kernloop.sched import judge as library
from kernloop.sched.check.finding import Finding
from kernloop.sched.compile import Compiled
from kernloop.sched.events import SuiteReader
from kernloop.sched.judge import Judgement
from kernloop.verdict import Verdict
from kernloop.vm.machine import Ended, Hello
from kernloop.vm.session import End, Watched

FIXTURES = Path(__file__).parent.parent / "fixtures"
KERNEL = Kernel("debian:7.3.4", "7.3.4", "", "ab12", "", Path("/x"), None, None, None, None, None)
DONE = Watched(
    End.COMMAND, Hello("7.3.4", "ab12"), 1, (), Ended(0, ""), "guest-shutdown", None, "", "c0ffee", {"boot": 6.5}
)  # fmt: skip


@pytest.fixture
def run() -> Iterator[runs.Run]:
    with runs.create("verify", "kernloop.verify/1", {"subject": "x.bpf.c"}) as record:
        yield record


def recorded(name: str, run: runs.Run, *, change: Callable[[bytes], bytes] = lambda data: data,
             watched: Watched = DONE) -> Judgement:  # fmt: skip
    """The judgement on the recorded run `name`, with its events changed."""
    folder = FIXTURES / "sched" / name
    data = change((folder / "events.jsonl").read_bytes())
    (run.path / "events.jsonl").write_bytes(data)
    shutil.copyfile(folder / "console.log", run.path / "console.log")
    seen = SuiteReader()
    seen.feed(data)
    return library.judge(KERNEL, run, watched, seen, deadline=300, build_seconds=0.5)


def until_event(name: str) -> Callable[[bytes], bytes]:
    """Cuts the events off before the first of this name."""
    return lambda data: data[: data.index(b'{"event":"' + name.encode() + b'"')]


def only_start(data: bytes) -> bytes:
    return data[: data.index(b"\n") + 1]


def test_a_scheduler_that_holds_all_properties_passes(run: runs.Run) -> None:
    found = recorded("fifo", run)
    assert (found.outcome.verdict, found.outcome.summary, found.outcome.next) == (Verdict.PASS, "6 tests", "")
    assert (found.scheduler, len(found.tests)) == ("fifo", 6)
    assert found.outcome.console_sha256 == "c0ffee"
    assert found.outcome.times["build"] == 0.5
    assert found.outcome.times["boot"] == 6.5


def test_a_stall_is_an_ejection_with_the_task_where_it_was_lost_and_the_test_that_ran(run: runs.Run) -> None:
    found = recorded("lost_task", run)
    assert found.outcome.verdict is Verdict.EJECTED
    assert found.outcome.summary == "runnable task stall: scxsuite[360] failed to run for 6.368s"
    assert found.exit is not None
    assert (found.exit.kind, found.during) == (1026, "saturation")
    assert found.known is not None
    assert found.known.id == "stall"
    assert found.guilty is not None
    assert (found.guilty.comm, found.guilty.pid) == ("scxsuite", 360)
    assert "is in no DSQ" in found.placement
    assert (run.path / "dump.txt").read_text().startswith("lost_task: root")


def test_a_missing_queue_is_an_ejection_with_its_cure(run: runs.Run) -> None:
    found = recorded("uncreated_dsq", run)
    assert (found.outcome.verdict, found.during) == (Verdict.EJECTED, "idle")
    assert found.outcome.summary == "runtime error: non-existent DSQ 0x1"
    assert "scx_bpf_create_dsq" in found.outcome.next


def test_the_verifiers_no_is_a_rejection_with_the_line_in_the_source(run: runs.Run) -> None:
    found = recorded("null_check", run)
    assert found.outcome.verdict is Verdict.REJECTED
    assert found.outcome.summary.startswith("null_check.bpf.c:52: R1 invalid mem access 'trusted_ptr_or_null_'")
    assert found.rejection is not None
    assert found.rejection.program == "null_check_dispatch"
    assert found.outcome.next.startswith("Test it before use: `if (!prev) return 0;`")
    assert (run.path / "loader.txt").read_text() == (FIXTURES / "sched/null_check/loader.txt").read_text()


@pytest.mark.parametrize("name", ["fifo", "lost_task", "null_check", "uncreated_dsq"])
def test_evidence_is_files_that_are_there_and_not_empty(name: str, run: runs.Run) -> None:
    found = recorded(name, run)
    assert {"console.log", "events.jsonl"} <= {item.path for item in found.outcome.evidence}
    # The files that judging itself wrote are evidence, too.
    wrote = {"loader.txt", "dump.txt"} & {file.name for file in run.path.iterdir()}
    assert wrote <= {item.path for item in found.outcome.evidence}
    for item in found.outcome.evidence:
        assert (run.path / item.path).stat().st_size > 0


def test_a_panic_outranks_the_ejection_it_came_with(run: runs.Run) -> None:
    text = (FIXTURES / "console/sysrq-crash-7.3.4.log").read_text()
    crashed = replace(DONE, end=End.PANIC, status=None, crashes=tuple(parse_console(text.splitlines())))
    found = recorded("lost_task", run, watched=crashed)
    assert (found.outcome.verdict, found.outcome.function) == (Verdict.PANIC, "sysrq_handle_crash")
    assert found.exit is not None
    assert found.exit.kind == 1026
    assert found.outcome.evidence[0].lines is not None


def test_an_ejection_known_from_the_kernel_log_alone_is_one(run: runs.Run) -> None:
    found = recorded("uncreated_dsq", run, change=until_event("test-start"))
    assert found.outcome.verdict is Verdict.EJECTED
    assert found.exit is not None
    assert (found.exit.kind, found.exit.message) == (1024, "non-existent DSQ 0x1")


def test_a_failed_test_says_which_why_and_by_how_much(run: runs.Run) -> None:
    def change(data: bytes) -> bytes:
        lines = []
        for line in data.splitlines():
            event = json.loads(line)
            if event["event"] == "test" and event["name"] == "wakeup":
                event |= {"ok": False, "figure": 90000, "limit": 20000, "unit": "us", "why": "woken too late"}
            if event["event"] == "done":
                event["ok"] = False
            lines.append(json.dumps(event).encode())
        return b"\n".join(lines) + b"\n"

    found = recorded("fifo", run, change=change)
    assert found.outcome.verdict is Verdict.TEST_FAILED
    assert found.outcome.summary == "wakeup: woken too late: 90000 us, limit 20000"


def with_result(name: str, **said: object) -> Callable[[bytes], bytes]:
    """Gives the test `name` another result."""

    def change(data: bytes) -> bytes:
        lines = []
        for line in data.splitlines():
            event = json.loads(line)
            if event["event"] == "test" and event["name"] == name:
                event |= said
            if event["event"] == "done":
                event["ok"] = False
            lines.append(json.dumps(event).encode())
        return b"\n".join(lines) + b"\n"

    return change


def test_what_eevdf_fails_as_well_is_nobodys_fault_and_no_pass(run: runs.Run) -> None:
    why = "EEVDF does not hold it here either: a round trip took 9000 us"
    found = recorded("fifo", run, change=with_result("wakeup", ok=False, result="inconclusive", why=why))
    assert (found.outcome.verdict, found.outcome.summary) == (Verdict.INCONCLUSIVE, f"wakeup: {why}")
    assert "--tests wakeup" in found.outcome.next


def test_a_failure_outranks_what_could_not_be_judged(run: runs.Run) -> None:
    def change(data: bytes) -> bytes:
        return with_result("wakeup", ok=False, result="inconclusive", why="starved")(
            with_result("reload", ok=False, result="fail", why="slow", figure=9, unit="s")(data)
        )

    found = recorded("fifo", run, change=change)
    assert (found.outcome.verdict, found.outcome.summary) == (Verdict.TEST_FAILED, "reload: slow: 9 s, limit 5")


def test_a_test_of_something_unclaimed_is_skipped_by_name(run: runs.Run) -> None:
    skipped = with_result("wakeup", ok=False, result="skipped", why="the scheduler does not claim weights")

    def change(data: bytes) -> bytes:
        return skipped(data).replace(b'"event": "done", "ok": false', b'"event": "done", "ok": true')

    found = recorded("fifo", run, change=change)
    assert (found.outcome.verdict, found.outcome.summary) == (Verdict.PASS, "5 tests; skipped: wakeup")


def test_a_failed_gate_says_after_which_test(run: runs.Run) -> None:
    found = recorded(
        "fifo", run,
        change=lambda data: data.replace(
            b'"after":"wakeup","ok":true,"why":""', b'"after":"wakeup","ok":false,"why":"lockdep complained"'
        ),
    )  # fmt: skip
    assert (found.outcome.verdict, found.outcome.summary) == (
        Verdict.TEST_FAILED,
        "after wakeup: lockdep complained",
    )


def test_a_suite_that_ends_in_the_middle_is_our_fault(run: runs.Run) -> None:
    found = recorded("fifo", run, change=until_event("done"))
    assert found.outcome.verdict is Verdict.INFRA
    assert "controller ended in the middle" in found.outcome.summary


def test_a_test_that_was_planned_and_never_run_is_our_fault_and_no_pass(run: runs.Run) -> None:
    def change(data: bytes) -> bytes:
        return b"".join(
            line + b"\n" for line in data.splitlines() if not line.startswith(b'{"event":"test","name":"reload"')
        )

    found = recorded("fifo", run, change=change)
    assert (found.outcome.verdict, found.outcome.summary) == (Verdict.INFRA, "the suite ended without reload")


def test_a_deadline_with_a_living_kernel_says_nothing_about_the_scheduler(run: runs.Run) -> None:
    late = replace(DONE, end=End.DEADLINE, status=None, answered_sysrq=True, qemu=None)
    found = recorded("fifo", run, change=until_event("done"), watched=late)
    assert found.outcome.verdict is Verdict.INCONCLUSIVE
    assert "more than 300 s of real time" in found.outcome.summary


def test_a_deadline_with_a_dead_kernel_is_a_hang(run: runs.Run) -> None:
    late = replace(DONE, end=End.DEADLINE, status=None, answered_sysrq=False, qemu=None)
    found = recorded("fifo", run, change=until_event("done"), watched=late)
    assert found.outcome.verdict is Verdict.HANG
    assert "the deadline of 300 s passed" in found.outcome.summary


def test_qemu_killed_from_outside_says_nothing_about_the_scheduler(run: runs.Run) -> None:
    lost = replace(DONE, end=End.GONE, status=None, qemu=Ended(-9, ""), shutdown_reason=None)
    found = recorded("fifo", run, change=only_start, watched=lost)
    assert found.outcome.verdict is Verdict.LOST
    assert "signal 9" in found.outcome.summary


def test_another_kernel_than_the_one_asked_for_is_our_fault(run: runs.Run) -> None:
    other = replace(DONE, hello=Hello("7.3.4", "ffff"))
    found = recorded("fifo", run, watched=other)
    assert found.outcome.verdict is Verdict.INFRA
    assert "build-id ffff, not ab12" in found.outcome.summary


@pytest.mark.parametrize(
    ("said", "summary"),
    [
        ('{"event":"attach-failed","errno":16}', "the kernel refused to attach it: Device or resource busy (EBUSY)"),
        ('{"event":"unusable","why":"it has no struct_ops map"}', "it has no struct_ops map"),
    ],
)
def test_an_object_that_is_no_usable_scheduler_is_rejected_with_the_reason(
    said: str, summary: str, run: runs.Run
) -> None:
    def change(data: bytes) -> bytes:
        events = [
            {"event": "loader", "stream": "stdout", "line": said},
            {"event": "not-enabled", "why": "the loader ended"},
            {"event": "done", "ok": False},
        ]
        return only_start(data) + b"".join(json.dumps(event).encode() + b"\n" for event in events)

    found = recorded("fifo", run, change=change)
    assert (found.outcome.verdict, found.outcome.summary) == (Verdict.REJECTED, summary)
    assert found.outcome.next


def test_a_loader_that_enables_nothing_is_inconclusive_for_nobody_has_said_no(run: runs.Run) -> None:
    def change(data: bytes) -> bytes:
        events = [
            {"event": "loader", "stream": "stderr", "line": "Usage: scx_x [-v]"},
            {"event": "loader-exit", "status": 3, "signal": 0},
            {"event": "not-enabled", "why": "the loader ended before the scheduler was enabled"},
            {"event": "done", "ok": False},
        ]
        return only_start(data) + b"".join(json.dumps(event).encode() + b"\n" for event in events)

    found = recorded("null_check", run, change=change)
    assert found.outcome.verdict is Verdict.INCONCLUSIVE
    assert found.outcome.summary == "the loader ended before the scheduler was enabled (exit 3): Usage: scx_x [-v]"
    assert (run.path / "loader.txt").read_text() == "Usage: scx_x [-v]\n"


def test_a_build_error_says_file_line_and_message_and_keeps_all_clang_said(run: runs.Run) -> None:
    text = (FIXTURES / "clang/clang-22.txt").read_text()
    built = Compiled(None, tuple(parse(text.splitlines())), text)
    found = library.build_failed(Path("/home/me/proto.bpf.c"), KERNEL, run, built)
    assert found.outcome.verdict is Verdict.BUILD_FAILED
    first = next(item for item in found.diagnostics if "error" in item.severity)
    assert found.outcome.summary == f"{first.file}:{first.line}:{first.column}: {first.message}"
    assert found.outcome.next.endswith(f"line {first.line}")
    assert (run.path / "compiler.txt").read_text() == text


def finding(rule: str, level: Literal["must", "may", "unknown"]) -> Finding:
    return Finding(rule, level, "x_enqueue", "x.bpf.c", 12, "insert();", "it is lost", "insert it")


def test_what_must_go_wrong_is_rejected_although_the_suite_passes(run: runs.Run) -> None:
    passed = recorded("fifo", run)
    told = library.with_findings(passed, (finding("affinity", "may"),))
    assert told.outcome.verdict is Verdict.PASS
    assert [one.rule for one in told.findings] == ["affinity"]
    told = library.with_findings(passed, (finding("lost-task", "must"),))
    assert told.outcome.verdict is Verdict.REJECTED
    assert "x.bpf.c:12" in told.outcome.summary
    assert told.outcome.next == "insert it"


def test_an_ejection_names_the_line_that_a_check_has_found(run: runs.Run) -> None:
    ended = recorded("lost_task", run)
    told = library.with_findings(ended, (finding("timeout-unset", "may"), finding("unconsumed-dsq", "must")))
    assert told.outcome.verdict is Verdict.EJECTED
    assert told.cause is not None
    assert told.cause.rule == "unconsumed-dsq"
    assert told.outcome.next == "x.bpf.c:12: insert it"
    assert library.with_findings(ended, (finding("idle-kfunc-off", "must"),)).cause is None
