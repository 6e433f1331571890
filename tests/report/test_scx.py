# SPDX-License-Identifier: Apache-2.0
"""Exits of sched_ext schedulers: messages, codes, what loaders and the kernel log say, and debug dumps."""

from __future__ import annotations

import json
import re
from importlib import resources
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernloop.report.scx import (
    decode_exit_code,
    make_exit,
    match_message,
    parse_kmsg,
    parse_loader_stderr,
)
from kernloop.report.scx_dump import DumpTask, explain_placement, guilty_task, parse_dump

FIXTURES = Path(__file__).parent.parent / "fixtures"
SCX_LOGS = sorted((FIXTURES / "scx").glob("*.log"))


def text_of(name: str) -> str:
    return (FIXTURES / name).read_text(errors="replace")


@pytest.mark.parametrize(
    ("message", "id_"),
    [
        ("kworker/u8:3[40] failed to run for 6.844s", "stall"),
        ("watchdog failed to check in for 5.001s", "watchdog"),
        ("non-existent DSQ 0xcafef00d for rcu_preempt[18]", "dsq_missing"),
        ("non-existent DSQ 0xcafef00d", "dsq_missing"),
        ("cannot use vtime ordering for built-in DSQs", "vtime_builtin"),
        ("kfunc with mask 0x8 called from an operation only allowing 0x4", "kf_mask"),
        ("SCX_OPS_ENQ_LAST requires ops.enqueue() to be implemented", "enq_last"),
        ("invalid CPU -16 from ops.select_cpu()", "bad_cpu"),
        ("sh[42] already direct-dispatched", "ddsp_twice"),
        ("SCX_DSQ_LOCAL[_ON] target CPU 3 not allowed for a b[42]", "local_on_affinity"),
        ("cpu 1 going offline, exiting scheduler", "hotplug"),
        ("used too much rescue CPU time (12ms) while sh[42] waited 3.000s to be rescued", "rescue_overload"),
    ],
)
def test_a_known_message_has_an_id_a_cause_and_a_cure(message: str, id_: str) -> None:
    known = match_message(message)
    assert known is not None
    assert known.id == id_
    assert known.cause
    assert known.cure.endswith(".")


def test_a_message_says_of_whom_it_speaks() -> None:
    known = match_message("a [b] c[42] failed to run for 5.060s")
    assert known is not None
    assert (known.group("comm"), known.group("pid"), known.group("nothing")) == ("a [b] c", "42", None)


def test_a_schedulers_own_error_is_no_known_message() -> None:
    assert match_message("scx_qmap.bpf.c:434: test triggering error") is None


def test_each_row_of_the_message_table_is_whole() -> None:
    rows = json.loads(resources.files("kernloop.report").joinpath("data/scx_messages.json").read_text())
    assert len({row["id"] for row in rows}) == len(rows)
    for row in rows:
        re.compile(row["regex"])
        assert row["kind"].startswith("SCX_EXIT_")
        assert row["cause"]
        assert row["cure"]


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (0, ""),
        (1 << 48, "restart"),
        (1 << 48 | 1 << 32, "restart, hotplug"),
        (2 << 32, "cgroup offline"),
        (0xDEADBEEF, "user 0xdeadbeef"),
        (-22, "user -22"),
        (9 << 48 | 7 << 32 | 1, "action 0x9, reason 0x7, user 0x1"),
    ],
)
def test_an_exit_code_is_taken_apart(code: int, text: str) -> None:
    assert decode_exit_code(code) == text


