# SPDX-License-Identifier: Apache-2.0
"""What a guest's memory tells of its scheduler is what is in the guest; one VM, in virtual time, for all tests.

In virtual time no load of the host makes the watchdog eject a scheduler that is sound.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from drgn.helpers.linux.bpf import bpf_map_for_each, bpf_prog_for_each
from drgn.helpers.linux.pid import find_task, for_each_task

from kernloop.debug.target import about, open_live
from kernloop.errors import UsageError
from kernloop.kernel import refs, source
from kernloop.sched import compile as compiling
from kernloop.sched import programs
from kernloop.sched.live import show as library
from kernloop.sched.live.show import Shown, show
from kernloop.vm.client import VM
from kernloop.vm.request import VmRequest
from support import ROOT, kernloop, until
from vms import running, sh

pytestmark = pytest.mark.vm
KERNEL = "debian:7.3.4"
SECONDS = 60.0
HOGS = ("hog0", "hog1", "hog2", "hog3")
# Pinned to CPU 1, by names of their own.
HOG = "printf {name} >/proc/$$/comm; exec taskset 2 sh -c 'printf {name} >/proc/$$/comm; while :; do :; done'"


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state")


@pytest.fixture(scope="module")
def vm(state: Path) -> Iterator[VM]:
    with running(VmRequest(name="shown", kernel=KERNEL, seed=1), state=state) as vm:
        kit = source.kit(refs.resolve(KERNEL))
        vm.push(programs.loader(kit), "/root/scxload")
        for name in ("vtime", "broken/lost_task"):
            target = state / f"{Path(name).name}.bpf.o"
            built = compiling.compile_scheduler(ROOT / f"examples/schedulers/{name}.bpf.c", kit, target)
            assert built.object is not None, built.text
            vm.push(target, "/root/")
        yield vm


def scx_state(vm: VM) -> bytes:
    return vm.exec(["cat", "/sys/kernel/sched_ext/state"]).stdout.strip()


class Loaded:
    """A scheduler in the guest, until the block ends."""

    def __init__(self, vm: VM, name: str) -> None:
        self.vm, self.name = vm, name

    def __enter__(self) -> Loaded:
        # The loader reads one byte and forks; it ends with its parent.
        script = f"printf x | /root/scxload /root/{self.name}.bpf.o; exec sleep 100000"
        self.job = self.vm.exec_background(["sh", "-c", script])
        until(lambda: scx_state(self.vm) == b"enabled", SECONDS, f"{self.name} enabled")
        return self

    def __exit__(self, *_: object) -> None:
        self.vm.kill(self.job)
        until(lambda: scx_state(self.vm) == b"disabled", SECONDS, f"{self.name} gone")


@pytest.fixture
def vtime(vm: VM) -> Iterator[Loaded]:
    with Loaded(vm, "vtime") as loaded:
        yield loaded


@pytest.fixture
def hogs(vm: VM) -> Iterator[None]:
    jobs = [vm.exec_background(["sh", "-c", HOG.format(name=name)]) for name in HOGS]
    yield
    for job in jobs:
        vm.kill(job)


def queued(shown: Shown) -> set[str]:
    return {task.comm for queue in shown.seen.queues for task in queue.tasks}


def test_without_a_scheduler_that_is_what_it_says(vm: VM) -> None:
    shown = show(vm)
    assert (shown.seen.state, shown.seen.schedulers, shown.maps) == ("disabled", (), ())
    assert shown.summary == "no scheduler is loaded"
    assert [cpu.cpu for cpu in shown.seen.cpus] == [0, 1]


def test_tasks_behind_one_cpu_are_in_its_queue_by_vtime_and_one_of_them_runs(vm: VM, vtime: Loaded, hogs: None) -> None:
    # And nobody else: a worker of the kernel may wait, or run, for a moment.
    def all_four() -> Shown | None:
        shown = show(vm, hold=True)
        three = queued(shown) < set(HOGS) and len(queued(shown)) == 3
        # Nor one on its way from one to the next.
        cpu = shown.seen.cpus[1]
        settled = {cpu.current} | queued(shown) == set(HOGS) and cpu.running == 4 and not shown.seen.off_queue
        return shown if three and settled else None

    shown = until(all_four, SECONDS, "three hogs wait")
    assert shown is not None and shown.still and shown.held and shown.vm_state == "running"
    [root] = shown.seen.schedulers
    assert (root.name, root.timeout, root.exit, root.bypass_depth) == ("vtime", 5.0, None, 0)
    assert root.programs["enqueue"] == "vtime_enqueue"
    [queue] = [queue for queue in shown.seen.queues if queue.count]
    assert (queue.kind, queue.name, queue.order, queue.steady) == ("user", "0x1", "vtime", True)
    waiting = [task for task in queue.tasks if task.comm in HOGS]
    assert [task.vtime for task in queue.tasks] == sorted(task.vtime for task in queue.tasks)
    assert {task.cpus for task in waiting} == {"1"} and {task.weight for task in waiting} == {100}
    assert all(task.state == "enabled" and "QUEUED" in task.flags and 0 <= task.waiting < 5 for task in waiting)
    cpu = shown.seen.cpus[1]
    assert {cpu.current} | {task.comm for task in waiting} == set(HOGS)
    assert cpu.current_class == "ext" and cpu.running == 4
    assert not shown.seen.off_queue and not shown.next


def test_maps_of_the_scheduler_are_told_with_what_is_in_them(vm: VM, vtime: Loaded) -> None:
    maps = {one.info.name: one for one in show(vm).maps}
    assert {"task_ctxs", "vtime.bss", "vtime_ops"} <= set(maps)
    assert maps["task_ctxs"].info.type == "task_storage"
    variables = maps["vtime.bss"].variables
    assert variables is not None and len(variables["clocks"]) == 9  # eight, and how many more
    first, page = library.contents(vm, "task_ctxs", count=2)
    assert first.info.entries is not None and len(page.elements) == 2 and page.cursor == 2
    assert set(page.elements[0].value) == {"dsq", "charged"}
    _, rest = library.contents(vm, str(first.info.id), since=2, count=10000)
    assert rest.cursor is None and len(rest.elements) >= first.info.entries - 2 - 5
    with pytest.raises(UsageError, match="task_ctxs"):
        library.contents(vm, "nothing")


def test_a_paused_guest_tells_the_same_twice(vm: VM, vtime: Loaded, hogs: None) -> None:
    until(lambda: queued(show(vm)) & set(HOGS), SECONDS, "hogs wait")
    vm.pause()
    try:
        first, second = show(vm), show(vm, hold=True)
        assert first.still and not second.held and first.vm_state == "paused"
        assert first.seen == second.seen
        assert vm.info().state == "paused"
    finally:
        vm.resume()


def test_a_guest_that_stood_still_goes_on_whatever_became_of_its_reader(vm: VM) -> None:
    with pytest.raises(ZeroDivisionError), open_live(vm, hold=True) as prog:
        before = prog["jiffies"].value_()
        time.sleep(0.2)
        assert prog["jiffies"].value_() == before and about(prog).held
        raise ZeroDivisionError
    until(lambda: sh(vm, "echo alive").stdout == b"alive\n", SECONDS, "the guest goes on")


def test_a_command_waits_for_a_reader_and_its_time_begins_when_the_guest_goes_on(vm: VM) -> None:
    with ThreadPoolExecutor() as pool:
        with open_live(vm, hold=True):
            done = pool.submit(sh, vm, "echo ran", timeout=SECONDS)
            with pytest.raises(TimeoutError):
                done.result(1.0)
        assert done.result(SECONDS).stdout == b"ran\n"


def test_a_lost_task_is_found_before_the_watchdog_ejects_its_scheduler(vm: VM) -> None:
    with Loaded(vm, "lost_task"):
        busy = [vm.exec_background(["sh", "-c", "while :; do :; done"]) for _ in range(4)]
        script = "printf nicely >/proc/$$/comm; renice -n 5 -p $$; while :; do :; done"
        busy.append(vm.exec_background(["sh", "-c", script]))

        # It stands still while it is read: else it would be over before a slow host has read it.
        def lost() -> Shown | None:
            shown = show(vm, hold=True)
            assert shown.seen.state == "enabled"
            return shown if "lost_task_enqueue" in shown.next else None

        shown = until(lost, SECONDS, "a task that is on no queue for a second")
        assert shown is not None
        task = shown.seen.off_queue[0]
        assert (task.held, task.dsq, task.weight) == ("scheduler", "", 33) and library.LONG <= task.waiting < 5.5
        assert f"[{task.pid}]" in shown.next and f"[{task.pid}]" in shown.summary
        for job in busy:
            vm.kill(job)


def test_tasks_modules_and_programs_are_those_of_the_guest(vm: VM, vtime: Loaded) -> None:
    def same() -> bool:
        inside = {int(word) for word in sh(vm, "cd /proc; echo [0-9]*").stdout.split()}
        with open_live(vm) as prog:
            seen = {task.pid.value_() for task in for_each_task(prog) if task.pid == task.tgid}
            return len(inside ^ seen) <= 1  # the shell that listed them

    until(same, SECONDS, "the same tasks")
    with open_live(vm) as prog:
        assert about(prog).release == vm.info().facts["release"]
        assert about(prog).build_id == vm.info().facts["build_id"]
        assert find_task(prog, 1).comm.string_() == b"init"
        assert b"vtime_dispatch"[:15] in [one.aux.name.string_() for one in bpf_prog_for_each(prog)]
        assert b"task_ctxs" in [one.name.string_() for one in bpf_map_for_each(prog)]
        assert prog.symbol(prog["schedule"].address_).name == "schedule"


def test_the_command_line_tells_it_as_json_and_to_people(vm: VM, vtime: Loaded, hogs: None, state: Path) -> None:
    until(lambda: queued(show(vm)) & set(HOGS), SECONDS, "hogs wait")
    done = kernloop("sched", "show", "shown", "--hold", "--tasks", "1", "--json", XDG_STATE_HOME=str(state))
    value = json.loads(done.out)
    assert (done.status, value["schema"], value["held"]) == (0, "kernloop.sched-show/1", True)
    assert value["schedulers"][0]["name"] == "vtime" and len(value["queues"][0]["tasks"]) == 1
    assert value["queues_left_out"] == value["queues_total"] - len(value["queues"])
    text = kernloop("sched", "show", "shown", XDG_STATE_HOME=str(state)).out.decode()
    assert "vtime is enabled" in text and "task_storage" in text and "hog" in text
    done = kernloop("sched", "show", "nobody", "--json", XDG_STATE_HOME=str(state))
    assert done.status == 2 and "shown" in json.loads(done.out)["summary"]


def test_a_dead_guest_still_tells_which_scheduler_it_had(vm: VM) -> None:
    """The last one: nothing of this guest works any more."""
    script = "printf x | /root/scxload /root/vtime.bpf.o; exec sleep 100000"
    vm.exec_background(["sh", "-c", script])
    until(lambda: scx_state(vm) == b"enabled", SECONDS, "vtime enabled")
    vm.exec_background(["sh", "-c", "echo c >/proc/sysrq-trigger"])
    until(lambda: vm.info().state == "panicked", SECONDS, "the guest is dead")
    shown = show(vm, hold=True)
    assert (shown.vm_state, shown.still, shown.held) == ("panicked", True, False)
    assert shown.seen.schedulers[0].name == "vtime"
    assert "task_ctxs" in {one.info.name for one in shown.maps}
