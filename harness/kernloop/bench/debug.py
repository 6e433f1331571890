# SPDX-License-Identifier: Apache-2.0
"""How long debuggers take at a VM: to attach and show where it is, from a breakpoint to its stack, to a value, to a
recording; and for how long the guest stands still meanwhile.

CPU time is that of the client, of what it started, of the VM's supervisor and of QEMU with the guest's work in it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kernloop import runs
from kernloop.debug import kgdb
from kernloop.debug.gdb import client as gdbs
from kernloop.debug.session import client as sessions
from kernloop.errors import HarnessError, UsageError
from kernloop.host import process
from kernloop.host.figures import Figures, Measure, chosen, timed
from kernloop.kernel import refs
from kernloop.vm import client
from kernloop.vm.client import VM
from kernloop.vm.request import VmRequest

__all__ = ["MEASURES", "USUAL", "measure"]

MEASURES = {
    "gdb-attach": Measure("gdb: from nothing to the stacks of all CPUs"),
    "gdb-hit": Measure("gdb: continue, the next hit of a breakpoint, its stack"),
    "kgdb-attach": Measure("KGDB: SysRq g, GDB in tmux, the stack"),
    "kgdb-hit": Measure("KGDB: continue, the next hit of a breakpoint, its stack"),
    "drgn-cold": Measure("debug drgn -e 'ps()', no session open, the whole process", 2.5),
    "drgn-open": Measure("the same question in the session that is open", 0.3),
    "pause-drgn": Measure("the guest stands still while drgn opens and answers, at most", 0.05),
    "pause-attach": Measure("the guest stands still while gdb attaches, at most"),
    "pause-break": Measure("the guest stands still while gdb sets a breakpoint, at most"),
    "ftrace": Measure("debug ftrace of an event for 0.1 s, the whole process"),
    "bpftrace": Measure("debug bpftrace of a program that ends at once, the whole process"),
}
# Compiling a bpftrace program takes LLVM in the guest many seconds.
USUAL = tuple(name for name in MEASURES if name != "bpftrace")
_MEMORY = 1024
_SECONDS = 300.0
_STOP_SECONDS = 60.0
_SAMPLE_SECONDS = 0.002
# What the guest does all the time, by the shell itself: files are opened, so the breakpoint is hit.
_WORK = "while :; do read line < /proc/version; done"
_WHERE = "do_sys_openat2"
_TICKS = os.sysconf("SC_CLK_TCK")


def measure(
    names: Sequence[str], rounds: int, *, kernel: str = refs.DEFAULT, say: Callable[[str], None]
) -> dict[str, Figures]:
    """The figures of `names`, in a VM of `kernel`; KGDB's and gdb's lines need one that was built from a tree.

    Raises UsageError for a name that there is not, HarnessError when kernloop fails.
    """
    chosen(names, MEASURES)
    found = {name: Figures() for name in names}
    with _started(kernel, any(name.startswith("kgdb") for name in names)) as (vm, why):
        vm.exec_background(["sh", "-c", _WORK], timeout=86400)
        takers = {name: take for name, take in _takers(vm).items() if name in names}
        for name, take in list(takers.items()):
            if name.startswith("kgdb") and why:
                found[name].why = why
                del takers[name]
            elif name in ("ftrace", "bpftrace"):
                say(f"{name}, not counted: its program is put into the guest")
                take()
        for number in range(1, rounds + 1):
            for name, take in takers.items():
                say(f"{name}, {number} of {rounds}")
                found[name].add(take())
    return found


# Why it has no KGDB, "" where it has.
@contextlib.contextmanager
def _started(kernel: str, with_kgdb: bool) -> Iterator[tuple[VM, str]]:
    request = VmRequest(f"bench-{secrets.token_hex(2)}", kernel=kernel, memory=_MEMORY, kgdb=with_kgdb)
    why = ""
    try:
        vm = client.start(request)
    except UsageError as error:
        if not with_kgdb:
            raise
        why = f"{error.message}; {error.hint}"
        vm = client.start(VmRequest.of_json({**request.as_json(), "kgdb": False}))
    try:
        yield vm, why
    finally:
        vm.stop()


def _takers(vm: VM) -> dict[str, Callable[[], tuple[float, float]]]:
    command = (sys.executable, "-m", "kernloop", "debug")
    ftrace = (*command, "ftrace", vm.name, "--events", "sched:sched_switch", "--seconds", "0.1", "--json")
    bpftrace = (*command, "bpftrace", vm.name, "interval:ms:1 { exit(); }", "--json")
    session = sessions.attach(vm.name)
    return {
        "gdb-attach": lambda: _gdb_attach(vm),
        "gdb-hit": lambda: _gdb_hit(vm),
        "kgdb-attach": lambda: _kgdb_attach(vm),
        "kgdb-hit": lambda: _kgdb_hit(vm),
        "drgn-cold": lambda: _drgn_cold(vm, session, command),
        "drgn-open": lambda: _drgn_open(vm, session),
        "pause-drgn": lambda: _pause(vm, session.close, lambda: session.evaluate("ps()")),
        "pause-attach": lambda: _pause(vm, lambda: None, lambda: gdbs.attach(vm), lambda: gdbs.Gdb(vm).detach()),
        "pause-break": lambda: _pause_break(vm),
        "ftrace": lambda: _counted(vm, lambda: _must(ftrace)),
        "bpftrace": lambda: _counted(vm, lambda: _must(bpftrace)),
    }


def _gdb_attach(vm: VM) -> tuple[float, float]:
    def attach() -> None:
        gdb = gdbs.attach(vm)
        gdb.ask("interrupt")
        gdb.ask("cpus")

    try:
        return _counted(vm, attach, lambda: _pids_of_gdb(vm))
    finally:
        gdbs.Gdb(vm).detach()


def _gdb_hit(vm: VM) -> tuple[float, float]:
    gdb = gdbs.attach(vm)
    try:
        gdb.ask("interrupt")
        gdb.ask("break", where=_WHERE)
        gdb.ask("continue", timeout=_STOP_SECONDS)
        # The first stack of a session reads debugging information.
        gdb.ask("backtrace")

        def hit() -> None:
            if gdb.ask("continue", timeout=_STOP_SECONDS).session.reason != "breakpoint":
                raise HarnessError(f"{_WHERE} was not hit", hint="try debug gdb by itself")
            gdb.ask("backtrace")

        owned = _pids_of_gdb(vm)
        before = _cpu(owned)
        wall, cpu = _counted(vm, hit)
        return wall, cpu + _cpu(owned) - before
    finally:
        gdb.detach()


def _kgdb_attach(vm: VM) -> tuple[float, float]:
    def attach() -> None:
        kgdb.enter(vm, timeout=_STOP_SECONDS)
        kgdb.backtrace(vm)

    try:
        return _counted(vm, attach, lambda: _pids_of_kgdb(vm))
    finally:
        kgdb.end(vm, timeout=_STOP_SECONDS)


def _kgdb_hit(vm: VM) -> tuple[float, float]:
    try:
        kgdb.enter(vm, timeout=_STOP_SECONDS)
        kgdb.set_break(vm, _WHERE)
        kgdb.go(vm, "continue", timeout=_STOP_SECONDS)
        kgdb.backtrace(vm)

        def hit() -> None:
            if kgdb.go(vm, "continue", timeout=_STOP_SECONDS).stop is None:
                raise HarnessError(f"{_WHERE} was not hit", hint="try debug kgdb by itself")
            kgdb.backtrace(vm)

        owned = _pids_of_kgdb(vm)
        before = _cpu(owned)
        wall, cpu = _counted(vm, hit)
        return wall, cpu + _cpu(owned) - before
    finally:
        kgdb.end(vm, timeout=_STOP_SECONDS)


def _drgn_cold(vm: VM, session: sessions.Session, command: tuple[str, ...]) -> tuple[float, float]:
    session.close()
    return _counted(
        vm, lambda: _must((*command, "drgn", vm.name, "-e", "ps()", "--json")), lambda: [session.state()["pid"]]
    )


def _drgn_open(vm: VM, session: sessions.Session) -> tuple[float, float]:
    session.evaluate("ps()")
    owned = [session.state()["pid"]]
    before = _cpu(owned)
    wall, cpu = _counted(vm, lambda: session.evaluate("ps()"))
    return wall, cpu + _cpu(owned) - before


def _pause_break(vm: VM) -> tuple[float, float]:
    gdb = gdbs.attach(vm)
    try:
        return _pause(vm, lambda: None, lambda: gdb.ask("break", where="kernel_clone"))
    finally:
        gdb.detach()


# The longest of it, and the CPU time of what was done.
def _pause(
    vm: VM, before: Callable[[], object], do: Callable[[], object], after: Callable[[], object] = lambda: None
) -> tuple[float, float]:
    before()
    watch = _Still(int(vm.info().facts["pid"]))
    try:
        with watch:
            _, cpu = _counted(vm, do)
    finally:
        after()
    return watch.longest, cpu


@dataclass(frozen=True)
class _Told:
    ran: int
    waited: int


class _Still:
    """For how long the thread of a busy guest's vCPUs wanted no CPU of the host's.

    What the host let others run instead is not counted: /proc/PID/schedstat has both. A vCPU's own figure is a tick of
    the host old, so that is how exact it is.
    """

    def __init__(self, pid: int) -> None:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        before = {task: self._told(task).ran for task in tasks}
        time.sleep(0.1)
        self._task = max(tasks, key=lambda task: self._told(task).ran - before[task])
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.longest = 0.0

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        last, since = self._told(self._task), time.monotonic()
        while not self._end.wait(_SAMPLE_SECONDS):
            seen, now = self._told(self._task), time.monotonic()
            if seen.ran != last.ran:
                had = (seen.ran - last.ran + seen.waited - last.waited) / 1e9
                self.longest = max(self.longest, now - since - had)
                last, since = seen, now

    @staticmethod
    def _told(task: Path) -> _Told:
        ran, waited = (task / "schedstat").read_text().split()[:2]
        return _Told(int(ran), int(waited))


# `begun` are processes that are there afterwards, and were not before.
def _counted(
    vm: VM, call: Callable[[], object], begun: Callable[[], Sequence[int]] = lambda: ()
) -> tuple[float, float]:
    facts = vm.info().facts
    lasting = (int(facts["supervisor"]), int(facts["pid"]))
    before = _cpu(lasting)
    wall, cpu = timed(call)
    return wall, cpu + _cpu(lasting) - before + _cpu(begun())


def _cpu(pids: Sequence[int]) -> float:
    ticks = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])  # utime, stime (proc_pid_stat(5))
    return ticks / _TICKS


def _pids_of_gdb(vm: VM) -> list[int]:
    noted = runs.read_json(vm.run / "gdb/session.json")
    return [int(noted[name]) for name in ("pid", "gdb") if name in noted]


def _pids_of_kgdb(vm: VM) -> list[int]:
    tmux = next((int(one["pid"]) for one in reversed(runs.timeline(vm.run)) if one.get("event") == "kgdb-tmux"), 0)
    children = Path(f"/proc/{tmux}/task/{tmux}/children")
    return [tmux, *map(int, children.read_text().split())] if children.exists() else []


def _must(command: Sequence[str]) -> None:
    process.run(command, seconds=_SECONDS, what=" ".join(command[3:6]))