def test_the_kind_follows_from_the_reason_where_only_text_is_there() -> None:
    assert make_exit(None, None, "runnable task stall", "").kind == 1026
    assert make_exit(None, None, "reenqueue limit", "").kind_name == "SCX_EXIT_ERROR_REENQ"
    assert make_exit(2000, None, "something new", "").kind_name == "kind 2000"
    assert make_exit(None, None, "something new", "").is_error
    assert not make_exit(66, 1 << 48, "unregistered from the main kernel", "").is_error


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("scx/qmap-stall-7.3.4.log", 1026, "init[130] failed to run for 6.844s"),
        ("scx/qmap-kstall-7.3.4.log", 1026, "kcompactd0[42] failed to run for 5.408s"),
        ("scx/qmap-bpferr-7.3.4.log", 1025, "src/tools/sched_ext/scx_qmap.bpf.c:434: test triggering error"),
        ("scx/qmap-trunc-7.3.4.log", 1026, "init[143] failed to run for 6.060s"),
    ],
)
def test_a_loader_that_exits_zero_still_tells_why(name: str, kind: int, message: str) -> None:
    found = parse_loader_stderr(text_of(name))
    assert found is not None
    assert (found.kind, found.message, found.cpu) == (kind, message, 0)
    assert found.is_error
    dump = parse_dump(found.dump)
    assert (dump.kind, dump.message, dump.reason) == (kind, message, found.reason)


@pytest.mark.parametrize(
    ("line", "kind", "message"),
    [
        ("EXIT: unregistered from user space", 64, ""),
        (
            "EXIT: unregistered from BPF (hotplug event detected (1 going online))",
            65,
            "hotplug event detected (1 going online)",
        ),
        ("Error: EXIT: runnable task stall (sh[42] failed to run for 5.060s)", 1026, "sh[42] failed to run for 5.060s"),
        ("Error: run failed\n\nCaused by:\n    0: stats\n    1: EXIT: runtime error (no)", 1024, "no"),
        ("EXIT: scx_bpf_error (two\nlines) on CPU 3", 1025, "two\nlines"),
        ("EXIT: scx_bpf_error (never closed", 1025, "never closed"),
    ],
)
def test_the_wordings_of_c_and_rust_loaders(line: str, kind: int, message: str) -> None:
    found = parse_loader_stderr(f"stats: 1\n{line}\nbye\n")
    assert found is not None
    assert (found.kind, found.message) == (kind, message)


def test_the_last_exit_of_a_loader_that_restarts_counts() -> None:
    found = parse_loader_stderr(
        "EXIT: unregistered from the main kernel (cpu 1 going online)\nEXIT: disabled by sysrq-S\n"
    )
    assert found is not None
    assert found.kind == 67
    assert parse_loader_stderr("no exit here") is None


def test_the_kernel_log_lists_every_scheduler_with_its_error() -> None:
    events = parse_kmsg(text_of("console/scx-selftests-6.12.117.log").split("\n"))
    failed = [(event.scheduler, event.message) for event in events if event.is_error]
    assert failed == [
        ("enq_last_no_enq_fails", "SCX_OPS_ENQ_LAST requires ops.enqueue() to be implemented"),
        ("enq_select_cpu_fails", "kfunc with mask 0x8 called from an operation only allowing 0x4"),
        ("ddsp_bogus_dsq_fail", "non-existent DSQ 0xcafef00d for rcu_preempt[18]"),
        ("ddsp_vtimelocal_fail", "cannot use vtime ordering for built-in DSQs"),
    ]
    assert all(match_message(message) for _, message in failed)
    assert any(event.partial for event in events)
    assert any(event.reason == "unregistered from BPF" and not event.is_error for event in events)


def test_a_stall_dump_shows_the_lost_task() -> None:
    found = parse_loader_stderr(text_of("scx/qmap-stall-7.3.4.log"))
    assert found is not None
    dump = parse_dump(found.dump)
    assert (dump.trigger_comm, dump.trigger_pid) == ("kworker/u8:3", 40)
    assert dump.backtrace[2] == "scx_watchdog_workfn+0x1b6/0x260"
    assert [(cpu.cpu, cpu.nr_run, cpu.curr_comm, cpu.curr_pid) for cpu in dump.cpus] == [
        (0, 4, "kworker/u8:3", 40),
        (1, 3, "init", 114),
    ]
    assert dict(dump.events)["SCX_EV_DISPATCH_KEEP_LAST"] == 162
    assert not dump.truncated
    task = guilty_task(found.message, dump)
    assert task is not None
    assert (task.comm, task.pid, task.cpu, task.runnable_ms) == ("init", 130, 0, -6844)
    assert (task.state, task.flags, task.ops_state, task.dsq_id, task.cpus) == ("R", 3, 2, None, "3")
    assert "the BPF side lost it" in explain_placement(task)
    assert "handle_mm_fault+0xec/0x300" in dump.tasks[3].stack


