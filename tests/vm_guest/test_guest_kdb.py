# SPDX-License-Identifier: Apache-2.0
"""A kernel that comes into its debugger by itself: an oops, a panic, kgdbwait; and its own shell, kdb, without GDB."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

import trees
from kernloop.debug import kgdb
from kernloop.debug.kgdb import State
from kernloop.errors import HarnessError, UsageError
from kernloop.vm.client import VM
from kernloop.vm.topology import Topology
from support import events_of, kernloop, start, until
from vms import check_nothing_left, sh, started, stop_all

pytestmark = pytest.mark.vm

# Longer than it takes under a load.
_SECONDS = 120.0


@pytest.fixture(autouse=True)
def all_stopped(own_folders: None) -> Iterator[None]:
    yield
    stop_all()


def guest(**words: object) -> VM:
    return started("a", kernel=trees.kernel().ref, kgdb=True, **words)


def test_an_oops_waits_in_the_debugger_and_not_in_a_verdict_of_a_hang() -> None:
    vm = guest(append=("kernloop_watchdog=6",))
    job = vm.exec_background(["sh", "-c", "echo EXCEPTION > /sys/kernel/debug/provoke-crash/DIRECT"], timeout=8)
    until(lambda: vm.info().state == "in-kgdb", _SECONDS, "the oops in KGDB")
    # The hardware's watchdog barks, and is wrong; so would be the command's deadline.
    until(lambda: "watchdog" in {entry["event"] for entry in events_of(vm.run)}, _SECONDS, "the watchdog")
    assert vm.job(job, timeout=8.5) is None
    entered = kgdb.enter(vm, timeout=_SECONDS)
    assert entered.stop and entered.stop.frame and entered.stop.frame.function == "lkdtm_EXCEPTION"
    assert entered.stop.reason == "connected"
    shown = kernloop("debug", "kgdb", "a", "backtrace", "--limit", "2", "--json")
    assert shown.json["threads"][0]["frames"][1]["function"] == "lkdtm_do_action"
    assert shown.json["threads"][0]["name"] == entered.stop.thread.name
    kgdb.end(vm, timeout=_SECONDS)
    done = vm.job(job, timeout=_SECONDS)
    assert done and done.verdict == "oops"
    assert vm.stop()["verdict"] == "oops"


def test_a_kernel_that_waits_as_it_boots_takes_commands_and_its_own_shell_needs_no_gdb() -> None:
    vm = guest(append=("kgdbwait",))
    assert vm.info().state == "in-kgdb"
    with pytest.raises(UsageError, match="GDB is not there"):
        kgdb.threads(vm)
    assert "kgdb_initial_breakpoint" in kgdb.kdb(vm, "bt")
    with pytest.raises(UsageError, match="kernel's debugger"):
        vm.exec(["true"])

    # Before the kernel protects its text, and out again after that.
    kgdb.enter(vm, timeout=_SECONDS)
    kgdb.set_break(vm, "run_init_process")
    stop = kgdb.go(vm, "continue", timeout=_SECONDS).stop
    assert stop and stop.frame and stop.frame.function == "run_init_process"
    assert kgdb.end(vm, timeout=_SECONDS).state is State.OFF
    # It boots on, and a command waits for that.
    assert sh(vm, "cat /proc/cmdline").stdout.split()[-1] == b"kgdbwait"

    # kdb alone, from a guest that runs: what only that can do, its own breakpoint and step.
    waits = start("vm", "exec", "a", "--", "sleep", "5")
    until(lambda: "2" in vm.info().facts["jobs"], _SECONDS, "the command runs")
    answer = kgdb.enter(vm, gdb=False)
    assert (answer.state, answer.gdb, answer.watch) == (State.IN_KGDB, "", "")
    crashes = vm.info().facts["reports"]
    assert "Linux version" in kgdb.kdb(vm, "dmesg")
    with pytest.raises(UsageError, match="one line"):
        kgdb.kdb(vm, "ps\ngo")
    assert "filename_mknodat" in kgdb.kdb(vm, "bp filename_mknodat")
    assert kgdb.kdb(vm, "go") == ""
    assert kgdb.state(vm).state is State.RUNNING
    job = vm.exec_background(["mkfifo", "/root/pipe"], timeout=30)
    until(lambda: kgdb.state(vm).state is State.IN_KGDB, _SECONDS, "kdb's breakpoint")
    assert "filename_mknodat" in kgdb.kdb(vm, "bt")
    assert "SS trap" in kgdb.kdb(vm, "ss")
    shown = kernloop("debug", "kgdb", "a", "kdb", "summary", "--json").json
    assert "release    7.3.4" in shown["text"]
    kgdb.end(vm, timeout=_SECONDS)
    done = vm.job(job, timeout=_SECONDS)
    assert done and done.verdict == "pass"
    # Who waits for a command hears why it takes longer.
    _, told = waits.communicate(timeout=_SECONDS)
    assert waits.returncode == 0
    assert b"a is in-kgdb" in told
    assert vm.info().facts["reports"] == crashes == []
    assert vm.stop()["verdict"] == "pass"
    check_nothing_left(vm.run)


def spins(vm: VM) -> bool:
    kgdb.enter(vm, timeout=_SECONDS)
    if "lkdtm_HARDLOCKUP" in [frame.function for frame in kgdb.backtrace(vm, "cpus")[1].frames]:
        return True
    kgdb.go(vm, "continue", timeout=0.2)
    return False


@pytest.mark.skipif("KERNLOOP_LONG_TESTS" not in os.environ, reason="KERNLOOP_LONG_TESTS is not set")
def test_a_panic_waits_as_well_and_a_cpu_with_its_interrupts_off_is_told_as_that() -> None:
    vm = guest()
    vm.exec_background(["sh", "-c", "echo PANIC > /sys/kernel/debug/provoke-crash/DIRECT"])
    until(lambda: vm.info().state == "in-kgdb", _SECONDS, "the panic in KGDB")
    kgdb.enter(vm, timeout=_SECONDS)
    assert "lkdtm_PANIC" in [frame.function for frame in kgdb.backtrace(vm)[0].frames]
    kgdb.end(vm, timeout=_SECONDS)
    until(lambda: vm.info().state == "panicked", _SECONDS, "the panic goes on")
    with pytest.raises(UsageError, match="is panicked"):
        kgdb.enter(vm)
    assert vm.stop()["verdict"] == "panic"
    check_nothing_left(vm.run)

    # Another CPU than the one that serves the console is fetched by NMI.
    vm = guest()
    vm.exec_background(["taskset", "2", "sh", "-c", "echo HARDLOCKUP > /sys/kernel/debug/provoke-crash/DIRECT"])
    until(lambda: spins(vm), _SECONDS, "it spins, and is seen")
    kgdb.end(vm, timeout=_SECONDS)
    vm.stop()

    vm = started("b", kernel=trees.kernel().ref, kgdb=True, topology=Topology(1))
    vm.exec_background(["sh", "-c", "echo HARDLOCKUP > /sys/kernel/debug/provoke-crash/DIRECT"])
    with pytest.raises(HarnessError, match="does not take SysRq g") as caught:
        kgdb.enter(vm, timeout=_SECONDS)
    assert "kernloop debug gdb b interrupt" in caught.value.hint
    assert (kgdb.state(vm).state, kgdb.state(vm).watch) == (State.OFF, "")
    vm.stop()
    check_nothing_left(vm.run)
