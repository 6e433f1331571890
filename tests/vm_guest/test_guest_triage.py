# SPDX-License-Identifier: Apache-2.0
"""Post-mortem in one go: what --dump leaves of crashes and hangs made on purpose, and what triage tells of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import bpe_openai
import pytest

import crashing
import trees
from kernloop import runs
from kernloop.errors import HarnessError
from kernloop.kernel import modules
from kernloop.vm import run as library
from support import ROOT, SCHEDULERS, Done, kernloop, the_run

pytestmark = pytest.mark.vm
LONG = pytest.mark.skipif("KERNLOOP_LONG_TESTS" not in os.environ, reason="KERNLOOP_LONG_TESTS is not set")
ENCODING = bpe_openai.get_encoding("o200k_base")
BUDGET = 1500
PREBUILT = "debian:7.3.4"


def triage(*words: str) -> tuple[str, dict[str, Any]]:
    """The text, which must be short, and the object."""
    done = kernloop("debug", "triage", *words)
    assert done.status == 0, done
    text = done.out.decode()
    tokens = len(ENCODING.encode(text))
    print(f"{tokens} tokens\n{text}")
    assert tokens <= BUDGET, text
    return text, kernloop("debug", "triage", *words, "--json").json


def dumped(*words: str | Path, status: int) -> Done:
    """A run with --dump that ends with `status` and leaves a vmcore."""
    done = kernloop(*words[:1], "--dump", "--json", *words[1:], seconds=200)
    assert done.status == status, done
    core = done.json["vmcore"]
    print({name: core[name] for name in ("of", "format", "bytes", "seconds")})
    assert not core["error"] and Path(core["path"]).stat().st_size == core["bytes"]
    assert done.json["next"].startswith(f"kernloop debug triage {Path(done.json['run']).name}")
    assert core["path"] in [one["path"] for one in done.json["evidence"]]
    return done


def test_a_panic_of_a_prebuilt_kernel_has_its_task_stack_cpus_and_log() -> None:
    busy = "(while :; do :; done) & sleep 1; echo before > /dev/kmsg; echo c > /proc/sysrq-trigger"
    done = dumped("run", "--kernel", PREBUILT, "--", "sh", "-c", busy, status=120)
    assert done.json["vmcore"]["of"] == "panic"
    text, value = triage("last")
    memory = value["memory"]
    assert (memory["types"], memory["release"]) == ("btf", done.json["kernel"]["guest_release"])
    suspect = memory["suspect"]
    assert suspect["task"].startswith("sh[") and suspect["calls"][0].startswith("sysrq_handle_crash+")
    assert suspect["calls"][-1].startswith("entry_SYSCALL_64") and suspect["whole"]
    assert [cpu["cpu"] for cpu in memory["cpus"]] == [0, 1]
    other = next(cpu for cpu in memory["cpus"] if cpu["task"] != suspect["task"])
    # A thread of the kernel's may have its turn just then.
    assert other["stopped"] and other["task"].startswith(("sh[", "rcu_", "ksoftirqd/", "kworker/")), other
    assert any(line.endswith("] before") for line in memory["dmesg"]) and "] before" in text
    assert not memory["problems"]
    where = [text.index(word) for word in ("panic: ", "Task to blame: sh", "CPUs", "sched_ext", "Log", "next: ")]
    assert where == sorted(where)
    run = the_run()
    assert run is not None
    half = run / "vmcore-half"
    half.write_bytes((run / "vmcore").read_bytes()[: done.json["vmcore"]["bytes"] // 2])
    text, value = triage(str(half))
    assert value["memory"] is None and "the memory cannot be read" in text and "sysrq_handle_crash" in text
    half.unlink()
    assert f"{run}/vmcore  {done.json['vmcore']['bytes']} bytes" in kernloop("runs", "show").out.decode()


def test_an_oops_of_a_kernel_built_here_has_lines_and_what_its_registers_point_to() -> None:
    kernel = trees.kernel()
    module = crashing.module(kernel)
    crash = "echo null > /sys/module/kl_crash/parameters/what"
    script = f"sysctl -w kernel.panic_on_oops=1; insmod kl_crash.ko; {crash}"
    words = ("--kernel", kernel.ref, "--with", module, "--", "sh", "-c", script)
    done = dumped("run", *words, status=120)
    text, value = triage("last")
    memory = value["memory"]
    assert memory["types"] == "dwarf" and memory["build_id"] == kernel.build_id
    assert memory["suspect"]["calls"][0].startswith("kl_null+")
    assert any("kernel/params.c:" in call for call in memory["suspect"]["calls"]), memory["suspect"]
    assert "kl_crash.c" in text and done.json["function"] == "kl_null"
    assert memory["pointers"]


def test_an_oops_that_the_kernel_survives_is_dumped_when_it_is_printed() -> None:
    script = "echo EXCEPTION > /sys/kernel/debug/provoke-crash/DIRECT & wait; echo after"
    done = dumped("run", "--kernel", trees.kernel().ref, "--", "sh", "-c", script, status=120)
    assert (done.json["verdict"], done.json["vmcore"]["of"]) == ("oops", "oops")
    assert done.json["stdout"]["text"] == "after\n"
    text, _ = triage("last")
    assert "lkdtm_EXCEPTION" in text


def test_a_cpu_with_interrupts_off_is_to_blame_for_a_hang() -> None:
    script = "echo HARDLOCKUP > /sys/kernel/debug/provoke-crash/DIRECT"
    words = ("--kernel", trees.kernel().ref, "--timeout", "4", "--", "sh", "-c", script)
    done = dumped("run", *words, status=124)
    assert (done.json["verdict"], done.json["vmcore"]["of"]) == ("hang", "hang")
    text, value = triage("last")
    suspect = value["memory"]["suspect"]
    assert suspect["task"].startswith("sh[") and suspect["calls"][0].startswith("lkdtm_HARDLOCKUP")
    assert "interrupts off" in text


def test_a_hang_of_locks_names_holder_and_waiters_and_the_locks_they_hold() -> None:
    kernel = trees.kernel()
    hangs = modules.build_for(kernel, ROOT / "tests/modules/kl_hang").modules[0].path
    script = "insmod kl_hang.ko; echo abba > /sys/module/kl_hang/parameters/what; sleep 100"
    # Long enough for insmod and two threads in a guest that waits for CPUs of its host.
    words = ("--kernel", kernel.ref, "--timeout", "8", "--with", hangs, "--", "sh", "-c", script)
    dumped("run", *words, status=124)
    text, value = triage("last")
    memory = value["memory"]
    assert memory["findings"][0]["kind"] == "deadlock" and memory["suspect"]["sure"]
    held = {(one["who"]["comm"], one["name"]) for one in memory["held"]}
    assert held >= {("kl_first", "kl_a [kl_hang]"), ("kl_second", "kl_b [kl_hang]")}
    assert text.index("deadlock") < text.index("Task to blame: kl_")


def test_without_a_vmcore_the_console_is_told_with_how_to_get_one() -> None:
    kernloop("run", "--", "sh", "-c", "echo c > /proc/sysrq-trigger")
    text, value = triage("last")
    assert value["memory"] is None and "--dump" in value["no_memory"]
    assert "sysrq_handle_crash" in text and "--dump" in text


def test_an_ejected_scheduler_is_no_crash_and_leaves_no_vmcore() -> None:
    scheduler = SCHEDULERS / "broken/lost_task.bpf.c"
    done = kernloop("verify", scheduler, "--dump", "--json", "--kernel", PREBUILT, seconds=300)
    assert (done.json["verdict"], done.json["vmcore"]) == ("ejected", None)
    text, value = triage("last")
    assert value["memory"] is None and "no crash, the kernel went on" in text
    assert "runnable task stall" in text or value["scx"]["message"] in text


def test_a_dump_that_cannot_be_written_changes_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(folder: Path, mib: int, what: str) -> None:
        raise HarnessError("the disk is full")

    monkeypatch.setattr("kernloop.vm.dump.need_space", full)
    request = library.Request(("sh", "-c", "echo c > /proc/sysrq-trigger"), dump=True)
    with runs.create("run", library.SCHEMA, {"subject": "x"}) as record:
        outcome = library.execute(
            request, record, on_stdout=lambda data: None, on_stderr=lambda data: None, say=lambda text: None
        )
    assert outcome.verdict == "panic" and outcome.vmcore is not None
    assert "disk is full" in outcome.vmcore.error and "no vmcore: the disk is full" in outcome.next


@LONG
@pytest.mark.slow
def test_a_vm_that_is_started_with_dump_leaves_one_when_it_panics() -> None:
    kernloop("vm", "start", "--name", "a", "--dump")
    assert triage("a")[1]["memory"]["state"] == "running"
    kernloop("vm", "exec", "a", "--", "sh", "-c", "echo c > /proc/sysrq-trigger")
    text, value = triage("a")
    assert value["subject"]["vm"] == "a" and "sysrq_handle_crash" in text
    assert kernloop("vm", "stop", "a").status == 0
    text, value = triage("last")
    assert value["subject"]["core"] and "sysrq_handle_crash" in text


@LONG
@pytest.mark.slow
@pytest.mark.parametrize("name", ["SOFTLOCKUP", "HUNG_TASK"])
def test_what_does_not_go_on_is_named_with_its_stack(name: str) -> None:
    script = f"echo {name} > /sys/kernel/debug/provoke-crash/DIRECT"
    dumped("run", "--kernel", trees.kernel().ref, "--timeout", "6", "--", "sh", "-c", script, status=124)
    _, value = triage("last")
    suspect = value["memory"]["suspect"]
    assert suspect["task"].startswith("sh[") and any(f"lkdtm_{name}" in call for call in suspect["calls"])


@LONG
@pytest.mark.slow
def test_who_merely_sleeps_past_the_deadline_is_the_youngest_program() -> None:
    dumped("run", "--kernel", PREBUILT, "--timeout", "3", "--", "sleep", "60", status=124)
    _, value = triage("last")
    assert value["memory"]["suspect"]["task"].startswith("sleep[")


@LONG
@pytest.mark.slow
@pytest.mark.parametrize("script", ["echo c > /proc/sysrq-trigger", "echo EXCEPTION > $D/DIRECT & wait; echo after"])
def test_in_virtual_time_a_dump_changes_no_byte_of_the_console(script: str) -> None:
    script = f"D=/sys/kernel/debug/provoke-crash; {script}"
    words = ("--kernel", trees.kernel().ref, "--seed", "7", "--", "sh", "-c", script)
    with_ = dumped("run", *words, status=120).json["console_sha256"]
    assert with_ == kernloop("run", "--json", *words).json["console_sha256"]
