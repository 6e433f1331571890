# SPDX-License-Identifier: Apache-2.0
"""The engine on consoles recorded in VMs of ours, on cut and interleaved ones, and on any text at all."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernloop.report.engine import ConsoleParser, Crash, most_severe, parse_console
from kernloop.report.oops_table import ROWS
from kernloop.report.severity import Severity

CONSOLE = Path(__file__).parent.parent / "fixtures" / "console"
LOGS = sorted(CONSOLE.glob("*.log"))


def lines_of(name: str) -> list[str]:
    return (CONSOLE / name).read_text(errors="replace").split("\n")


def worst_of(name: str) -> Crash:
    crash = most_severe(parse_console(lines_of(name)))
    assert crash is not None
    return crash


@pytest.mark.parametrize(
    ("name", "kind", "function", "comm"),
    [
        ("sysrq-crash-7.3.4.log", "kernel-panic", "sysrq_handle_crash", "init"),
        ("sysrq-crash-6.12.117.log", "kernel-panic", "sysrq_handle_crash", "sh"),
        ("tcg-int3-oops-6.12.117.log", "int3", "ttwu_queue_wakelist", "systemd-udevd"),
        ("no-root-6.17.13.log", "kernel-exit", "do_exit", "init"),
        ("init-killed-7.3.4.log", "kernel-exit", "do_exit", "init"),
        ("vfs-7.3.4.log", "vfs", "mount_root_generic", "swapper/0"),
    ],
)
def test_a_recorded_panic_has_its_kind_and_guilty_function(name: str, kind: str, function: str, comm: str) -> None:
    crash = worst_of(name)
    assert (crash.kind, crash.function, crash.comm) == (kind, function, comm)
    assert crash.severity is Severity.PANIC
    assert crash.panicked


def test_a_warning_of_a_kernel_that_names_no_files_has_function_and_task() -> None:
    (crash,) = parse_console(lines_of("warn-7.3.4.log"))
    assert (crash.kind, crash.severity, crash.title) == ("warning", Severity.WARNING, "WARNING in kl_fifo_exit")
    assert (crash.function, crash.cpu, crash.comm, crash.pid) == ("kl_fifo_exit", 0, "rmmod", 55)


def test_a_fatal_oops_is_one_crash_with_the_oops_as_its_cause() -> None:
    crashes = parse_console(lines_of("tcg-int3-oops-6.12.117.log"))
    last = crashes[-1]
    assert last.title == "int3 in ttwu_queue_wakelist"
    assert last.message == "Oops: int3: 0000 [#1] PREEMPT SMP NOPTI"
    assert (last.cpu, last.pid) == (1, 78)
    assert [crash.kind for crash in crashes].count("kernel-panic") == 0
    assert any("Kernel panic" in line for line in last.excerpt)


@pytest.mark.parametrize(
    ("name", "reason", "message"),
    [
        ("qmap-bpferr-6.12.117.console.log", "scx_bpf_error", "test triggering error"),
        ("qmap-stall-6.12.117.console.log", "runnable task stall", "systemd-udevd[78] failed to run for 5.060s"),
        ("qmap-kstall-6.12.117.console.log", "runnable task stall", "watchdog failed to check in for 5.001s"),
    ],
)
def test_an_ejected_scheduler_is_no_oops(name: str, reason: str, message: str) -> None:
    (crash,) = parse_console(lines_of(name))
    assert crash.kind == "sched-ext"
    assert crash.severity is Severity.EJECTED
    assert crash.title == f'sched_ext: "qmap" disabled ({reason})'
    assert crash.message == message
    assert crash.frames
    assert not crash.panicked


def test_an_orderly_unload_is_no_crash() -> None:
    line = '[   10.7] sched_ext: BPF scheduler "qmap" disabled (unregistered from user space)'
    assert parse_console([line, '[   10.8] sched_ext: BPF scheduler "qmap" enabled']) == ()


def test_lines_of_a_crash_are_counted_from_one() -> None:
    lines = lines_of("sysrq-crash-7.3.4.log")
    crash = worst_of("sysrq-crash-7.3.4.log")
    assert "Kernel panic" in lines[crash.start_line - 1]
    assert "Kernel Offset" in lines[crash.end_line - 1]


HEADERS = [
    ("BUG: kernel NULL pointer dereference, address: 0000000000000000", "null-pointer-dereference", "oops"),
    ("BUG: unable to handle page fault for address: ffff88002bde1e40", "paging-request", "oops"),
    (
        "Oops: general protection fault, probably for non-canonical address 0xdead: 0000 [#1] SMP",
        "general-protection-fault",
        "oops",
    ),
    ("kernel BUG at lib/foo.c:29!", "kernel-bug", "oops"),
    ("Oops: invalid opcode: 0000 [#1] SMP", "invalid-opcode", "oops"),
    ("Oops: divide error: 0000 [#1] SMP", "divide-error", "oops"),
    ("traps: PANIC: double fault, error_code: 0x0", "double-fault", "oops"),
    ("BUG: TASK stack guard page was hit at 00000000 (stack is 0..1)", "stack-guard-page", "oops"),
    ("Oops: Oops: 0002 [#1] SMP NOPTI", "internal-error", "oops"),
    ("Kernel panic - not syncing: Out of memory: system-wide panic_on_oom is enabled", "oom", "panic"),
    ("Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)", "vfs", "panic"),
    ("WARNING: CPU: 1 PID: 42 at kernel/fork.c:12 copy_process+0x1/0x2", "warning", "warning"),
    ("WARNING: CPU: 1 PID: 42 at copy_process+0x1/0x2", "warning", "warning"),
    ("WARNING: at copy_process+0x1/0x2, CPU#1: sh/42", "warning", "warning"),
    ("WARNING: kernel/fork.c:12 at copy_process+0x1/0x2, CPU#1: sh/42", "warning", "warning"),
    ("watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [sh:42]", "soft-lockup", "hang"),
    ("watchdog: Watchdog detected hard LOCKUP on cpu 1", "hard-lockup", "hang"),
    ("watchdog: CPU1: Watchdog detected hard LOCKUP on cpu 1", "hard-lockup", "hang"),
    ("rcu: INFO: rcu_preempt self-detected stall on CPU", "rcu-stall", "hang"),
    ("rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:", "rcu-stall", "hang"),
    ("rcu: INFO: rcu_sched detected expedited stalls on CPUs/tasks: { 1-... }", "rcu-stall", "hang"),
    ("INFO: task sh:42 blocked for more than 120 seconds.", "hung-task", "hang"),
    ("INFO: task sh:42 blocked in I/O wait for more than 120 seconds.", "hung-task", "hang"),
    ("BUG: workqueue lockup - pool cpus=1 node=0 flags=0x0 nice=0 stuck for 31s!", "workqueue-lockup", "hang"),
    ("BUG: scheduling while atomic: sh/42/0x00000002", "scheduling-while-atomic", "oops"),
    ("BUG: sleeping function called from invalid context at mm/slab.h:1", "sleeping-function", "warning"),
    ("BUG: KASAN: slab-use-after-free in foo_bar+0x1/0x2 [mod]", "kasan-use-after-free-read", "oops"),
    ("BUG: KFENCE: use-after-free read in foo_bar+0x1/0x2", "kfence-use-after-free-read", "oops"),
    ("BUG: KCSAN: data-race in foo_bar / foo_baz", "kcsan-datarace", "warning"),
    ("UBSAN: array-index-out-of-bounds in kernel/foo.c:12:3", "ubsan-array-index", "warning"),
    # A header whose body is missing is not believed beyond its first word.
    ("WARNING: possible circular locking dependency detected", "warning", "warning"),
    ("WARNING: possible recursive locking detected", "warning", "warning"),
    ("WARNING: possible irq lock inversion dependency detected", "warning", "warning"),
    ("WARNING: SOFTIRQ-safe -> SOFTIRQ-unsafe lock order detected", "deadlock", "warning"),
    ("WARNING: inconsistent lock state", "warning", "warning"),
    ("list_del corruption, ffff8880 ->next is LIST_POISON1", "corrupted-list", "oops"),
    ("BUG: Bad page state in process sh  pfn:12345", "bad-page", "oops"),
    ('sched_ext: BPF scheduler "qmap" disabled (runtime error)', "sched-ext", "ejected"),
    ('sched_ext: BPF sub-scheduler "qmap" disabled (reenqueue limit)', "sched-ext", "ejected"),
]


@pytest.mark.parametrize(("text", "kind", "severity"), HEADERS)
def test_a_header_has_its_kind_and_severity(text: str, kind: str, severity: str) -> None:
    (crash,) = parse_console([f"[    1.234567] {text}"])
    assert (crash.kind, crash.severity) == (kind, severity)
    assert "{" not in crash.title
    assert crash.title


@pytest.mark.parametrize(
    "text",
    [
        "rcu: Hierarchical RCU implementation.",
        "Kernel command line: panic=-1 oops=panic hung_task_panic=1 softlockup_panic=1",
        "random: crng init done",
        "watchdog: Delayed init of the lockup detector failed: -19",
        "list_lru: registered",
        "x86/mm: Checked W+X mappings: passed, no W+X pages found.",
    ],
)
def test_ordinary_boot_lines_are_no_crash(text: str) -> None:
    assert parse_console([f"[    1.234567] {text}"]) == ()


def test_every_kind_of_the_table_can_be_told_by_severity() -> None:
    for row in ROWS:
        assert row.patterns
        assert (row.severity is Severity.PANIC) == row.header.startswith("Kernel panic")


NULL_DEREF_TEXT = """\
[    5.1] BUG: kernel NULL pointer dereference, address: 0000000000000008
[    5.1] #PF: supervisor read access in kernel mode
[    5.1] Oops: Oops: 0000 [#1] SMP NOPTI
[    5.1] CPU: 3 UID: 0 PID: 42 Comm: my prog Not tainted 7.3.4 #1
[    5.1] RIP: 0010:foo_read.constprop.0+0x12/0x40 [foo]
[    5.1] Call Trace:
[    5.1]  <TASK>
[    5.1]  ? __die+0x1f/0x60
[    5.1]  vfs_read+0xcf/0x450
[    5.1]  </TASK>
[    5.1] ---[ end trace 0000000000000000 ]---
"""
NULL_DEREF = NULL_DEREF_TEXT.splitlines()


def test_a_fault_is_blamed_on_the_function_the_cpu_was_in() -> None:
    (crash,) = parse_console(NULL_DEREF)
    assert crash.title == "BUG: unable to handle kernel NULL pointer dereference in foo_read"
    assert (crash.cpu, crash.comm, crash.pid) == (3, "my prog", 42)
    assert crash.severity is Severity.OOPS
    assert not crash.panicked


def test_a_jump_to_null_is_blamed_on_the_caller() -> None:
    lines = [line.replace("foo_read.constprop.0+0x12/0x40 [foo]", "0x0") for line in NULL_DEREF]
    (crash,) = parse_console(lines)
    assert crash.function == "vfs_read"


def test_a_panic_that_follows_makes_the_oops_fatal() -> None:
    (crash,) = parse_console([*NULL_DEREF, "[    5.2] Kernel panic - not syncing: Fatal exception"])
    assert crash.kind == "null-pointer-dereference"
    assert crash.severity is Severity.PANIC
    assert crash.panicked


def test_a_panic_that_comes_late_still_belongs_to_the_oops() -> None:
    noise = [f"[    5.2] usb 1-1: message {n}" for n in range(50)]
    (crash,) = parse_console([*NULL_DEREF, *noise, "[    9.2] Kernel panic - not syncing: Fatal exception"])
    assert crash.function == "foo_read"
    assert crash.panicked


def test_a_hung_task_is_blamed_on_what_it_waits_in() -> None:
    lines = [
        "INFO: task sh:42 blocked for more than 120 seconds.",
        "      Not tainted 7.3.4 #1",
        "task:sh              state:D stack:0     pid:42    tgid:42    ppid:1 flags:0x00080000",
        "Call Trace:",
        " <TASK>",
        " __schedule+0x4a3/0x1420",
        " schedule+0x27/0x90",
        " schedule_preempt_disabled+0x15/0x20",
        " __mutex_lock.constprop.0+0x3b1/0x9d0",
        " my_ioctl+0x55/0x80",
        " </TASK>",
        "INFO: task cat:43 blocked for more than 120 seconds.",
    ]
    first, second = parse_console(lines)
    assert (first.title, first.comm, first.pid) == ("INFO: task hung in my_ioctl", "sh", 42)
    assert (second.function, second.pid) == (None, 43)


def test_lines_of_another_cpu_stay_out_of_the_trace() -> None:
    lines = [
        "[    5.1][  T42] kernel BUG at lib/foo.c:29!",
        "[    5.1][  T43]  stranger+0x1/0x2",
        "[    5.1][  T42] RIP: 0010:culprit+0x1/0x2",
        "[    5.1][  T42]  caller+0x1/0x2",
    ]
    (crash,) = parse_console(lines)
    assert crash.function == "culprit"
    assert [frame.function for frame in crash.frames] == ["caller"]


def test_the_worst_crash_wins_and_the_first_among_equals() -> None:
    crashes = parse_console([*NULL_DEREF, "INFO: task a:1 blocked for more than 9 seconds.", *NULL_DEREF])
    worst = most_severe(crashes)
    assert worst is crashes[0]
    assert most_severe([]) is None


def test_an_open_report_can_be_looked_at_before_it_ends() -> None:
    parser = ConsoleParser()
    for line in NULL_DEREF[:6]:
        assert parser.feed(line) is None
    assert parser.pending is not None
    assert parser.pending.function == "foo_read"
    assert parser.finish() == parse_console(NULL_DEREF[:6])[0]
    assert parser.finish() is None


def test_an_excerpt_is_bounded_and_free_of_registers() -> None:
    for path in LOGS:
        for crash in parse_console(lines_of(path.name)):
            assert 0 < len(crash.excerpt) <= 40
            assert not any("RAX: " in line for line in crash.excerpt)


@pytest.mark.parametrize("path", LOGS, ids=lambda path: path.name)
def test_a_log_cut_anywhere_never_raises(path: Path) -> None:
    lines = lines_of(path.name)
    for start in range(0, len(lines), 37):
        parse_console(lines[start : start + 60])
        parse_console(line[: start % 50] for line in lines[start : start + 60])


WORDS = st.sampled_from([text for text, _, _ in HEADERS] + NULL_DEREF)


@settings(deadline=None)
@given(st.lists(st.one_of(st.text(max_size=60), WORDS), max_size=40))
def test_any_text_never_raises_and_line_by_line_equals_at_once(lines: list[str]) -> None:
    parser = ConsoleParser()
    fed = {crash.start_line: crash for line in lines if (crash := parser.feed(line))}
    while last := parser.finish():
        fed[last.start_line] = last
    assert tuple(fed[start] for start in sorted(fed)) == parse_console(lines)
    for crash in fed.values():
        assert 1 <= crash.start_line <= crash.end_line <= len(lines)


def test_absurd_numbers_and_lengths_never_raise() -> None:
    digits = "9" * 10_000
    parse_console(
        [NULL_DEREF[0], f"CPU: {digits} PID: {digits} Comm: x Not tainted", f" foo+0x{digits}/0x1", digits * 9]
    )
    parse_console([f"watchdog: BUG: soft lockup - CPU#{digits} stuck for 1s! [x:{digits}]"])


def test_a_line_of_repeated_headers_takes_no_time_to_speak_of() -> None:
    started = time.process_time()
    for row in ROWS:
        parse_console([(row.header + filler) * 400 for filler in ("", " ", "list_", "(")])
    assert time.process_time() - started < 5


def test_the_last_line_of_a_panic_is_not_another_panic() -> None:
    lines = ["[    5.7] Kernel panic - not syncing: gone", "[    5.7] Call Trace:", "[    5.7]  panic+0x6b/0x70"]
    end = "[    5.8] ---[ end Kernel panic - not syncing: gone ]---"
    assert [crash.title for crash in parse_console([*lines, end])] == ["kernel panic: gone"]
