# SPDX-License-Identifier: Apache-2.0
"""A kernel that hangs with its interrupts off is told as a hang, with the function; one that lives never is."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import trees
from kernloop import runs
from kernloop.debug import kgdb
from kernloop.errors import HarnessError
from kernloop.kernel import refs
from kernloop.verdict import Outcome, Verdict
from kernloop.vm import client
from kernloop.vm.backends import backend
from kernloop.vm.client import VM
from kernloop.vm.handover import blob
from kernloop.vm.judge import judge_machine
from kernloop.vm.machine import Machine
from kernloop.vm.request import VmRequest
from kernloop.vm.session import GUEST_ENV, End
from kernloop.vm.topology import Topology
from support import events_of, kernloop, the_run, until
from vms import pids_of, sh, started, stop_all

pytestmark = pytest.mark.vm

BARKS = 6
SOON = f"kernloop_watchdog={BARKS}"
# cli; pause; jmp to pause
SPIN = bytes.fromhex("fa f390 ebfc")
# return 0
NOTHING = bytes.fromhex("31c0 c3")


@pytest.fixture(autouse=True)
def all_stopped(own_folders: None) -> Iterator[None]:
    yield
    stop_all()


def events(run: Path) -> list[str]:
    return [entry["event"] for entry in events_of(run)]


def test_a_hard_lockup_on_the_only_cpu_is_a_hang_in_that_function() -> None:
    script = "echo 0 > /proc/sys/kernel/printk; echo HARDLOCKUP > /sys/kernel/debug/provoke-crash/DIRECT"
    words = ["--kernel", trees.kernel().ref, "--cpus", "1", "--append", SOON, "--", "sh", "-c", script]
    done = kernloop("run", "--json", "--timeout", "300", *words)
    assert (done.status, done.json["verdict"], done.json["function"]) == (124, "hang", "lkdtm_HARDLOCKUP")
    assert f"nobody could pet it for {BARKS} s" in done.json["summary"]
    path = the_run()
    assert path is not None
    cpus = (path / "cpus.txt").read_text()
    assert "CPU 0 is in lkdtm_HARDLOCKUP+" in cpus
    assert "with interrupts off" in cpus
    assert "    ksys_write+" in cpus
    assert "RIP=" in (path / "registers.txt").read_text()
    assert str(path / "cpus.txt") in [item["path"] for item in done.json["evidence"]]


async def patched(machine: Machine, address: int, code: bytes, hold: float = 0.0) -> bytes:
    """Put `code` into the kernel's text as a debugger does, who stops the guest for `hold` seconds; what was there."""
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/gdb"
        await machine.qmp("human-monitor-command", {"command-line": f"gdbserver unix:{path},server=on,wait=off"})
        before = await asyncio.to_thread(_patch, path, address, code, hold)
        await machine.qmp("human-monitor-command", {"command-line": "gdbserver none"})
        return before


def _patch(path: str, address: int, code: bytes, hold: float) -> bytes:
    with socket.socket(socket.AF_UNIX) as gdb:
        gdb.settimeout(20)
        gdb.connect(path)
        time.sleep(hold)
        place = f"{address:x},{len(code):x}"
        before = _said(gdb, f"m{place}")
        assert _said(gdb, f"M{place}:{code.hex()}") == b"OK"
        assert _said(gdb, "D") == b"OK"
        return bytes.fromhex(before.decode())


def _said(gdb: socket.socket, packet: str) -> bytes:
    gdb.sendall(f"${packet}#{sum(packet.encode()) & 0xFF:02x}".encode())
    got = b""
    while not (match := re.search(rb"\$([^#]*)#..", got)):
        piece = gdb.recv(4096)
        assert piece, got
        got += piece
    gdb.sendall(b"+")
    return match[1]


async def noted(run: runs.Run, event: str, times: int) -> None:
    async with asyncio.timeout(90):
        while events(run.path).count(event) < times:
            await asyncio.sleep(0.1)


