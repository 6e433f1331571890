# SPDX-License-Identifier: Apache-2.0
"""VMs that live, for tests: started under a name of their own, and gone with the test, whatever it did to them."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from kernloop.host.paths import cache_dir, state_dir
from kernloop.vm import client
from kernloop.vm.answers import ExecResult
from kernloop.vm.client import VM
from kernloop.vm.request import VmRequest, live
from support import alive, events_of, processes_naming, until

__all__ = [
    "CLEANED",
    "check_nothing_left",
    "check_time_of_day",
    "descriptors",
    "pids_of",
    "running",
    "sh",
    "started",
    "stop_all",
]

CLEANED = 20.0


@contextlib.contextmanager
def running(request: VmRequest | None = None, *, state: Path | None = None) -> Iterator[VM]:
    """A VM for the block; `state` is where its run directory goes when no test's folders are there yet."""
    with pytest_environment(state):
        vm = client.start(request or VmRequest())
    try:
        yield vm
    finally:
        vm.stop()


@contextlib.contextmanager
def pytest_environment(state: Path | None) -> Iterator[None]:
    old = os.environ.get("XDG_STATE_HOME")
    if state is not None:
        os.environ["XDG_STATE_HOME"] = str(state)
    try:
        yield
    finally:
        if old is None:
            os.environ.pop("XDG_STATE_HOME", None)
        else:
            os.environ["XDG_STATE_HOME"] = old


def started(name: str = "", **words: object) -> VM:
    """A VM that `stop_all` will stop."""
    return client.start(replace(VmRequest(name=name), **words))  # type: ignore[arg-type]


def stop_all() -> None:
    """End all VMs of this test."""
    for path, spec in live():
        VM(str(spec.get("subject")), path).stop()


def sh(vm: VM, script: str, *, timeout: float = 60.0) -> ExecResult:
    return vm.exec(["sh", "-c", script], timeout=timeout)


def check_time_of_day(vm: VM) -> None:
    """The guest's clock is the host's, not its snapshot's; how long it takes to be set and to answer is none of it."""
    before = time.time()
    told = float(sh(vm, "date +%s").stdout)
    assert before - 10 < told < time.time() + 2


def pids_of(run: Path) -> dict[str, int]:
    """The supervisor's and QEMU's."""
    events = events_of(run)
    qemu = [int(entry["pid"]) for entry in events if entry["event"] == "qemu-started"]
    return {"supervisor": int(events[0]["pid"]), **({"qemu": qemu[-1]} if qemu else {})}


def descriptors(pid: int | str = "self") -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def check_nothing_left(run: Path) -> None:
    """No process, socket, staging folder or temporary file of this run."""
    pids = [int(entry["pid"]) for entry in events_of(run) if "pid" in entry]
    until(lambda: not any(alive(pid) for pid in pids), CLEANED, f"processes {pids} gone")
    until(lambda: not processes_naming(run), CLEANED, f"processes of {run.name} gone")
    until(lambda: not _left(run, pids), CLEANED, f"nothing left of {pids}: {_left(run, pids)}")


# Others may be at work in the shared cache: what is staged there carries the pid of who does it.
def _left(run: Path, pids: list[int]) -> list[Path]:
    staged = [path for pid in pids for path in cache_dir().glob(f"*/.*.{pid}.*")]
    files = [file for file in run.rglob("*") if _is_socket(file) or file.name == "payload" or ".new" in file.name]
    temporary = Path(tempfile.gettempdir()).glob("kernloop-*")
    return [*staged, *state_dir().glob("vms/.*"), *files, *temporary]


def _is_socket(file: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return stat.S_ISSOCK(file.lstat().st_mode)
    return False
