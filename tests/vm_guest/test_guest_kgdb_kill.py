# SPDX-License-Identifier: Apache-2.0
"""Whoever of KGDB's dies, GDB, tmux, a client, the supervisor or the guest: the state is told, nothing is left, and the
VM is usable or gone."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

import trees
from kernloop.debug import kgdb
from kernloop.debug.kgdb import State
from kernloop.errors import HarnessError, UsageError
from kernloop.vm.client import VM
from support import alive, child, events_of, kernloop, until
from vms import check_nothing_left, pids_of, started, stop_all

pytestmark = pytest.mark.vm

# Longer than it takes under a load.
_SECONDS = 120.0


@pytest.fixture(autouse=True)
def all_stopped(own_folders: None) -> Iterator[None]:
    yield
    stop_all()


def parts(vm: VM) -> tuple[int, int]:
    """tmux, and the GDB in it."""
    tmux = int(next(entry["pid"] for entry in reversed(events_of(vm.run)) if entry["event"] == "kgdb-tmux"))
    (gdb,) = Path(f"/proc/{tmux}/task/{tmux}/children").read_text().split()
    return tmux, int(gdb)


def lost(vm: VM, *pids: int) -> None:
    until(lambda: kgdb.state(vm).state is State.LOST, _SECONDS, "the loss is told")
    until(lambda: not any(map(alive, pids)), _SECONDS, "nothing is left of it")


def test_gdb_tmux_or_a_client_dies_and_the_vm_is_usable() -> None:
    vm = started("a", kernel=trees.kernel().ref, kgdb=True)
    kgdb.enter(vm, timeout=_SECONDS)
    tmux, gdb = parts(vm)
    os.kill(gdb, signal.SIGKILL)
    lost(vm, tmux)
    with pytest.raises(HarnessError, match="ended"):
        kgdb.threads(vm)
    assert "init" in kgdb.kdb(vm, "ps A")
    assert kgdb.enter(vm, timeout=_SECONDS).state is State.IN_KGDB
    assert len(kgdb.threads(vm, timeout=_SECONDS)) > 10

    # A breakpoint of a GDB that is gone stops the guest with nobody there: that is told, and `end` takes it out.
    kgdb.set_break(vm, "filename_mknodat")
    assert kgdb.go(vm, "continue", timeout=0.5).state is State.RUNNING
    tmux, gdb = parts(vm)
    os.kill(tmux, signal.SIGKILL)
    lost(vm, gdb)
    assert vm.info().state == "running"
    assert "still in the kernel" in kgdb.state(vm).why
    job = vm.exec_background(["mkfifo", "/root/pipe"])
    until(lambda: vm.info().state == "in-kgdb", _SECONDS, "the breakpoint")
    told = kgdb.state(vm)
    assert (told.state, told.still) == (State.LOST, True)
    assert told.next.startswith("kernloop debug kgdb a end")
    assert "a: kernloop debug kgdb a end" in kernloop("vm", "list").out.decode()
    with pytest.raises(UsageError, match="nobody is there") as caught:
        vm.exec(["true"])
    assert "kernloop debug kgdb a end" in caught.value.hint
    assert kgdb.end(vm, timeout=_SECONDS).state is State.OFF
    done = vm.job(job, timeout=_SECONDS)
    assert done and done.verdict == "pass"

    # Who waits for a stop may go, and meanwhile another may make one.
    kgdb.enter(vm, timeout=_SECONDS)
    waits = child(
        "import sys; from pathlib import Path; from kernloop.vm.client import VM; from kernloop.debug import kgdb\n"
        "print('here', flush=True); kgdb.go(VM('a', Path(sys.argv[1])), 'continue', timeout=600)",
        vm.run,
    )
    assert waits.stdout is not None
    waits.stdout.readline()
    until(lambda: kgdb.state(vm).state is State.RUNNING, _SECONDS, "it runs")
    waits.kill()
    waits.wait()
    assert kgdb.enter(vm, timeout=_SECONDS).state is State.IN_KGDB
    assert kgdb.end(vm, timeout=_SECONDS).state is State.OFF

    # What its kernel is, or was, is told at any time.
    vm.exec_background(["sh", "-c", "echo c > /proc/sysrq-trigger"])
    until(lambda: vm.info().state == "in-kgdb", _SECONDS, "the panic in KGDB")
    kgdb.end(vm, timeout=_SECONDS)
    until(lambda: vm.info().state == "panicked", _SECONDS, "the panic goes on")
    shown = kernloop("debug", "kgdb", "a", "state", "--json")
    assert (shown.status, shown.json["state"], shown.json["still"]) == (0, "panicked", True)
    assert "sysrq triggered crash" in shown.json["why"]
    assert kgdb.end(vm).state is State.PANICKED
    assert vm.stop()["verdict"] == "panic"
    assert kernloop("debug", "kgdb", "a", "state", "--json").json["state"] == "exited"
    check_nothing_left(vm.run)


@pytest.mark.parametrize("who", ["qemu", "supervisor"])
def test_the_guest_or_its_supervisor_dies_and_so_does_gdb(who: str) -> None:
    vm = started("a", kernel=trees.kernel().ref, kgdb=True)
    kgdb.enter(vm, timeout=_SECONDS)
    pids = parts(vm)
    os.kill(pids_of(vm.run)[who], signal.SIGKILL)
    until(lambda: not any(map(alive, pids)), _SECONDS, "GDB and tmux gone")
    until(lambda: kgdb.state(vm).state is State.EXITED, _SECONDS, "the end is told")
    if who == "qemu":
        check_nothing_left(vm.run)
