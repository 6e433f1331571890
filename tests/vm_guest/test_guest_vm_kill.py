# SPDX-License-Identifier: Apache-2.0
"""VMs whose parts are killed, stopped or crash: the listing is true, the run gets a verdict, nothing is left."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from kernloop import runs
from kernloop.errors import HarnessError, UsageError
from kernloop.vm import client
from kernloop.vm.answers import ExecResult
from kernloop.vm.client import VM
from kernloop.vm.request import VmRequest
from support import alive, child, events_of, keeper_of, processes_naming, runs_dir, said, until
from vms import CLEANED, check_nothing_left, descriptors, pids_of, sh, started, stop_all

pytestmark = pytest.mark.vm
CLIENT = "import sys; from kernloop.vm import client; vm = client.find(sys.argv[1]);"


@pytest.fixture(autouse=True)
def all_stopped(own_folders: None) -> Iterator[None]:
    yield
    stop_all()


def states() -> dict[str, str]:
    return {info.name: info.state for info in client.listing()}


def judged(vm: VM) -> dict[str, Any]:
    return runs.wait_for_verdict(vm.run, CLEANED)


def test_a_killed_supervisor_takes_all_with_it_and_its_clients_hear_of_it() -> None:
    vm = started("a")
    other = child(f"{CLIENT}\ntry: vm.exec(['sleep', '60'])\nexcept Exception as error: print(repr(error))", "a")
    until(lambda: vm.info().facts["jobs"], 60, "the command runs")
    os.kill(pids_of(vm.run)["supervisor"], signal.SIGKILL)
    until(lambda: not states(), CLEANED, "it is not listed any more")
    assert "has gone" in said(other)
    assert judged(vm)["verdict"] == "infra"
    assert "killed" in judged(vm)["summary"]
    check_nothing_left(vm.run)
    with pytest.raises(HarnessError, match="has ended"):
        vm.exec(["true"])
    assert started("a").exec(["echo", "again"]).stdout == b"again\n"


def test_a_killed_qemu_is_lost_and_says_by_which_signal() -> None:
    vm = started()
    number = vm.exec_background(["sleep", "60"])
    os.kill(pids_of(vm.run)["qemu"], signal.SIGKILL)
    found = vm.wait_exit(timeout=CLEANED)
    assert (found.matched, found.state) == (True, "stopped")
    verdict = judged(vm)
    assert (verdict["verdict"], verdict["exit_code"]) == ("lost", 125)
    assert "signal 9" in verdict["summary"]
    assert runs.read_json(vm.run / f"jobs/{number}/result.json")["verdict"] == "lost"
    check_nothing_left(vm.run)


def test_a_command_under_which_qemu_goes_is_lost_and_exits_125() -> None:
    vm = started()

    def end_qemu() -> None:
        until(lambda: vm.info().facts["jobs"], 60, "the command runs")
        os.kill(pids_of(vm.run)["qemu"], signal.SIGTERM)

    threading.Thread(target=end_qemu).start()
    result = vm.exec(["sleep", "60"])
    assert (result.verdict, result.exit_code, result.summary) == ("lost", 125, "QEMU is gone")
    assert "terminating on signal 15" in judged(vm)["summary"]


def test_a_vm_whose_command_was_lost_with_its_qemu_does_not_run() -> None:
    for _ in range(5):
        vm = started()
        os.kill(pids_of(vm.run)["qemu"], signal.SIGKILL)
        states = []
        with contextlib.suppress(HarnessError):
            assert vm.exec(["true"]).verdict == "lost"
            states.append(vm.info().state)
            vm.exec(["true"])
            states.append("it takes commands")
        assert states in ([], ["stopped"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_supervisor_told_to_end_does_and_a_terminals_signals_are_not_for_it(number: signal.Signals) -> None:
    vm = started()
    os.kill(pids_of(vm.run)["supervisor"], number)
    if number is signal.SIGTERM:
        runs.wait_until_over(vm.run, CLEANED)
        assert (judged(vm)["verdict"], judged(vm)["summary"]) == ("pass", "stopped by a signal")
        check_nothing_left(vm.run)
    else:
        assert sh(vm, "echo here").stdout == b"here\n"


def test_a_supervisor_that_stands_still_gives_no_answer_and_can_still_be_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client, "_KILLED_SECONDS", 5.0)
    vm, other = started("a"), started("b")
    os.kill(pids_of(vm.run)["supervisor"], signal.SIGSTOP)
    begun = time.monotonic()
    assert states() == {"a": "no answer", "b": "running"}
    assert time.monotonic() - begun < 20
    verdict = vm.stop()
    assert verdict["verdict"] == "infra"
    assert states() == {"b": "running"}
    check_nothing_left(vm.run)
    other.stop()


def test_a_qemu_that_stands_still_gives_no_answer_its_commands_end_by_their_deadline_and_it_goes_on() -> None:
    vm = started("a")
    os.kill(pids_of(vm.run)["qemu"], signal.SIGSTOP)
    # kill(2) returns before the last thread of a busy process has come to a stop.
    until(lambda: states() == {"a": "no answer"}, 60, "seen to stand still")
    result = vm.exec(["true"], timeout=1)
    assert (result.verdict, result.exit_code) == ("hang", 124)
    assert "does not answer" in result.summary
    os.kill(pids_of(vm.run)["qemu"], signal.SIGCONT)
    until(lambda: states() == {"a": "running"}, 60, "seen to run again")
    assert sh(vm, "echo on").stdout == b"on\n"
    os.kill(pids_of(vm.run)["qemu"], signal.SIGSTOP)
    assert vm.stop()["verdict"] == "pass"
    check_nothing_left(vm.run)


def test_without_its_keeper_a_killed_supervisor_still_takes_qemu_with_it_and_the_run_is_ours() -> None:
    vm = started("a")
    pids = pids_of(vm.run)
    os.kill(keeper_of(pids["supervisor"]), signal.SIGKILL)
    assert sh(vm, "echo here").stdout == b"here\n"
    os.kill(pids["supervisor"], signal.SIGKILL)
    until(lambda: not alive(pids["qemu"]), CLEANED, "QEMU gone")
    until(lambda: not states(), CLEANED, "not listed")
    [summary] = runs.listing()
    assert (summary.verdict, summary.live) == ("infra", False)


def test_a_panic_is_the_verdict_of_the_command_and_of_the_run_and_the_guest_can_be_dumped(tmp_path: Path) -> None:
    vm = started("a")
    result = sh(vm, "echo before; sleep 0.5; echo c > /proc/sysrq-trigger; sleep 30")
    assert (result.verdict, result.exit_code, result.stdout) == ("panic", 120, b"before\n")
    assert "sysrq_handle_crash" in result.summary
    assert result.next.startswith("kernloop report ")
    assert states() == {"a": "panicked"}
    assert vm.wait_exit(timeout=60).state == "panicked"
    assert vm.wait_report(timeout=0).matched
    with pytest.raises(HarnessError, match=r"has panicked: .*sysrq triggered crash"):
        vm.exec(["true"])
    vm.dump(tmp_path / "core")
    assert (tmp_path / "core").read_bytes()[:8] == b"KDUMP   "
    with pytest.raises(UsageError, match="panicked"):
        vm.resume()
    assert vm.stop()["verdict"] == "panic"
    check_nothing_left(vm.run)


def test_an_oops_is_the_verdict_of_the_command_and_of_the_run_though_the_kernel_lives() -> None:
    vm = started()
    lines = (
        "BUG: kernel NULL pointer dereference, address: 0000000000000000",
        "Oops: Oops: 0002 [#1] SMP NOPTI",
        "RIP: 0010:some_function+0x1/0x20",
        "---[ end trace 0000000000000000 ]---",
    )
    result = vm.exec(["sh", "-c", 'for line; do echo "$line" > /dev/kmsg; done', "sh", *lines])
    assert (result.verdict, result.exit_code) == ("oops", 120)
    assert "some_function" in result.summary
    assert sh(vm, "true").verdict == "pass"
    assert vm.stop()["verdict"] == "oops"


def test_an_nmi_makes_the_kernel_panic_with_a_backtrace() -> None:
    vm = started()
    cursor = vm.nmi()
    assert vm.wait_for("Kernel panic - not syncing: NMI", since=cursor, timeout=60).matched
    assert vm.wait_exit(timeout=60).state == "panicked"
    assert vm.stop()["verdict"] == "panic"


@pytest.mark.parametrize(
    ("command", "said_", "verdict"),
    [("poweroff -f", "the guest powered itself off", "pass"), ("reboot -f", "the guest was reset", "lost")],
)
def test_a_guest_that_goes_by_itself_ends_its_vm(command: str, said_: str, verdict: str) -> None:
    vm = started()
    result = sh(vm, f"{command}; sleep 30")
    assert (result.verdict, result.exit_code, result.summary) == ("lost", 125, said_)
    assert vm.wait_exit(timeout=60).matched
    assert judged(vm)["verdict"] == verdict
    assert not states()
    check_nothing_left(vm.run)


def test_stopping_ends_commands_that_run_and_their_clients_are_told() -> None:
    vm = started()
    results: list[ExecResult] = []
    thread = threading.Thread(target=lambda: results.append(vm.exec(["sleep", "60"])))
    thread.start()
    until(lambda: vm.info().facts["jobs"], 60, "the command runs")
    assert vm.stop()["verdict"] == "pass"
    thread.join(60)
    assert (results[0].verdict, results[0].summary) == ("lost", "the VM was ended: stopped")


def test_a_client_that_does_not_read_cannot_keep_a_vm_from_being_stopped() -> None:
    vm = started("a")
    script = f"{CLIENT}\nimport time; vm.exec(['yes'], on_stdout=lambda data: time.sleep(1000))"
    stalled = child(script, "a")
    until(lambda: vm.info().facts["jobs"], 60, "the command runs")
    time.sleep(1)  # until more is written than anybody takes
    begun = time.monotonic()
    assert vm.stop()["verdict"] == "pass"
    assert time.monotonic() - begun < 10
    stalled.kill()
    stalled.communicate()
    check_nothing_left(vm.run)


def test_a_vm_that_nobody_uses_stops_and_one_with_a_command_does_not() -> None:
    # Between two calls a loaded machine may let a second pass, in which nobody uses it.
    vm = started(idle=3.0)
    assert sh(vm, "sleep 4").verdict == "pass"
    number = vm.exec_background(["sleep", "4"])
    assert vm.job(number, timeout=60) is not None
    runs.wait_until_over(vm.run, 20)
    assert (judged(vm)["verdict"], judged(vm)["summary"]) == ("pass", "stopped: nobody used it for 3 s")
    check_nothing_left(vm.run)


def test_names_are_taken_once_also_by_two_at_the_same_time() -> None:
    begun = [child("from kernloop.vm import client; from kernloop.vm.request import VmRequest\n"
                   "try: print(client.start(VmRequest(name='a')).name)\n"
                   "except Exception as error: print(type(error).__name__, error)") for _ in range(2)]  # fmt: skip
    words = sorted(said(process) for process in begun)
    assert words == ["UsageError a VM called a is running already", "a"]
    assert len(list(runs_dir().iterdir())) == 1
    for process in begun:
        process.communicate()
    for name in ("a b", "../x", "-x", ".x", "x" * 64):
        with pytest.raises(UsageError, match="cannot name"):
            started(name)


def test_this_machine_takes_no_more_vms_than_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERNLOOP_MAX_VMS", "1")
    vm = started("a")
    with pytest.raises(HarnessError, match="the limit is 1"):
        started("b")
    monkeypatch.setenv("KERNLOOP_MAX_VMS", "9")
    monkeypatch.setenv("KERNLOOP_VM_MEMORY", "1000")
    with pytest.raises(HarnessError, match="more than 1000 MiB"):
        started("b")
    monkeypatch.setenv("KERNLOOP_VM_MEMORY", "much")
    with pytest.raises(UsageError, match="no number"):
        started("b")
    monkeypatch.delenv("KERNLOOP_VM_MEMORY")
    vm.stop()
    assert started("b").name == "b"


def test_whoever_starts_a_vm_and_goes_before_it_is_up_leaves_none() -> None:
    process = child("from kernloop.vm import client; from kernloop.vm.request import VmRequest\n"
                    "client.start(VmRequest(name='a', cold=True))")  # fmt: skip
    until(lambda: any("qemu-started" in str(events_of(run)) for run in runs_dir().glob("*")), 30, "QEMU runs")
    [run] = runs_dir().iterdir()
    assert states() == {"a": "starting"}
    process.kill()
    process.communicate()
    until(lambda: not runs.is_live(run), CLEANED, "the supervisor is gone")
    assert runs.read_json(run / "verdict.json")["verdict"] == "infra"
    check_nothing_left(run)


# A supervisor whose client dies between its last look at it and the word that the VM is up.
TOO_LATE = """
import os, signal
from kernloop import runs
from kernloop.vm.supervisor import main

