# SPDX-License-Identifier: Apache-2.0
"""KGDB in a guest: entered, looked at, stepped and left; no time counts meanwhile, and a person may watch."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import shlex
import signal
import stat
import struct
import subprocess
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

import trees
from kernloop.debug import kgdb
from kernloop.debug.gdb import client as gdbs
from kernloop.debug.kgdb import State
from kernloop.errors import UsageError
from kernloop.kernel import source
from kernloop.sched import compile as compiling
from kernloop.sched import programs
from kernloop.vm.client import VM
from support import ROOT, kernloop, until
from vms import check_nothing_left, started, stop_all

pytestmark = pytest.mark.vm

# Longer than it takes under a load.
_SECONDS = 120.0


@pytest.fixture(autouse=True)
def all_stopped(own_folders: None) -> Iterator[None]:
    yield
    stop_all()


def guest(**words: object) -> VM:
    return started("a", kernel=trees.kernel().ref, kgdb=True, **words)


def test_a_kernel_without_kgdb_is_told_with_the_fragment_to_build_it_with() -> None:
    done = kernloop("vm", "start", "--kgdb", "--json")
    assert done.status == 2
    assert "CONFIG_KGDB" in done.json["summary"]
    assert "--fragment kgdb" in done.json["next"]


def test_a_vm_without_the_port_says_how_to_get_one() -> None:
    vm = started("a", kernel=trees.kernel().ref)
    with pytest.raises(UsageError, match="without a port") as caught:
        kgdb.enter(vm)
    assert "vm start --kgdb" in caught.value.hint


def test_a_session_from_entry_to_end() -> None:
    vm = guest()
    assert kgdb.state(vm).state is State.OFF
    with pytest.raises(UsageError, match="not in its debugger"):
        kgdb.threads(vm)

    entered = kgdb.enter(vm, timeout=_SECONDS)
    assert entered.state is State.IN_KGDB
    assert entered.stop and entered.stop.frame and entered.stop.frame.function == "kgdb_breakpoint"
    assert vm.info().state == "in-kgdb"
    with pytest.raises(UsageError, match="debugger"):
        vm.exec(["true"])
    for name in ("tmux", "kgdb", "kgdb-link"):
        assert stat.S_IMODE((vm.run / name).stat().st_mode) & 0o077 == 0

    with pytest.raises(UsageError, match="kernel's debugger"):
        gdbs.attach(vm)

    tasks = kgdb.threads(vm, timeout=_SECONDS)
    assert [one.cpu for one in tasks if one.cpu is not None] == [0, 1]
    init = next(one for one in tasks if one.pid == 1)
    assert init.frames[0].function in ("poll_schedule_timeout", "do_poll", "do_epoll_wait", "ep_poll")
    calls = [frame.function for frame in kgdb.backtrace(vm, str(init.thread), limit=32)[0].frames]
    assert "do_syscall_64" in calls
    cpus = kgdb.backtrace(vm, "cpus")
    assert "handle_sysrq" in {frame.function for frame in cpus[0].frames + cpus[1].frames}
    assert "init" in kgdb.kdb(vm, "ps")
    with pytest.raises(UsageError, match="GDB has the kernel"):
        kgdb.kdb(vm, "go")

    comm = kgdb.evaluate(vm, "init_task.comm")
    assert comm.value and comm.value.startswith('"swapper/0"')
    with pytest.raises(UsageError, match="No symbol"):
        kgdb.evaluate(vm, "no_such_thing")
    with pytest.raises(UsageError, match="not defined"):
        kgdb.set_break(vm, "no_such_function")

    point = kgdb.set_break(vm, "filename_mknodat")  # nobody else makes a pipe
    assert kgdb.go(vm, "continue", timeout=0.5).state is State.RUNNING
    job = vm.exec_background(["mkfifo", "/root/pipe"], timeout=8)
    until(lambda: kgdb.state(vm).stop is not None, _SECONDS, "the breakpoint")
    stop = kgdb.state(vm).stop
    assert stop and stop.reason == "breakpoint" and stop.breakpoints == (point.number,)
    assert stop.frame and stop.frame.function == "filename_mknodat"
    assert "dev" in {value.name for value in kgdb.local_variables(vm)}
    mode = kgdb.evaluate(vm, "mode").value
    assert mode and stat.S_ISFIFO(int(mode))

    line = stop.frame.line
    stepped = kgdb.go(vm, "next", timeout=_SECONDS)
    assert stepped.stop and stepped.stop.reason == "end of step"
    assert stepped.stop.frame and stepped.stop.frame.line != line
    assert kgdb.breakpoints(vm)[0].hits == 1
    assert kgdb.delete(vm, point.number) == ()
    # More than the command may take: its time stands still.
    assert vm.job(job, timeout=8.5) is None
    ended = kgdb.end(vm, timeout=_SECONDS)
    assert (ended.state, ended.watch) == (State.OFF, "")
    done = vm.job(job, timeout=_SECONDS)
    assert done and (done.verdict, done.status) == ("pass", 0)
    assert vm.exec(["uname"]).stdout == b"Linux\n"

    # The other debugger, and then not this one.
    gdb = gdbs.attach(vm)
    with pytest.raises(UsageError, match="gdb is at"):
        kgdb.enter(vm)
    gdb.ask("interrupt")
    with pytest.raises(UsageError, match="gdb is at"):
        kgdb.enter(vm)
    gdb.detach()
    assert kgdb.state(vm).state is State.OFF
    assert vm.stop()["verdict"] == "pass"
    check_nothing_left(vm.run)


def test_a_scheduler_that_loads_is_seen_in_scx_enable_and_in_enqueue_task_scx_and_a_person_watches(
    tmp_path: Path,
) -> None:
    vm = guest()
    kit = source.kit(trees.kernel())
    built = compiling.compile_scheduler(ROOT / "examples/schedulers/fifo.bpf.c", kit, tmp_path / "fifo.bpf.o")
    assert built.object is not None, built.text
    vm.push(programs.loader(kit), "/root/scxload")
    vm.push(tmp_path / "fifo.bpf.o", "/root/")
    entered = kgdb.enter(vm, timeout=_SECONDS)
    first = kgdb.set_break(vm, "scx_enable", temporary=True)
    second = kgdb.set_break(vm, "enqueue_task_scx")
    assert kgdb.go(vm, "continue", timeout=0.5).state is State.RUNNING
    job = vm.exec_background(["sh", "-c", "printf x | /root/scxload /root/fifo.bpf.o; exec sleep 1000"])
    until(lambda: kgdb.state(vm).stop, _SECONDS, "scx_enable")
    stop = kgdb.state(vm).stop
    assert stop and stop.breakpoints == (first.number,)
    assert stop.thread.name.startswith("scxload")
    assert stop.frame and stop.frame.function == "scx_enable"
    assert "cmd" in {value.name for value in kgdb.local_variables(vm)}
    named = kgdb.evaluate(vm, "cmd->ops->name").value
    assert named and named.startswith('"fifo')

    hit = kgdb.go(vm, "continue", timeout=_SECONDS).stop
    assert hit and hit.breakpoints == (second.number,)
    assert kgdb.backtrace(vm, limit=2)[0].frames[0].function == "enqueue_task_scx"
    comm = kgdb.evaluate(vm, "p->comm").value
    assert comm and comm.startswith('"')

    # With the very words that `enter` has told; what is typed there reaches nobody.
    words = shlex.split(entered.watch)
    watched(words, asked=b"evaluate p->comm", typed=b"quit\n\x03\x02:kill-server\n")
    assert kgdb.state(vm).state is State.IN_KGDB
    pane = subprocess.run([*words[:3], "capture-pane", "-p", "-S-"], capture_output=True, timeout=20, check=True)
    assert b"quit" not in pane.stdout
    assert kgdb.evaluate(vm, "p->comm").value == comm

    kgdb.delete(vm, second.number)
    kgdb.end(vm, timeout=_SECONDS)
    vm.kill(job)
    assert vm.stop()["verdict"] == "pass"
    check_nothing_left(vm.run)


def watched(words: list[str], *, asked: bytes, typed: bytes) -> None:
    """A person with a terminal of their own sees what was `asked` last, types something and closes it."""
    ours, theirs = pty.openpty()
    env = {**os.environ, "TERM": "xterm"}
    with subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=theirs, env=env, start_new_session=True) as client:
        os.close(theirs)
        shown = b""
        try:
            while asked not in shown:
                assert select.select([ours], [], [], 20)[0], shown
                shown += os.read(ours, 65536)
            os.write(ours, typed)
            # It has read that when it draws anew for a terminal of another size.
            for rows in (40, 41):
                fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, 100, 0, 0))
                client.send_signal(signal.SIGWINCH)
                assert select.select([ours], [], [], 20)[0], shown
                shown += os.read(ours, 65536)
            assert client.poll() is None
        finally:
            client.terminate()
            os.close(ours)
