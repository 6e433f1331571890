# SPDX-License-Identifier: Apache-2.0
"""Hangs: which CPU spins where, which task waits for what, who holds what. The logs are of guests that hung on purpose
(lkdtm; a sleeping and a spinning program), asked by SysRq l, w and t, or ended by an NMI."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from kernloop.cli.main import app
from kernloop.report.details import Lock
from kernloop.report.hang import hang, tells_of_hang

FIXTURES = Path(__file__).parent.parent / "fixtures" / "hang"
LOGS = sorted(FIXTURES.glob("*.log"))


def lines_of(name: str) -> list[str]:
    return (FIXTURES / f"{name}-7.3.4.log").read_text().split("\n")


@pytest.mark.parametrize(
    ("name", "function", "comm", "pid", "cpu", "words"),
    [
        ("softlockup", "lkdtm_SOFTLOCKUP", "sh", 44, 0, "CPU 0 does not leave lkdtm_SOFTLOCKUP"),
        ("sysrq-softlockup", "lkdtm_SOFTLOCKUP", "sh", 44, 1, "CPU 1 does not leave lkdtm_SOFTLOCKUP"),
        ("spinlockup", "lkdtm_do_action", "sh", 44, 1, "CPU 1 spins for a lock in lkdtm_do_action"),
        ("hungtask", "lkdtm_HUNG_TASK", "sh", 44, None, "sh (pid 44) waits in lkdtm_HUNG_TASK"),
        ("user-spin", None, "sh", 44, 1, "runs sh (pid 44) in user space"),
        ("sleep", None, "sleep", 44, None, "all CPUs idle; sleep (pid 44) waits for time to pass"),
    ],
)
def test_a_recorded_hang_names_function_and_task(
    name: str, function: str | None, comm: str, pid: int, cpu: int | None, words: str
) -> None:
    found = hang(lines_of(name))
    assert found is not None
    assert (found.function, found.comm, found.pid, found.cpu) == (function, comm, pid, cpu)
    assert words in found.summary


def test_the_cpus_are_told_apart() -> None:
    found = hang(lines_of("sysrq-softlockup"))
    assert found is not None
    assert [(cpu.cpu, cpu.state, cpu.irqs_off) for cpu in found.cpus] == [(0, "idle", False), (1, "kernel", False)]


def test_a_tick_that_the_nmi_meets_is_not_what_the_cpu_hangs_in() -> None:
    """Recorded: 4 of 85 of one that spins in lkdtm_SOFTLOCKUP showed the timer's interrupt on top."""
    _, first, second, plain = (FIXTURES / "sysrq-ticks-7.3.4.log").read_text().split("sysrq: Show")
    for seen in ([first, second], [second, first], [plain, first], [second, plain], [first, first, second]):
        found = hang("".join(f"sysrq: Show{one}" for one in seen).split("\n"))
        assert found is not None
        assert (found.function, found.comm) == ("lkdtm_SOFTLOCKUP", "sh")
        assert (found.cpus[1].state, found.cpus[1].at, found.cpus[1].irqs_off) == ("kernel", found.function, False)
    # One that is there each time is what it hangs in; its name has a word for idle CPUs.
    for seen in ([first], [first, first], [plain, first, first]):
        found = hang("".join(f"sysrq: Show{one}" for one in seen).split("\n"))
        assert found is not None
        assert (found.cpus[1].state, found.cpus[1].at) == ("kernel", "apic_mem_wait_icr_idle")


