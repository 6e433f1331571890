# SPDX-License-Identifier: Apache-2.0
"""Verdicts on the machine, from what was watched: real consoles, and every way a guest can end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kernloop import runs
from kernloop.kernel.kernel import Kernel
from kernloop.report.crash import Crash
from kernloop.report.engine import parse_console
from kernloop.verdict import Outcome, Verdict, Vmcore, guest_exit_code
from kernloop.vm.judge import judge_machine, with_vmcore
from kernloop.vm.kallsyms import Place
from kernloop.vm.machine import Ended, Hello
from kernloop.vm.session import End, Watched
from kernloop.vm.stuck import Stuck

CONSOLES = Path(__file__).parent.parent / "fixtures/console"
KERNEL = Kernel("debian:7.3.4", "7.3.4", "", "ab12", "", Path("/x"), None, None, None, None, None)
FINE = Watched(End.COMMAND, Hello("7.3.4", "ab12"), 0, (), None, None, None, "", "c0ffee", {"boot": 3.0})
KILLED, BY_ITSELF = Ended(-9, ""), Ended(1, "a warning\nqemu: no such device")


@pytest.fixture
def run() -> Iterator[runs.Run]:
    with runs.create("run", "kernloop.run/1", {"subject": "true"}) as record:
        (record.path / "console.log").write_text("Linux version\n")
        yield record


def judged(run: runs.Run, watched: Watched) -> Outcome:
    found = judge_machine(KERNEL, run, watched, deadline=3)
    assert found is not None
    return found


def crashes(name: str) -> tuple[Crash, ...]:
    return tuple(parse_console((CONSOLES / name).read_text(errors="replace").splitlines()))


def test_a_machine_that_did_its_job_has_no_verdict_of_its_own(run: runs.Run) -> None:
    assert judge_machine(KERNEL, run, FINE, deadline=3) is None


def test_a_panic_names_the_function_and_the_lines_of_the_console(run: runs.Run) -> None:
    found = judged(run, replace(FINE, end=End.PANIC, status=None, crashes=crashes("sysrq-crash-7.3.4.log")))
    assert (found.verdict, found.kind, found.function) == (Verdict.PANIC, "kernel-panic", "sysrq_handle_crash")
    assert found.evidence[0].path == "console.log"
    assert found.evidence[0].lines is not None
    assert found.next == f"kernloop report {run.id}"
    assert guest_exit_code(found.verdict, found.exit_status) == 120


def test_an_oops_that_the_kernel_survives_is_one_even_if_the_command_ended_well(run: runs.Run) -> None:
    survived = tuple(
        replace(crash, severity=type(crash.severity).OOPS, panicked=False)
        for crash in crashes("tcg-int3-oops-6.12.117.log")[-1:]
    )
    found = judged(run, replace(FINE, crashes=survived))
    assert (found.verdict, found.function) == (Verdict.OOPS, "ttwu_queue_wakelist")
    assert guest_exit_code(found.verdict, 0) == 120


def test_a_panic_without_a_readable_console_is_still_a_panic(run: runs.Run) -> None:
    found = judged(run, replace(FINE, end=End.PANIC, status=None))
    assert (found.verdict, found.function) == (Verdict.PANIC, None)


@pytest.mark.parametrize(("answered", "word"), [(True, "is alive"), (False, "does not answer SysRq")])
@pytest.mark.parametrize(
    ("end", "verdict", "what"),
    [(End.DEADLINE, Verdict.HANG, "deadline of 3 s"), (End.BOOT_DEADLINE, Verdict.BOOT_HANG, "init was not up")],
)
def test_a_deadline_says_whether_the_kernel_still_lives(
    end: End, verdict: Verdict, what: str, answered: bool, word: str, run: runs.Run
) -> None:
    found = judged(run, replace(FINE, end=end, status=None, answered_sysrq=answered))
    assert found.verdict is verdict
    assert what in found.summary
    assert word in found.summary
    assert guest_exit_code(found.verdict, found.exit_status) == 124


def test_what_the_watchdog_finds_is_a_hang_of_the_function_that_keeps_the_interrupts_off(run: runs.Run) -> None:
    idle = Stuck(0, 0xFFFFFFFF81000000, True, True, False, Place("pv_native_safe_halt", 0x13, 0x20))
    spins = Stuck(1, 0xFFFFFFFF81000100, False, False, False, Place("lkdtm_HARDLOCKUP", 0x8, 0x10))
    found = judged(
        run, replace(FINE, end=End.DEADLINE, status=None, answered_sysrq=False, stuck=(idle, spins), barked=30)
    )
    assert (found.verdict, found.function) == (Verdict.HANG, "lkdtm_HARDLOCKUP")
    assert "watchdog" in found.summary
    assert "CPU 1 is in lkdtm_HARDLOCKUP+0x8/0x10 with interrupts off" in found.summary
    assert "cpus.txt" in found.next


def test_the_panic_that_our_own_nmi_provoked_is_the_evidence_of_a_hang(run: runs.Run) -> None:
    ours = tuple(
        replace(crash, message="Kernel panic - not syncing: NMI: Not continuing")
        for crash in crashes("sysrq-crash-7.3.4.log")
    )
    assert ours
    late = replace(FINE, end=End.DEADLINE, status=None, answered_sysrq=False, crashes=ours)
    assert judged(run, late).verdict is Verdict.HANG
    assert judged(run, replace(late, end=End.PANIC)).verdict is Verdict.PANIC


@pytest.mark.parametrize(
    ("qemu", "reason", "hello", "verdict", "says"),
    [
        (KILLED, None, True, Verdict.LOST, "killed from outside by signal 9"),
        (KILLED, None, False, Verdict.LOST, "killed from outside by signal 9"),
        (Ended(0, ""), "guest-shutdown", True, Verdict.LOST, "powered itself off"),
        (Ended(0, ""), "guest-reset", True, Verdict.LOST, "was reset"),
        (BY_ITSELF, None, True, Verdict.LOST, "ended on its own: qemu: no such device"),
        (BY_ITSELF, None, False, Verdict.INFRA, "before the guest was up: qemu: no such device"),
        (Ended(1, ""), None, False, Verdict.INFRA, "it said nothing"),
        (None, None, False, Verdict.INFRA, "before the guest was up"),
    ],
)
def test_a_machine_that_went_says_by_whose_hand(
    qemu: Ended | None, reason: str | None, hello: bool, verdict: Verdict, says: str, run: runs.Run
) -> None:
    gone = replace(FINE, end=End.GONE, status=None, qemu=qemu, shutdown_reason=reason)
    found = judged(run, gone if hello else replace(gone, hello=None))
    assert found.verdict is verdict
    assert says in found.summary
    assert found.next
    assert guest_exit_code(found.verdict, found.exit_status) == 125


def test_a_guest_that_runs_another_kernel_is_our_fault(run: runs.Run) -> None:
    found = judged(run, replace(FINE, hello=Hello("7.3.4", "ffff")))
    assert (found.verdict, found.summary) == (Verdict.INFRA, "the guest runs build-id ffff, not ab12")


def test_a_guest_without_a_build_id_is_believed(run: runs.Run) -> None:
    assert judge_machine(KERNEL, run, replace(FINE, hello=Hello("7.3.4", "")), deadline=3) is None


def test_every_verdict_carries_kernel_times_evidence_and_the_consoles_digest(run: runs.Run) -> None:
    found = judged(run, replace(FINE, end=End.GONE, status=None, qemu=KILLED))
    assert found.kernel is not None
    assert (found.kernel.guest_release, found.kernel.matches) == ("7.3.4", True)
    assert (found.times, found.console_sha256) == ({"boot": 3.0}, "c0ffee")
    assert "console.log" in [item.path for item in found.evidence]


def test_the_next_step_of_a_crash_leads_to_its_memory_or_to_how_it_is_got(run: runs.Run) -> None:
    found = judged(run, replace(FINE, end=End.PANIC, status=None, crashes=crashes("sysrq-crash-7.3.4.log")))
    assert with_vmcore(found, run, None).next == f"{found.next}; again with --dump: kernloop debug triage"
    kept = with_vmcore(found, run, Vmcore("vmcore", "panic", "elf", 7))
    assert (kept.next, kept.vmcore and kept.vmcore.path) == (f"kernloop debug triage {run.id}", "vmcore")
    full = with_vmcore(found, run, Vmcore("", "panic", error="the disk is full"))
    assert full.next == f"{found.next}; no vmcore: the disk is full"
    assert (full.verdict, full.summary) == (found.verdict, found.summary)


def test_a_verdict_that_is_no_crash_does_not_speak_of_memory(run: runs.Run) -> None:
    fine = Outcome(Verdict.COMMAND_FAILED, "exit 3", next="its output")
    assert with_vmcore(fine, run, None) == fine
