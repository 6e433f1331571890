# SPDX-License-Identifier: Apache-2.0
"""What GDB knows of a live guest's code: whole stacks, BPF, modules that come and go."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import trees
from kernloop.debug.gdb import client as gdbs
from kernloop.debug.gdb.client import Gdb
from kernloop.debug.gdb.state import Reason, State
from kernloop.errors import UsageError
from kernloop.kernel import modules, source
from kernloop.sched import compile as compiling
from kernloop.sched import programs
from kernloop.vm.client import VM
from kernloop.vm.request import VmRequest
from support import ROOT
from vms import running, sh

pytestmark = pytest.mark.vm
SECONDS = 60.0
# Where a stack of a task ends, and one of an interrupt or a fault that came while a program ran.
ENDS = ("secondary_startup_64", "ret_from_fork_asm", "entry_SYSCALL_64", "asm_")


@pytest.fixture(scope="module")
def vm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VM]:
    kernel, state = trees.kernel(), tmp_path_factory.mktemp("state")
    with running(VmRequest(name="code", kernel=f"tree:{trees.linux()}"), state=state) as vm:
        kit = source.kit(kernel)
        vm.push(programs.loader(kit), "/root/scxload")
        built = compiling.compile_scheduler(ROOT / "examples/schedulers/fifo.bpf.c", kit, state / "fifo.bpf.o")
        assert built.object is not None, built.text
        vm.push(state / "fifo.bpf.o", "/root/")
        yield vm


def functions(answer: gdbs.Answer) -> list[str]:
    return [frame["function"] for frame in answer.found["frames"]]


def hit(gdb: Gdb, since: int | None = None) -> dict[str, Any]:
    """The next stop's words; at one that a breakpoint or a watchpoint has made."""
    session = gdb.ask("continue", timeout=SECONDS).session if since is None else None
    session = session or gdb.ask("wait", since=since, timeout=SECONDS).session
    assert session.state is State.STOPPED, session
    assert session.reason in (Reason.BREAKPOINT, Reason.WATCHPOINT), session
    return session.as_json()


def test_a_stack_leads_through_interrupts_and_the_programs_of_a_scheduler_to_its_end(vm: VM) -> None:
    gdb = gdbs.attach(vm)
    since = gdb.ask("state").session.stops
    # Jiffies are updated in any interrupt of an idle CPU, and when it leaves its idle loop.
    gdb.ask("break", where="hrtimer_interrupt", condition="$lx_current().pid == 0", temporary=True)
    hit(gdb, since)
    calls = functions(gdb.ask("backtrace", limit=64))
    assert {"asm_sysvec_apic_timer_interrupt", "do_idle", "cpu_startup_entry"} <= set(calls)
    assert calls[-1].startswith(ENDS)
    assert gdb.ask("locals", frame=calls.index("cpu_startup_entry")).found["variables"][0]["name"] == "state"
    gdb.ask("continue", timeout=0)

    job = vm.exec_background(["sh", "-c", "printf x | /root/scxload /root/fifo.bpf.o; exec sleep 1000"])
    sh(vm, "until [ $(cat /sys/kernel/sched_ext/state) = enabled ]; do sleep 0.05; done")
    since = gdb.ask("state").session.stops
    gdb.ask("break", where="scx_bpf_dsq_insert___v2")
    hit(gdb, since)
    # Their names came after GDB had read the kernel's.
    calls = functions(gdb.ask("backtrace", limit=64))
    assert calls[1].endswith("_fifo_enqueue"), calls
    assert calls[2:4] == ["bpf.sched_ext_ops_enqueue", "scx_do_enqueue_task"]
    assert calls[4] in ("enqueue_task_scx", "put_prev_task_scx")  # it wakes, or its slice is over
    assert calls[-1].startswith(ENDS)
    gdb.ask("delete", numbers=[])
    gdb.ask("break", where=calls[1], temporary=True)
    assert hit(gdb)["frame"]["function"] == calls[1]
    # Before the first instruction has made a frame.
    assert functions(gdb.ask("backtrace", limit=3))[1:] == calls[2:4]
    assert gdb.ask("evaluate", expression="((struct task_struct *)*(long *)$rdi)->pid").found["value"].isdigit()
    gdb.ask("continue", timeout=0)
    vm.kill(job)
    gdb.detach()