@pytest.mark.parametrize(
    ("who", "below", "state"),
    [
        ("44 Comm: worker", ["RIP: 0033:0x4ae3f7", "EFLAGS: 00000202"], "user"),
        (
            "0 Comm: swapper/1",
            ["RIP: 0010:pv_native_safe_halt+0x13/0x14", " default_idle+0x5/0x8", " do_idle+0x9/0xd"],
            "idle",
        ),
    ],
)
def test_a_tick_on_a_cpu_that_computes_or_idles_is_no_hang_in_the_kernel(
    who: str, below: list[str], state: str
) -> None:
    head, cpu = "NMI backtrace for cpu 1", f"CPU: 1 UID: 0 PID: {who} Not tainted 7.3.4 #1"
    without = [head, cpu, *below[:1], "Call Trace:", *below[1:]]
    tick = [head, cpu, "RIP: 0010:native_apic_mem_eoi+0x9/0xa", "RSP: 0018:ffffc900000d8fd8 EFLAGS: 00010046"]
    tick += ["Call Trace:", " <IRQ>", " tick_nohz_handler+0xd9/0x103", " __hrtimer_run_queues+0x11f/0x1d6"]
    tick += [" hrtimer_interrupt+0xa2/0x109", " sysvec_apic_timer_interrupt+0x56/0x70", " </IRQ>", " <TASK>"]
    tick += [" asm_sysvec_apic_timer_interrupt+0x16/0x20", *below]
    for seen in (without + tick, tick + without):
        found = hang(seen)
        assert found is not None
        assert [one.state for one in found.cpus] == [state]
    skipped = hang(["NMI backtrace for cpu 1 skipped: idling at default_idle+0x1/0x2", *tick])
    assert skipped is not None
    assert skipped.cpus[0].state == ("idle" if state == "idle" else "kernel")


def test_a_cpu_that_ran_another_task_before_does_not_hang() -> None:
    *_, plain = (FIXTURES / "sysrq-ticks-7.3.4.log").read_text().split("sysrq: Show")
    busy = plain.replace("PID: 0 Comm: swapper/0", "PID: 15 Comm: rcu_preempt").replace("default_idle", "force_qs_rnp")
    busy = busy.replace("pv_native_safe_halt", "force_qs_rnp").replace("do_idle", "rcu_gp_kthread")
    for seen in (plain + busy, busy + plain):
        found = hang(seen.split("\n"))
        assert found is not None
        assert (found.function, found.comm) == ("lkdtm_SOFTLOCKUP", "sh")
    first = busy.partition("Sending NMI")[0].split("\n")
    waits = hang([*lines_of("hungtask"), *first])
    alone = hang(first)
    assert waits is not None
    assert alone is not None
    assert (waits.function, alone.function) == ("lkdtm_HUNG_TASK", "force_qs_rnp")


def test_registers_tell_where_a_cpu_is_that_answers_nothing() -> None:
    registers = (FIXTURES / "hardlockup-7.3.4.registers").read_text()
    found = hang(lines_of("hardlockup"), registers=registers, symbol=lambda address: f"kl_{address & 0xFFF:x}")
    assert found is not None
    assert found.summary == "CPU 0 does not leave kl_b78, with interrupts off"
    assert (found.function, found.cpus[1].state) == ("kl_b78", "idle")
    bare = hang(lines_of("hardlockup"), registers=registers)
    assert bare is not None
    assert (bare.function, "0xffffffff8145fb78" in bare.summary) == (None, True)


def test_without_registers_nothing_is_claimed_of_what_the_cpu_runs() -> None:
    found = hang(lines_of("hardlockup"))
    assert found is not None
    assert (found.function, "was not told" in found.summary) == (None, True)


@pytest.mark.parametrize("head", ["1 lock held by kl/42:", "locks held by kl/42: 1, on CPU#0:"], ids=["6.12", "7.3"])
def test_who_holds_what(head: str) -> None:
    waits = ["task:kl2 state:D stack:0 pid:43 tgid:43 ppid:1 flags:0x0", "Call Trace:", " __mutex_lock+0x1/0x2"]
    locks = [
        "Showing all locks held in the system:",
        head,
        " #0: ffff888000000000 (&a->m){+.+.}-{4:4}, at: kl_a+0x1/0x2",
    ]
    found = hang([*waits, " kl_b+0x1/0x2", *locks])
    assert found is not None
    assert found.held == (Lock("&a->m", "kl_a", "kl", 42),)
    assert found.summary == "kl2 (pid 43) waits for a mutex in kl_b; kl (pid 42) holds &a->m"


