# SPDX-License-Identifier: Apache-2.0
"""`kernloop debug ftrace` in a live VM: functions, times, events, and what the kernel does not have; both tracers in
one with the host's user space."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernloop.debug.tracers import guest
from kernloop.vm import guest_programs
from kernloop.vm.client import VM
from support import kernloop, start, until
from vms import sh, started, stop_all

pytestmark = pytest.mark.vm

READER = "while :; do cat /proc/uptime >/dev/null; done"


@pytest.fixture
def traced() -> Iterator[VM]:
    yield started("tracers")
    stop_all()


def instances(vm: VM) -> bytes:
    return sh(vm, "ls /sys/kernel/tracing/instances", timeout=20).stdout


def nothing_set(vm: VM) -> bool:
    look = "ls /sys/kernel/tracing/instances; cat /sys/kernel/tracing/enabled_functions; grep -v '^####' $0"
    return vm.exec(["sh", "-c", look, "/sys/kernel/tracing/set_graph_function"], timeout=100).stdout == b""


def test_calls_have_their_times_and_events_their_filter(traced: VM) -> None:
    job = traced.exec_background(["sh", "-c", READER])
    words = ("--functions", "vfs_read", "--graph", "--events", "sched:sched_switch", "--filter", "prev_pid > 0")
    value = kernloop("debug", "ftrace", "tracers", *words, "--seconds", "1", "--rows", "5", "--json", seconds=300).json
    traced.kill(job)
    sums = {one["name"]: one for one in value["sums"]}
    assert sums["vfs_read"]["count"] > 1
    assert sums["vfs_read"]["us"] >= sums["vfs_read"]["max_us"] > 0
    assert sums["sched_switch"]["count"]
    assert len(value["trace"]) == 5
    text = Path(value["raw"]).read_text()
    assert "prev_pid=0 " not in text
    rest = kernloop("debug", "page", value["raw"], "--since", str(value["cursor"]), "--json").json
    assert rest["text"] in text
    assert instances(traced) == b""


def test_events_have_filters_of_their_own_and_functions_are_taken_out_again(traced: VM) -> None:
    traced.exec_background(["sh", "-c", READER])
    words = ("--functions", "vfs_re*", "--functions", "!vfs_read", "--events", "sched_switch:prev_pid==0")
    more = ("--events", 'sched:sched_wakeup:comm ~ "rcu_*"', "--events", "sched_waking", "--filter", "pid == 1")
    value = kernloop("debug", "ftrace", "tracers", *words, *more, "--seconds", "1", "--json", seconds=300).json
    assert {one["name"] for one in value["sums"]} >= {"sched_switch", "sched_wakeup", "sched_waking"}
    lines = Path(value["raw"]).read_text().splitlines()
    filters = {"sched_switch:": "prev_pid=0 ", "sched_wakeup:": "comm=rcu_", "sched_waking:": " pid=1 "}
    for event, holds in filters.items():
        assert [line for line in lines if event in line and holds not in line] == []
    assert "vfs_read" not in {one["name"] for one in value["sums"]}


def test_a_tree_has_what_a_function_calls_and_leaves_nothing_set(traced: VM) -> None:
    traced.exec_background(["sh", "-c", "while :; do read line </proc/uptime; usleep 20000; done"])
    words = ("--tree", "ksys_read", "--functions", "vfs_*", "--functions", "*seq_*", "--seconds", "1", "--rows", "200")
    value = kernloop("debug", "ftrace", "tracers", *words, "--json", seconds=300).json
    depths = {line["name"]: line["depth"] for line in value["trace"]}
    assert depths["ksys_read"] == 0
    assert depths["vfs_read"] > 0
    assert nothing_set(traced)
    refused = kernloop("debug", "ftrace", "tracers", "--tree", "ksys_raed", seconds=120)
    assert refused.status == 2
    assert "ksys_read" in refused.text
    assert nothing_set(traced)


def test_what_the_kernel_does_not_have_is_the_callers_and_the_nearest_is_named(traced: VM) -> None:
    for words, near in (
        (("--functions", "vfs_raed"), "vfs_read"),
        (("--events", "sched_swich"), "sched_switch"),
        (("--events", "sched_switch", "--filter", "nofield==1"), "Field not found"),
        (("--events", "sched_switch:nofield==1"), "Field not found"),
        ((), "--functions"),
    ):
        done = kernloop("debug", "ftrace", "tracers", *words, seconds=120)
        assert done.status == 2, done.text
        assert near in done.text
    assert instances(traced) == b""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_ended_kernloop_leaves_nothing_on(traced: VM, number: int) -> None:
    words = ("--tree", "ksys_read", "--functions", "vfs_read", "--events", "sched:sched_switch", "--seconds", "600")
    process = start("debug", "ftrace", "tracers", *words, "--json")
    on = "grep -qs 1 /sys/kernel/tracing/instances/kernloop-ftrace/tracing_on"
    until(lambda: sh(traced, on, timeout=60).status == 0, 200, "the trace")
    process.send_signal(number)
    out, err = process.communicate(timeout=300)
    if number == signal.SIGINT:
        assert process.returncode == 0, err
        assert b'"stopped": "asked"' in out
    until(lambda: nothing_set(traced), 200, "the end of the instance")


# Killed after so many milliseconds; its cleaner works on, under the same name.
KILLED = """
for ms in 5 10 15 20 25 30 35 40 50 60 80 100; do
    $0 60 1000000 tracer function_graph function vfs_read tree ksys_read </dev/zero >/dev/null 2>&1 &
    usleep ${ms}000
    kill -9 $!
    wait $!
    while pidof ${0##*/} >/dev/null; do usleep 20000; done
    ls /sys/kernel/tracing/instances
    grep -v '^####' /sys/kernel/tracing/set_graph_function
done 2>/dev/null
"""


def test_a_recorder_that_is_killed_while_it_sets_up_leaves_nothing(traced: VM) -> None:
    program = guest.put(traced, guest_programs.build("ftrace", [Path(guest.__file__).parent / "ftrace.c"]))
    assert traced.exec(["sh", "-c", KILLED, program], timeout=300).stdout == b""
    assert nothing_set(traced)


def test_both_trace_a_guest_that_has_the_hosts_programs() -> None:
    try:
        vm = started("tracers", backend="vng")
        vm.exec_background(["sh", "-c", READER])
        traced = kernloop(
            "debug", "ftrace", "tracers", "--functions", "vfs_read", "--graph", "--seconds", "1", "--json"
        )
        assert {one["name"] for one in traced.json["sums"]} == {"vfs_read"}
        program = "kprobe:vfs_read { @[comm] = count(); @size = hist(arg2); }"
        value = kernloop("debug", "bpftrace", "tracers", program, "--seconds", "2", "--json", seconds=300).json
        maps = {one["name"]: one for one in value["maps"]}
        assert {"cat"} <= {row["key"] for row in maps["@"]["rows"]}
        assert maps["@size"]["kind"] == "hist"
        # It ran where it lies: nothing was sent.
        assert b"bpftrace" not in sh(vm, "ls /run/kernloop").stdout
        assert nothing_set(vm)
    finally:
        stop_all()