def test_a_module_is_followed_from_its_init_to_its_end_and_loaded_again(vm: VM) -> None:
    file = modules.build_for(trees.kernel(), ROOT / "tests/modules/kl_init").modules[0].path
    vm.push(file, "/root/")
    gdb = gdbs.attach(vm)
    with pytest.raises(UsageError, match="no module kl_init"):
        gdb.ask("modules", files=[str(file)])
    since = gdb.ask("state").session.stops
    gdb.ask("break", where="do_init_module")
    job = vm.exec_background(["sh", "-c", "cd /root; insmod kl_init.ko; rmmod kl_init; insmod kl_init.ko"])
    hit(gdb, since)
    assert [row["name"] for row in gdb.ask("modules", files=[str(file)]).found["modules"]] == ["kl_init"]
    gdb.ask("break", where="kl_begin", temporary=True)
    assert hit(gdb)["frame"]["function"] == "kl_begin"
    gdb.ask("break", where="kl_work")
    assert hit(gdb)["frame"]["args"] == (("by", "1"),)
    gdb.ask("watch", expression="kl_answer")
    assert hit(gdb)["detail"] == "old=42, new=43"
    finished = gdb.ask("finish", timeout=SECONDS).session
    assert (finished.reason, finished.detail) == (Reason.FINISHED, "return-value=43")
    # Its end, and the next one.
    assert hit(gdb)["frame"]["args"] == (("by", "-1"),)
    gdb.ask("delete", numbers=[])
    gdb.ask("break", where="do_init_module", temporary=True)
    hit(gdb)
    [row] = gdb.ask("modules").found["modules"]
    gdb.ask("break", where="kl_work")
    assert hit(gdb)["frame"]["function"] == "kl_work"
    place = int(gdb.ask("registers", names=["rip"]).found["registers"]["rip"], 16)
    assert place == int(row["sections"][".text"], 16)
    for access in ("read", "any"):
        gdb.ask("watch", expression="kl_answer", access=access)
    assert hit(gdb)["reason"] == Reason.WATCHPOINT
    gdb.detach()
    assert vm.job(job, timeout=SECONDS)
    assert sh(vm, "rmmod kl_init").status == 0


def test_what_stands_still_is_shown_as_that_and_nothing_waits_for_it(vm: VM) -> None:
    gdb = gdbs.attach(vm)
    gdb.ask("interrupt")
    try:
        assert vm.info().state == "in-gdb"
        assert vm.console().cursor > 0
        assert not vm.wait_for("what nobody prints", timeout=0.5).matched
        with pytest.raises(UsageError, match="in gdb"):
            vm.pause()
        first = gdb.ask("tasks", pid=2).found
        assert (first["comm"], first["frames"][0]["function"]) == ("kthreadd", "context_switch")
        assert first["address"].startswith("0xffff")
        with pytest.raises(UsageError, match="jiffies: Unable to read"):
            gdb.ask("memory", address="jiffies")
        [piece] = gdb.ask("memory", address="&jiffies", size=8).found["pieces"]
        value = int.from_bytes(bytes.fromhex(piece["bytes"]), "little")
        assert value == int(gdb.ask("evaluate", expression="jiffies").found["value"])
        for asked in ('$_shell("true")', "$_shell(init_task.comm)"):
            with pytest.raises(UsageError, match="no command of this machine"):
                gdb.ask("evaluate", expression=asked)
        with pytest.raises(UsageError, match="lx-symbols would"):
            gdb.ask("command", text="lx-symbols")
        assert "do_idle" in gdb.ask("list", where="do_idle", lines=8).found["source"]
        assert "do_idle" in gdb.ask("disassemble", where="do_idle", count=2).found["code"]
    finally:
        gdb.detach()
    assert vm.info().state == "running"