async def hang(run: runs.Run) -> Outcome:
    kernel = refs.resolve(refs.DEFAULT)
    made = backend("micro", kernel, Topology(1), 512, append=(SOON,))
    said = b""

    def take(data: bytes) -> None:
        nonlocal said
        said += data

    async def command(script: str) -> asyncio.Future[int | str]:
        job = await session.machine.execute(["sh", "-c", script], on_stdout=take, on_stderr=take, env=GUEST_ENV)
        return job.done

    async with made.attend(blob(b"", seed=None), run) as session:
        machine = session.machine
        assert await session.up() is End.COMMAND
        machine.wake(real_time=True)
        await (await command("grep -wE '__x64_sys_getppid|watchdog_ioctl' /proc/kallsyms"))
        places = {line.split()[2]: int(line.split()[0], 16) for line in said.decode().splitlines()}
        # A debugger holds it for longer than the watchdog waits: its clock stands still.
        barks = events(run.path).count("watchdog")
        ioctl = await patched(machine, places["watchdog_ioctl"], NOTHING, hold=BARKS + 2)
        assert events(run.path).count("watchdog") == barks
        # Nobody pets it any more, but the guest lives.
        await noted(run, "watchdog-wrong", barks + 1)
        assert await (await command("true")) == 0
        assert not session.hung.is_set()
        # Now it is petted again, and has to be started anew for that.
        await patched(machine, places["watchdog_ioctl"], ioctl)
        await machine.ask_for_life()
        await (await command("sleep 3"))
        await patched(machine, places["__x64_sys_getppid"], SPIN)
        # A shell asks for its parent.
        end = await session.first(await command("true"), 200, End.DEADLINE)
        assert end is End.DEADLINE
        assert session.hung.is_set()
        await session.interrogate()
    found = judge_machine(kernel, run, session.watched(end), deadline=200)
    assert found is not None
    return found


def test_a_kernel_of_debian_is_told_to_hang_when_it_does_and_not_before() -> None:
    with runs.create("run", "kernloop.run/1", {"subject": "hang"}) as record:
        found = asyncio.run(hang(record))
    # Two names of one function.
    assert (found.verdict, found.function) in [(Verdict.HANG, f"__{name}_sys_getppid") for name in ("do", "x64")]


def not_let_run(vm: VM, seconds: float) -> None:
    """The host does not let QEMU run, and its clock goes on."""
    qemu = pids_of(vm.run)["qemu"]
    os.kill(qemu, signal.SIGSTOP)
    time.sleep(seconds)
    os.kill(qemu, signal.SIGCONT)


def test_a_guest_that_is_busy_paused_saved_or_not_let_run_by_its_host_is_never_a_hang() -> None:
    vm = started(append=(SOON,))
    hog = "(while :; do :; done) & "
    real_time = "chrt -f 99 sh -c 'while :; do :; done' & "
    busy = f"{hog * 3}{real_time}sleep {2 * BARKS}; kill -9 %1 %2 %3 %4; echo done"
    assert sh(vm, busy, timeout=120).stdout == b"done\n"
    vm.snapshot("kept")
    vm.pause()
    time.sleep(BARKS + 2)
    vm.resume()
    assert sh(vm, "echo fine").stdout == b"fine\n"
    not_let_run(vm, BARKS + 2)
    assert sh(vm, "echo fine").stdout == b"fine\n"
    assert "looked" not in events(vm.run)
    assert vm.info().state == "running"
    vm.stop()
    again = client.start(VmRequest(name="again", tag="kept"))
    assert sh(again, f"sleep {BARKS + 2}; echo fine").stdout == b"fine\n"
    assert "looked" not in events(again.run)


def test_a_vm_whose_kernel_hangs_says_so_to_who_runs_commands_in_it() -> None:
    vm = started(kernel=trees.kernel().ref, topology=Topology(1), append=(SOON,), kgdb=True)
    result = sh(vm, "echo HARDLOCKUP > /sys/kernel/debug/provoke-crash/DIRECT", timeout=300)
    assert result.verdict == "hang"
    assert "lkdtm_HARDLOCKUP" in result.summary
    until(lambda: vm.info().state == "hung", 60, "the state hung")
    with pytest.raises(HarnessError, match="lkdtm_HARDLOCKUP"):
        sh(vm, "true")
    told = kgdb.state(vm)
    assert (told.state, told.still) == (kgdb.State.HUNG, True)
    assert "lkdtm_HARDLOCKUP" in told.why
    assert vm.stop()["verdict"] == "hang"
