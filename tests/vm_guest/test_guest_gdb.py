# SPDX-License-Identifier: Apache-2.0
"""GDB at a live guest: what it stops at is so, and whatever is killed, the VM is as it was or honestly lost."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import crashing
import trees
from kernloop import runs
from kernloop.debug.gdb import client as gdbs
from kernloop.debug.gdb.client import Gdb
from kernloop.debug.gdb.state import Reason, State
from kernloop.errors import UsageError
from kernloop.kernel import source
from kernloop.sched import compile as compiling
from kernloop.sched import programs
from kernloop.vm.client import VM
from kernloop.vm.request import VmRequest
from kernloop.vm.topology import Topology
from support import ROOT, alive, child, events_of, until
from vms import pids_of, running, sh, started

pytestmark = pytest.mark.vm
LONG = pytest.mark.skipif("KERNLOOP_LONG_TESTS" not in os.environ, reason="KERNLOOP_LONG_TESTS is not set")
SECONDS = 60.0
SCHEDULER = "fifo"


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state")


@pytest.fixture(scope="module")
def vm(state: Path) -> Iterator[VM]:
    kernel = trees.kernel()
    with running(VmRequest(name="gdb", kernel=f"tree:{trees.linux()}"), state=state) as vm:
        kit = source.kit(kernel)
        vm.push(programs.loader(kit), "/root/scxload")
        target = state / f"{SCHEDULER}.bpf.o"
        built = compiling.compile_scheduler(ROOT / f"examples/schedulers/{SCHEDULER}.bpf.c", kit, target)
        assert built.object is not None, built.text
        vm.push(target, "/root/")
        yield vm


@pytest.fixture
def gdb(vm: VM) -> Iterator[Gdb]:
    session = gdbs.attach(vm)
    yield session
    if not gdbs.last(vm).state.over:
        session.detach()
    until(lambda: vm.info().state == "running", SECONDS, "the guest runs")
    assert sh(vm, "echo alive").stdout == b"alive\n"
    left = (vm.run / "gdbstub", vm.run / "gdb/socket")
    until(lambda: not any(path.exists() for path in left), SECONDS, "no socket is left")


def pids(vm: VM) -> tuple[int, int]:
    """The owner's and gdb's."""
    said = runs.read_json(vm.run / "gdb/session.json")
    return int(said["pid"]), int(said["gdb"])


def test_a_scheduler_that_loads_is_seen_in_scx_enable_and_in_enqueue_task_scx(vm: VM, gdb: Gdb) -> None:
    assert gdb.ask("break", where="scx_enable", temporary=True).session.state is State.RUNNING
    gdb.ask("break", where="enqueue_task_scx", ignore=3)
    since = gdb.ask("state").session.stops
    job = vm.exec_background(["sh", "-c", f"printf x | /root/scxload /root/{SCHEDULER}.bpf.o; exec sleep 1000"])
    stopped = gdb.ask("wait", since=since, timeout=SECONDS).session
    assert (stopped.state, stopped.reason, stopped.breakpoint) == (State.STOPPED, Reason.BREAKPOINT, 1)
    assert stopped.frame is not None
    assert (stopped.frame.function, stopped.frame.file) == ("scx_enable", "kernel/sched/ext/ext.c")
    assert vm.info().state == "in-gdb"
    assert "cmd" in {row["name"] for row in gdb.ask("locals").found["variables"]}
    named = gdb.ask("evaluate", expression="cmd->ops->name").found["value"]
    assert SCHEDULER in named
    tree = gdb.ask("print", expression="init_task.scx", depth=1, limit=8).found
    assert tree["tree"]["type"] == "struct sched_ext_entity"
    assert tree["cut"]
    since = gdb.ask("state").session.stops
    hit = gdb.ask("continue", timeout=SECONDS).session
    assert (hit.reason, hit.breakpoint) == (Reason.BREAKPOINT, 2)
    frames = gdb.ask("backtrace").found["frames"]
    assert frames[0]["function"] == "enqueue_task_scx"
    [row] = gdb.ask("breakpoints").found["breakpoints"]
    assert row["hits"] >= 4
    current = gdb.ask("evaluate", expression="p->comm").found["value"]
    assert current.startswith('"')
    gdb.ask("delete", numbers=[])
    assert gdb.ask("continue", timeout=0.2).session.state is State.RUNNING
    vm.kill(job)


def test_a_commands_time_does_not_pass_while_the_guest_stands_still(vm: VM, gdb: Gdb) -> None:
    gdb.ask("interrupt")
    with pytest.raises(UsageError, match="stands still in gdb"):
        vm.exec(["true"])
    gdb.ask("continue", timeout=0)
    # Both are more than it takes on a loaded machine to stop the guest, and to hear of the command's end.
    job = vm.exec_background(["sleep", "4"], timeout=9)
    gdb.ask("interrupt")
    assert vm.job(job, timeout=9.5) is None
    gdb.ask("continue", timeout=0)
    done = vm.job(job, timeout=SECONDS)
    assert done is not None
    assert done.verdict == "pass"


def test_a_wait_ends_and_an_interrupt_comes_through_while_another_waits(vm: VM, gdb: Gdb) -> None:
    begun = time.monotonic()
    assert gdb.ask("wait", since=99, timeout=0.5).session.state is State.RUNNING
    assert time.monotonic() - begun < 5
    seen: list[State] = []
    since = gdb.ask("state").session.stops
    waiter = threading.Thread(target=lambda: seen.append(gdb.ask("wait", since=since, timeout=SECONDS).session.state))
    waiter.start()
    assert gdb.ask("interrupt").session.reason is Reason.INTERRUPTED
    waiter.join(SECONDS)
    assert seen == [State.STOPPED]
    assert [row["cpu"] for row in gdb.ask("cpus", limit=2).found["cpus"]] == [0, 1]
    assert gdb.ask("tasks", pid=1).found["comm"] == "init"


def test_what_gdb_refuses_is_the_callers_and_the_session_goes_on(gdb: Gdb) -> None:
    with pytest.raises(UsageError, match="the guest runs"):
        gdb.ask("backtrace")
    with pytest.raises(UsageError, match="not defined"):
        gdb.ask("break", where="no_such_function")
    assert gdb.ask("interrupt").session.state is State.STOPPED
    with pytest.raises(UsageError, match="No symbol"):
        gdb.ask("evaluate", expression="no_such_thing")
    with pytest.raises(UsageError, match="only tell"):
        gdb.ask("command", text="shell id")
    assert "Linux version" in gdb.ask("command", text="lx-version").found["text"]


@pytest.mark.parametrize(
    ("who", "while_it"),
    [
        ("owner", "runs"),
        ("gdb", "stands"),
        pytest.param("owner", "stands", marks=LONG),
        pytest.param("gdb", "runs", marks=LONG),
    ],
)
def test_a_killed_part_is_a_lost_session_and_the_guest_goes_on_without_its_breakpoints(
    vm: VM, gdb: Gdb, who: str, while_it: str
) -> None:
    # Each open of a file would stop the guest, if the breakpoint were left.
    gdb.ask("break", where="do_sys_openat2")
    if while_it == "stands":
        since = gdb.ask("state").session.stops
        vm.exec_background(["cat", "/proc/version"])
        assert gdb.ask("wait", since=since, timeout=SECONDS).session.state is State.STOPPED
    owner, debugger = pids(vm)
    os.kill(owner if who == "owner" else debugger, signal.SIGKILL)
    until(lambda: gdb.ask("state").session.state is State.LOST, SECONDS, "the session is lost")
    until(lambda: not alive(owner) and not alive(debugger), SECONDS, "nothing is left")
    until(lambda: vm.info().state == "running", SECONDS, "the guest runs")
    assert sh(vm, "cat /proc/version").stdout.startswith(b"Linux")


def test_a_client_that_is_killed_while_it_waits_leaves_the_session(vm: VM, gdb: Gdb) -> None:
    waits = child(
        "import sys; from pathlib import Path; from kernloop.vm.client import VM\n"
        "from kernloop.debug.gdb.client import Gdb; print('here', flush=True)\n"
        "Gdb(VM('gdb', Path(sys.argv[1]))).ask('wait', since=99, timeout=600)",
        vm.run,
    )
    assert waits.stdout is not None
    waits.stdout.readline()
    waits.kill()
    waits.wait()
    assert gdb.ask("interrupt").session.reason is Reason.INTERRUPTED


def test_a_guest_that_spins_with_interrupts_off_is_interrupted_and_shows_where(own_folders: None) -> None:
    kernel = trees.kernel()
    vm = started("spins", kernel=f"tree:{trees.linux()}")
    file = crashing.module(kernel)
    vm.push(file, "/root/kl_crash.ko")
    assert sh(vm, "insmod /root/kl_crash.ko").status == 0
    gdb = gdbs.attach(vm)
    known = gdb.ask("modules", files=[str(file)]).found
    assert [row["name"] for row in known["modules"]] == ["kl_crash"], known
    since = gdb.ask("state").session.stops
    gdb.ask("break", where="kl_spin_twice")
    vm.exec_background(["sh", "-c", "echo spin_twice > /sys/module/kl_crash/parameters/what"])
    assert gdb.ask("wait", since=since, timeout=SECONDS).session.reason is Reason.BREAKPOINT
    gdb.ask("continue", timeout=1)
    stopped = gdb.ask("interrupt").session
    assert stopped.reason is Reason.INTERRUPTED
    functions = [frame["function"] for one in gdb.ask("cpus", limit=12).found["cpus"] for frame in one["frames"]]
    assert "kl_spin_twice" in functions
    # What has the guest dies: what is left is told as it is, also where GDB hears of it first.
    gdb.ask("continue", timeout=0)
    owner, debugger = pids(vm)
    os.kill(pids_of(vm.run)["qemu"], signal.SIGKILL)
    until(lambda: gdb.ask("state").session.state is State.EXITED, SECONDS, "the session has ended with the VM")
    until(lambda: not alive(owner) and not alive(debugger), SECONDS, "nothing is left")


def barking(vm: VM) -> None:
    """Its only CPU spins with interrupts off."""
    vm.push(crashing.module(trees.kernel()), "/root/kl_crash.ko")
    assert sh(vm, "insmod /root/kl_crash.ko").status == 0
    vm.exec_background(["sh", "-c", "echo spin_twice > /sys/module/kl_crash/parameters/what"])


def test_a_watchdog_that_barks_as_gdb_comes_waits_for_it_to_go(own_folders: None) -> None:
    vm = started("barks", kernel=f"tree:{trees.linux()}", topology=Topology(1), append=("kernloop_watchdog=6",))
    barking(vm)
    until(lambda: "watchdog" in {entry["event"] for entry in events_of(vm.run)}, 4 * SECONDS, "the watchdog")
    gdb = gdbs.attach(vm)
    session = gdb.ask("state").session
    if session.state is State.RUNNING:
        # More than a guest may use that does not answer.
        qemu = pids_of(vm.run)["qemu"]
        used = cpu_seconds(qemu)
        until(lambda: cpu_seconds(qemu) > used + 6 or vm.info().state != "running", 4 * SECONDS, "the guest spins")
        assert gdb.ask("interrupt").session.reason is Reason.INTERRUPTED
        assert vm.info().state == "in-gdb"
    else:
        # It was slow to come: the guest was found dead before, and is told as that.
        assert (session.reason, vm.info().state) == (Reason.WATCHDOG, "hung")
    gdb.detach()
    until(lambda: vm.info().state == "hung", 4 * SECONDS, "it hangs all the same")


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@LONG
def test_a_watchdog_that_stops_a_guest_under_gdb_is_the_reason_of_the_stop(own_folders: None) -> None:
    vm = started("barks", kernel=f"tree:{trees.linux()}", topology=Topology(1), append=("kernloop_watchdog=6",))
    gdb = gdbs.attach(vm)
    since = gdb.ask("state").session.stops
    barking(vm)
    assert gdb.ask("wait", since=since, timeout=SECONDS).session.reason is Reason.WATCHDOG
    assert vm.info().state == "in-gdb"
    assert gdb.ask("continue", timeout=0.5).session.state is State.RUNNING
    gdb.detach()


def test_a_killed_supervisor_takes_gdb_with_it(own_folders: None) -> None:
    # At random addresses, and without debugging information unless Debian's package was fetched.
    vm = started("short", kernel="debian:7.3.4", append=("kaslr",))
    [line] = sh(vm, "grep ' do_sys_openat2$' /proc/kallsyms").stdout.decode().splitlines()
    # It may draw offset 0, one time in 475.
    assert b"nokaslr" not in sh(vm, "cat /proc/cmdline").stdout
    gdb = gdbs.attach(vm)
    known = gdb.ask("modules").found
    assert known["dwarf"] or "names only" in known["notes"][0]
    row = gdb.ask("break", where="do_sys_openat2").found["breakpoint"]
    assert (row["number"], int(row["address"], 16)) == (1, int(line.split()[0], 16))
    since = gdb.ask("state").session.stops
    vm.exec_background(["cat", "/proc/version"])
    assert gdb.ask("wait", since=since, timeout=SECONDS).session.reason is Reason.BREAKPOINT
    calls = [frame["function"] for frame in gdb.ask("backtrace").found["frames"]]
    assert calls[0] == "do_sys_openat2"
    assert "do_syscall_64" in calls
    assert calls[-1].startswith("entry_SYSCALL_64")
    owner, debugger = pids(vm)
    os.kill(pids_of(vm.run)["supervisor"], signal.SIGKILL)
    until(lambda: gdb.ask("state").session.state is State.EXITED, SECONDS, "the session has ended with the VM")
    until(lambda: not alive(owner) and not alive(debugger), SECONDS, "nothing is left")