note, client = runs.Run.note, os.getppid()

def noted(run, event, **detail):
    note(run, event, **detail)
    if event == "serving":
        os.kill(client, signal.SIGKILL)
        while os.getppid() == client:
            pass

runs.Run.note = noted
main()
"""


def test_whoever_starts_a_vm_and_goes_at_the_last_moment_leaves_none() -> None:
    process = child("import sys; from kernloop.vm import client; from kernloop.vm.request import VmRequest\n"
                    "client._SUPERVISOR = sys.argv[1]; client.start(VmRequest(name='a'))", TOO_LATE)  # fmt: skip
    assert process.wait(60) == -signal.SIGKILL
    [run] = runs_dir().iterdir()
    runs.wait_until_over(run, 20)
    assert "was gone before it was up" in runs.wait_for_verdict(run, CLEANED)["summary"]
    check_nothing_left(run)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_start_that_is_killed_is_an_error_with_a_hint(number: signal.Signals) -> None:
    errors: list[HarnessError] = []

    def start() -> None:
        try:
            started("a", cold=True)
        except HarnessError as error:
            errors.append(error)

    before = descriptors()
    thread = threading.Thread(target=start)
    thread.start()
    until(lambda: any("qemu-started" in str(events_of(run)) for run in runs_dir().glob("*")), 30, "QEMU runs")
    [run] = runs_dir().iterdir()
    os.kill(pids_of(run)["supervisor"], number)
    thread.join(60)
    assert f"status -{number.value}" in errors[0].message
    assert errors[0].hint
    assert runs.wait_for_verdict(run, CLEANED)["verdict"] == "infra"
    check_nothing_left(run)
    until(lambda: descriptors() <= before, 20, "no descriptor more")


def idle(vm: VM) -> bool:
    return "running" not in vm.info().facts["jobs"].values()


@pytest.mark.parametrize("seed", range(4))
def test_whatever_is_killed_at_any_moment_leaves_a_verdict_and_nothing_else(seed: int) -> None:
    chance = random.Random(seed)
    begun = time.monotonic()
    process = child(
        "import sys; from kernloop.vm import client; from kernloop.vm.request import VmRequest\n"
        "vm = client.start(VmRequest()); print(vm.run, flush=True)\n"
        "while True: vm.exec(['dd', 'if=/dev/zero', 'bs=64k', 'count=20']); vm.snapshot('x')"
    )
    moment = begun + chance.uniform(0.5, 6)
    until(lambda: time.monotonic() > moment, 60, "the moment")
    found = list(runs_dir().iterdir()) if runs_dir().exists() else []
    pids = [pid for run in found if events_of(run) for pid in pids_of(run).values()]
    victim = chance.choice([*pids, process.pid])
    os.kill(victim, signal.SIGKILL)
    if victim != process.pid:
        until(lambda: process.poll() is not None, 60, "its client is told")
    process.kill()
    process.communicate()
    for run in list(runs_dir().iterdir()) if runs_dir().exists() else []:
        if victim == process.pid and runs.is_live(run) and "serving" in str(events_of(run)):
            until(partial(idle, VM("x", run)), 60, "its command is killed")
            VM("x", run).stop()
        assert runs.wait_for_verdict(run, CLEANED + 5)["verdict"] in ("pass", "lost", "infra")
        check_nothing_left(run)
    assert not processes_naming(runs_dir())


def cycles(count: int) -> list[float]:
    """Seconds that each of `count` restores took; fails when anything grows."""
    vm = started()
    sh(vm, "true")
    vm.stop()
    times = []
    before = has()
    for _ in range(count):
        begun = time.monotonic()
        vm = started()
        times.append(time.monotonic() - begun)
        assert sh(vm, "echo here").stdout == b"here\n"
        verdict = vm.stop()
        assert verdict["verdict"] == "pass"
        check_nothing_left(vm.run)
    until(lambda: all(now <= then for now, then in zip(has(), before, strict=True)), 20, f"no more than {before}")
    return times


def has() -> tuple[int, int, int]:
    """Descriptors, threads and temporary files of this process."""
    return descriptors(), threading.active_count(), len(list(Path(tempfile.gettempdir()).iterdir()))


def test_eight_vms_after_each_other_leave_nothing() -> None:
    cycles(8)


@pytest.mark.slow
@pytest.mark.skipif("KERNLOOP_LONG_TESTS" not in os.environ, reason="takes six minutes: set KERNLOOP_LONG_TESTS")
def test_two_hundred_vms_after_each_other_leave_nothing() -> None:
    times = sorted(cycles(200))
    print(f"start: median {times[100]:.2f} s, p95 {times[190]:.2f} s, most {times[-1]:.2f} s")


def test_eight_vms_at_once_work_and_all_are_listed() -> None:
    vms: dict[str, VM] = {}
    threads = [threading.Thread(target=lambda n=n: vms.update({f"v{n}": started(f"v{n}")})) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert states() == {f"v{n}": "running" for n in range(8)}
    said_ = {name: sh(vm, f"echo {name}").stdout for name, vm in vms.items()}
    assert said_ == {name: f"{name}\n".encode() for name in vms}
    uuids = {sh(vm, "cat /proc/sys/kernel/random/uuid; head -c 16 /dev/urandom | base64").stdout for vm in vms.values()}
    assert len(uuids) == 8
    assert {vm.stop()["verdict"] for vm in vms.values()} == {"pass"}


def test_the_supervisor_grows_by_nothing_with_the_commands_it_has_run() -> None:
    vm = started()
    pid = pids_of(vm.run)["supervisor"]
    for _ in range(20):
        sh(vm, "true")
    before = descriptors(pid)
    for _ in range(60):
        sh(vm, "true")
    until(lambda: descriptors(pid) <= before, 20, "no descriptor more")
    assert subprocess.run(["pgrep", "-P", str(pid)], stdout=subprocess.PIPE).stdout.count(b"\n") == 2  # QEMU, keeper


def test_a_request_that_makes_no_sense_starts_nothing() -> None:
    for request in (VmRequest(backend="vax"), VmRequest(idle=0), VmRequest(tag="none")):
        with pytest.raises(UsageError):
            client.start(request)
    assert not list(runs_dir().iterdir() if runs_dir().exists() else [])