def test_a_truncated_dump_says_so() -> None:
    found = parse_loader_stderr(text_of("scx/qmap-trunc-7.3.4.log"))
    assert found is not None
    dump = parse_dump(found.dump)
    assert dump.truncated
    assert dump.tasks
    assert dump.events == ()


OLD_DUMP = """\
sh[42] triggered exit kind 1026:
  runnable task stall (watchdog failed to check in for 5.001s)

Backtrace:
  scx_watchdog_workfn+0x14a/0x1f0

CPU states
----------

CPU 0   : nr_run=2 ops_qseq=12 new_field=7
          curr=my prog[42] class=ext_sched_class

 *R my prog[42] -1ms
      scx_state/flags=3/0xd ops_state/qseq=0/0
      cpus=01

  R kworker/0:1[9] -5012ms
      dsq_id=0x2a scx_state/flags=3/0x1 ops_state/qseq=0/7
      cpus=01

  R kworker/0:2[10] -12ms
      dsq_id=0x8000000000000002 scx_state/flags=3/0x1
"""


def test_fields_are_found_by_key_in_any_order_and_version() -> None:
    dump = parse_dump(OLD_DUMP)
    running, starved, local = dump.tasks
    assert (running.comm, running.curr, running.ops_state) == ("my prog", True, 0)
    assert (starved.dsq_id, starved.flags, starved.ops_state) == (42, 1, 0)
    assert local.ops_state is None
    assert dict(dump.cpus[0].fields)["new_field"] == "7"
    assert guilty_task(dump.message, dump) == starved
    assert "the scheduler's own DSQ 0x2a" in explain_placement(starved)
    assert "the kernel's local DSQ" in explain_placement(local)
    assert "running on CPU 0" in explain_placement(running)
    assert guilty_task("scx_bpf_error of my own", dump) is None


@pytest.mark.parametrize(
    ("dsq_id", "ops_state", "words"),
    [
        (1 << 63 | 1, 0, "global DSQ"),
        (1 << 63 | 1 << 62 | 3, 0, "local DSQ of CPU 3"),
        (1 << 63 | 99, 0, "built-in DSQ 0x"),
        (None, 1, "in the midst of ops.enqueue"),
        (None, 3, "in the midst of dispatch"),
        (None, 0, "does not say who has it"),
    ],
)
def test_each_placement_has_an_explanation(dsq_id: int | None, ops_state: int, words: str) -> None:
    task = DumpTask("sh", 42, 0, False, -5000, "R", 1, dsq_id, ops_state, (), "3", "")
    assert words in explain_placement(task)


@settings(deadline=None)
@given(st.text())
def test_any_text_can_be_read_as_a_dump_and_as_a_loaders_output(text: str) -> None:
    parse_dump(text)
    parse_loader_stderr(text)
    parse_kmsg(text.split("\n"))
    match_message(text)


@settings(deadline=None)
@given(st.data())
def test_a_dump_cut_anywhere_never_raises(data: st.DataObject) -> None:
    text = data.draw(st.sampled_from(SCX_LOGS)).read_text(errors="replace")
    start = data.draw(st.integers(0, len(text)))
    cut = text[start : start + data.draw(st.integers(0, 4000))]
    parse_dump(cut)
    found = parse_loader_stderr(cut)
    if found:
        dump = parse_dump(found.dump)
        for task in dump.tasks:
            assert explain_placement(task)


@settings(deadline=None)
@given(st.integers())
def test_any_number_is_an_exit_code(code: int) -> None:
    assert isinstance(decode_exit_code(code), str)