def test_a_cpu_that_does_not_answer_the_nmi_is_named() -> None:
    found = hang(["NMI backtrace for cpu 0 skipped: idling at default_idle+0x1/0x2"])
    assert found is not None
    assert found.cpus[0].state == "idle"
    silent = hang(["NMI backtrace for cpu 0 skipped: idling at a+0x1/0x2", "After 10 seconds, these CPUS still "
                   "haven't responded to the NMI: 1,3-4"])  # fmt: skip
    assert silent is not None
    assert [cpu.cpu for cpu in silent.cpus if cpu.state == "silent"] == [1, 3, 4]
    assert silent.summary == "CPU 1, 3, 4 does not even answer an NMI"


def test_interrupts_that_are_off_on_arm64_as_well() -> None:
    at = ["NMI backtrace for cpu 2", "CPU: 2 UID: 0 PID: 7 Comm: kl Not tainted 7.3.4 #1"]
    state = "pstate: 60400009 (nZCv daif +PAN -UAO -TCO -DIT -SSBS BTYPE=--)"
    for flags, off in (("DAIF", True), ("daif", False)):
        found = hang([*at, state.replace("daif", flags), "pc : kl_spin+0x1/0x2", "Call trace:", " kl_spin+0x1/0x2 (P)"])
        assert found is not None
        assert (found.function, found.cpus[0].irqs_off) == ("kl_spin", off)


def test_a_console_without_any_of_it_is_no_hang() -> None:
    assert hang(["[    1.0] all is well"]) is None
    assert not tells_of_hang(b"[    1.0] all is well")
    assert all(tells_of_hang(path.read_bytes()) for path in LOGS)


def test_a_report_of_a_hang_says_so_and_a_console_that_was_asked_as_well() -> None:
    for name, kind in (("softlockup", "soft-lockup"), ("sysrq-softlockup", None)):
        result = CliRunner().invoke(app, ["report", str(FIXTURES / f"{name}-7.3.4.log"), "--json"])
        found = json.loads(result.stdout)
        assert (found["kind"], found["hang"]["function"]) == (kind, "lkdtm_SOFTLOCKUP")
    assert "hang: CPU 1" in CliRunner().invoke(app, ["report", str(FIXTURES / "spinlockup-7.3.4.log")]).stdout


@given(st.sampled_from(LOGS), st.integers(0, 400), st.integers(0, 400), st.text(max_size=30))
def test_no_cut_makes_it_fail(path: Path, begin: int, length: int, noise: str) -> None:
    lines = path.read_text().split("\n")
    found = hang([*lines[begin : begin + length], noise, *lines[begin + length + 7 :]], registers=noise)
    assert found is None or found.summary


def test_a_cpu_that_sysrq_interrupts_in_user_space_is_not_said_to_hang_in_the_kernel() -> None:
    told = """\
NMI backtrace for cpu 1
CPU: 1 UID: 0 PID: 244 Comm: worker Not tainted 7.3.4 #1 PREEMPT(lazy)
Call Trace:
 <TASK>
 dump_stack_lvl+0x5d/0x80
 nmi_cpu_backtrace.cold+0x19/0x68
 nmi_trigger_cpumask_backtrace+0x10d/0x130
 __handle_sysrq.cold+0x91/0x141
 serial8250_interrupt+0x5a/0xa0
 common_interrupt+0x42/0xa0
 asm_common_interrupt+0x26/0x40
RIP: 0033:0x242f6b
 </TASK>"""
    found = hang(["sysrq: Show backtrace of all active CPUs", *told.split("\n")])
    assert found is not None
    assert (found.cpus[0].state, found.function) == ("user", None)
    assert found.summary == "CPU 1 runs worker (pid 244) in user space: it computes and does not end"
