# SPDX-License-Identifier: Apache-2.0
"""Hangs on purpose: what a guest's memory, or a dump of it, tells of locks, holders and waiters is what was made.

One VM of the tests' own kernel, which takes our module, and one of a distribution's, whose types are its BTF.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from drgn import Object, Program

import trees
from kernloop.debug.helpers.chains import chains, who_holds
from kernloop.debug.helpers.tasks import ps
from kernloop.debug.helpers.waits import Lock
from kernloop.debug.stacks import Stacks
from kernloop.debug.target import about, open_core, open_live
from kernloop.debug.whyhung import Finding, Investigation, investigate
from kernloop.kernel import modules, refs, source
from kernloop.sched import compile as compiling
from kernloop.sched import programs
from kernloop.vm.client import VM
from kernloop.vm.request import VmRequest
from support import ROOT, Done, kernloop, until
from vms import running, sh

pytestmark = pytest.mark.vm
PREBUILT = "debian:7.3.4"
SECONDS = 90.0


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state")


@pytest.fixture(scope="module")
def hangs() -> Path:
    return modules.build_for(trees.kernel(), ROOT / "tests/modules/kl_hang").modules[0].path


@pytest.fixture(scope="module")
def vm(state: Path, hangs: Path) -> Iterator[VM]:
    request = VmRequest(name="hangs", kernel=trees.kernel().ref)
    with running(request, state=state) as vm:
        sh(vm, "echo 0 > /proc/sys/kernel/watchdog")
        vm.push(hangs, "/root/kl_hang.ko")
        assert vm.exec(["insmod", "/root/kl_hang.ko"]).status == 0
        yield vm


def make(vm: VM, *names: str) -> None:
    for name in names:
        vm.exec_background(["sh", "-c", f"echo {name} > /sys/module/kl_hang/parameters/what"])


def look(vm: VM, hangs: Path, *, hold: bool = True) -> Investigation:
    with open_live(vm, hold=hold, files=[hangs]) as prog:
        return investigate(prog)


def finding(found: Investigation, kind: str, lock: str) -> Finding | None:
    return next((one for one in found.findings if one.kind == kind and lock in one.lock), None)


def awaited(vm: VM, hangs: Path, kind: str, lock: str) -> Finding:
    # While it is waited for the guest must run; what is told then is of one moment.
    until(lambda: finding(look(vm, hangs, hold=False), kind, lock), SECONDS, f"{kind} of {lock}")
    found = finding(look(vm, hangs), kind, lock)
    assert found is not None
    return found


def names(whom: tuple[str, ...]) -> set[str]:
    return {one.partition("[")[0] for one in whom}


def test_a_guest_that_does_not_hang_has_no_findings_and_whole_stacks(vm: VM, hangs: Path) -> None:
    with open_live(vm, hold=True, files=[hangs]) as prog:
        found = investigate(prog)
        stacks = Stacks(prog)
        broken = [str(row.who) for row in ps(prog) if not stacks.of(_task(prog, row.who.address)).whole]
    # A worker may wait for a grace period just now.
    assert {one.kind for one in found.findings} <= {"blocked"} and found.summary.startswith("nothing ")
    assert broken == []
    assert all(cpu.stack.whole for cpu in found.cpus)


def test_an_abba_deadlock_names_both_mutexes_their_holders_and_waiters(vm: VM, hangs: Path) -> None:
    make(vm, "abba")
    found = awaited(vm, hangs, "deadlock", "kl_")
    assert found.sure and names(found.waiters) == {"kl_first", "kl_second"}
    for text in ("mutex kl_a [kl_hang]", "mutex kl_b [kl_hang]"):
        assert text in found.text
    assert "kl_first" in found.evidence[0] + found.evidence[1]
    with open_live(vm, hold=True, files=[hangs]) as prog:
        chain = next(one for one in chains(prog, Stacks(prog)) if one.who.comm == "kl_first")
        held = who_holds(prog, Stacks(prog), prog["kl_a"])
        by_name = who_holds(prog, Stacks(prog), "kl_b", "mutex")
    assert chain.end == "deadlock" and len(chain.steps) == 2
    assert (
        chain.steps[0].startswith("kl_first[") and "waits for mutex kl_b [kl_hang], which kl_second[" in chain.steps[0]
    )
    assert isinstance(held, Lock) and held.holder is not None and held.holder.comm == "kl_first"
    assert isinstance(by_name, Lock) and [one.comm for one in by_name.waiters] == ["kl_first"]


def test_a_completion_that_is_done_while_somebody_sleeps_for_it_is_a_lost_wakeup(vm: VM, hangs: Path) -> None:
    make(vm, "completion")
    found = awaited(vm, hangs, "lost-wakeup", "kl_done")
    assert found.sure and found.lock == "completion kl_done [kl_hang]" and names(found.waiters) == {"kl_completes"}
    assert "done is 1" in found.text


def test_who_waits_on_a_wait_queue_for_ever_is_named_with_the_queue(vm: VM, hangs: Path) -> None:
    make(vm, "queue")
    found = awaited(vm, hangs, "blocked", "kl_queue")
    assert found.lock == "wait queue kl_queue [kl_hang]" and names(found.waiters) == {"kl_waits"}


def test_a_rwsem_and_a_semaphore_name_who_holds_them_and_what_that_does(vm: VM, hangs: Path) -> None:
    make(vm, "rwsem")
    found = awaited(vm, hangs, "lock-held", "kl_rwsem")
    assert found.lock == "rwsem kl_rwsem [kl_hang]" and names((found.holder,)) == {"kl_writes"}
    assert names(found.waiters) == {"kl_reads"} and "kl_sleep_for_ever" in found.text
    with open_live(vm, hold=True, files=[hangs]) as prog:
        chain = next(one for one in chains(prog, Stacks(prog)) if one.who.comm == "kl_reads")
    assert chain.end == "sleeps" and "kl_writes[" in chain.steps[-1] and "a time to pass" in chain.steps[-1]
    make(vm, "semaphore")

    def semaphore() -> Finding | None:
        return next((one for one in look(vm, hangs, hold=False).findings if "semaphore kl_sem" in one.lock), None)

    found_ = until(semaphore, SECONDS, "the semaphore")
    assert found_ is not None and names(found_.waiters) == {"kl_downs_too"}


def test_a_spinlock_held_with_interrupts_off_names_holder_and_spinner_live_and_in_a_dump(vm: VM, hangs: Path) -> None:
    make(vm, "spinlock")
    # Not held: it would go on only some time after that, and cannot be dumped until then.
    found = until(lambda: finding(look(vm, hangs, hold=False), "spinlock", "kl_spinlock"), SECONDS, "the spinlock")
    assert found is not None
    assert found.lock == "spinlock kl_spinlock [kl_hang]" and names((found.holder,)) == {"kl_holds"}
    assert names(found.waiters) == {"kl_spins"} and "interrupts off" in found.text
    core = Path(vm.dump()["path"])
    live = look(vm, hangs)
    prog = open_core(core, files=[hangs])
    dead = investigate(prog)
    assert about(prog).build_id == trees.kernel().build_id and about(prog).vmlinux
    assert [(one.kind, one.lock, one.holder) for one in dead.findings] == [
        (one.kind, one.lock, one.holder) for one in live.findings
    ]
    assert {cpu.current.comm for cpu in dead.cpus} == {"kl_holds", "kl_spins"}


# Its ORC tables have other numbers for registers, and its sleepers a time since when they are queued.
def test_an_older_kernel_that_does_not_hang_has_no_findings_and_whole_stacks(state: Path) -> None:
    with running(VmRequest(name="older", kernel=trees.OLDER), state=state) as vm, open_live(vm, hold=True) as prog:
        found = investigate(prog)
        stacks = Stacks(prog)
        broken = [str(row.who) for row in ps(prog) if not stacks.of(_task(prog, row.who.address)).whole]
        # Who runs may be in user space, or come from there.
        asleep = [row for row in ps(prog) if row.state in "SDI" and not row.running]
        depths = [len(stacks.of(_task(prog, row.who.address)).calls) for row in asleep]
    assert {one.kind for one in found.findings} <= {"blocked"}
    assert broken == [] and min(depths) >= 3


@pytest.fixture(scope="module")
def prebuilt(state: Path) -> Iterator[VM]:
    with running(VmRequest(name="prebuilt", kernel=PREBUILT, seed=1), state=state) as vm:
        yield vm


def test_the_tasks_are_those_of_the_guests_own_ps(prebuilt: VM) -> None:
    def same() -> bool:
        told = sh(prebuilt, "cat /proc/[0-9]*/stat").stdout.decode()
        with open_live(prebuilt) as prog:
            rows = ps(prog)
        theirs = {}
        for line in told.splitlines():
            pid, _, rest = line.partition(" (")
            comm, _, rest = rest.rpartition(") ")
            theirs[int(pid)] = (comm, rest[0], int(rest.split()[1]))
        mine = {row.who.pid: (row.name, row.state, row.parent) for row in rows if row.who.pid == row.tgid}
        # The command itself has gone by then; a worker may have begun something else.
        here = {pid: one for pid, one in theirs.items() if one[0] not in ("sh", "cat")}
        workers = {pid for pid, one in here.items() if one[0].startswith("kworker/") or one[1] in "RD"}
        fixed = here.keys() - workers
        return workers <= mine.keys() and all(mine.get(pid) == here[pid] for pid in fixed) and len(mine) == len(here)

    assert until(same, SECONDS, "both lists to be equal")


def test_an_expression_on_a_prebuilt_kernel_is_a_typed_value(prebuilt: VM, state: Path) -> None:
    def ask(expression: str, *more: str) -> Done:
        return kernloop("debug", "drgn", "prebuilt", "-e", expression, *more, XDG_STATE_HOME=str(state))

    done = ask("prog['init_task'].thread_info", "--json")
    told = json.loads(done.out)
    assert (done.status, told["types"], told["type"]) == (0, "btf", "struct thread_info")
    assert set(told["value"]["value"]) >= {"flags", "cpu"}
    done = ask("ps()", "--limit", "5", "--since", "2", "--json")
    told = json.loads(done.out)
    assert (len(told["value"]), told["next"]) == (5, 7) and told["count"] > 20
    assert ask("nobody").status == 1


def test_a_scheduler_that_keeps_a_task_is_named_with_the_task(prebuilt: VM, state: Path) -> None:
    kit = source.kit(refs.resolve(PREBUILT))
    prebuilt.push(programs.loader(kit), "/root/scxload")
    target = state / "lost_task.bpf.o"
    assert compiling.compile_scheduler(ROOT / "examples/schedulers/broken/lost_task.bpf.c", kit, target).object
    prebuilt.push(target, "/root/")
    prebuilt.exec_background(["sh", "-c", "printf x | /root/scxload /root/lost_task.bpf.o; exec sleep 100000"])
    until(lambda: sh(prebuilt, "cat /sys/kernel/sched_ext/state").stdout == b"enabled\n", SECONDS, "it is there")
    # It loses who is nice, now and then.
    script = "printf nicely >/proc/$$/comm; renice -n 5 -p $$; while :; do :; done"
    for one in (*["while :; do :; done"] * 4, script):
        prebuilt.exec_background(["sh", "-c", one])

    # It stands still meanwhile: else the scheduler would be thrown out before a slow host has read it.
    def stalled() -> Finding | None:
        with open_live(prebuilt, hold=True) as prog:
            return next((one for one in investigate(prog).findings if one.kind == "scheduler-stall"), None)

    found = until(stalled, SECONDS, "a task that gets no CPU")
    assert found is not None and found.holder == "lost_task"
    assert "the scheduler lost_task has" in found.text and "without a CPU" in found.text


def _task(prog: Program, address: int) -> Object:
    return Object(prog, "struct task_struct *", address)
