# SPDX-License-Identifier: Apache-2.0
"""How long it takes to get a guest, and to have it do something: wall and CPU time, in interleaved rounds.

Each measure is taken once a round, so what else the machine does in one of them meets all alike.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kernloop.errors import HarnessError
from kernloop.host import process, toolset
from kernloop.host.figures import Figures, Measure, children, chosen, timed
from kernloop.host.paths import cache_dir
from kernloop.kernel import refs
from kernloop.kernel.kernel import Kernel
from kernloop.vm import accel, client, guests, snapshots
from kernloop.vm.request import VmRequest
from kernloop.vm.topology import Topology

__all__ = ["MEASURES", "Machine", "machine", "measure"]

_EXECS = 20
_SECONDS = 300.0
_REAPED_SECONDS = 10.0


MEASURES = {
    "cold": Measure("run --cold -- true: a boot, as a process"),
    "restore": Measure("from starting a VM to the first command's answer", 0.35),
    "exec": Measure("a command in a VM that runs", 0.02),
    "run": Measure("run -- true, as a process", 1.2),
    "seed": Measure("run --seed 1 -- true, as a process", 0.8),
    "verify": Measure("verify examples/schedulers/fifo.bpf.c, as a process", 6.0),
    "vng": Measure("vng -r KERNEL -- true, as a process"),
}


@dataclass(frozen=True)
class Machine:
    """What the figures depend on; `snapshot` is the default guest's, bytes on disk and bytes with the holes."""

    kernel: str
    qemu: str
    accelerator: str
    snapshot: tuple[int, int]


def measure(names: Sequence[str], rounds: int, *, say: Callable[[str], None]) -> dict[str, Figures]:
    """The figures of `names`. Raises UsageError for a name that there is not, HarnessError when kernloop fails."""
    chosen(names, MEASURES)
    kernel = refs.resolve(refs.DEFAULT)
    takers = {name: _taker(name, kernel) for name in names}
    found = {name: Figures() for name in names}
    for name in names:
        if name in ("restore", "run", "seed", "verify"):
            say(f"{name}, not counted: what it can keep is made now")
            takers[name]()
    for number in range(1, rounds + 1):
        for name, take in takers.items():
            if found[name].why:
                continue
            say(f"{name}, {number} of {rounds}")
            try:
                found[name].add(take())
            except _Missing as missing:
                found[name] = Figures(why=str(missing))
    return found


def machine() -> Machine:
    """What was measured on; the snapshot is there when a VM was restored."""
    kernel = refs.resolve(refs.DEFAULT)
    guest = guests.micro(kernel, Topology(), VmRequest().memory)
    snapshot = snapshots.find(guest.key())
    files = list(snapshot.path.iterdir()) if snapshot else []
    sizes = (snapshot.size if snapshot else 0, sum(file.stat().st_size for file in files))
    return Machine(kernel.ref, guest.qemu_version, accel.prove(kernel).name, sizes)


# What is not on this machine, in words.
class _Missing(Exception):
    pass


def _taker(name: str, kernel: Kernel) -> Callable[[], tuple[float, float]]:
    ours = (sys.executable, "-m", "kernloop")
    match name:
        case "cold":
            return lambda: _process(*ours, "run", "--cold", "--", "true")
        case "restore":
            return _restore
        case "exec":
            return _exec
        case "run":
            return lambda: _process(*ours, "run", "--", "true")
        case "seed":
            return lambda: _process(*ours, "run", "--seed", "1", "--", "true")
        case "verify":
            return lambda: _process(*ours, "verify", str(_example()))
    return lambda: _vng(kernel)


def _process(*words: str, env: dict[str, str] | None = None) -> tuple[float, float]:
    return timed(lambda: process.run(words, seconds=_SECONDS, what=" ".join(words[1:]), env=env))


def _restore() -> tuple[float, float]:
    before, began = children() + time.process_time(), time.monotonic()
    vm = client.start(VmRequest(), bound=True)
    _run_true(vm)
    wall = time.monotonic() - began
    _stop(vm)
    return wall, children() + time.process_time() - before


def _exec() -> tuple[float, float]:
    vm = client.start(VmRequest(), bound=True)
    try:
        _run_true(vm)  # the first pays for what the guest has to read
        facts = vm.info().facts
        before, walls = _of(facts["supervisor"]) + _of(facts["pid"]) + time.process_time(), []
        for _ in range(_EXECS):
            began = time.monotonic()
            _run_true(vm)
            walls.append(time.monotonic() - began)
        cpu = _of(facts["supervisor"]) + _of(facts["pid"]) + time.process_time() - before
    finally:
        _stop(vm)
    return statistics.median(walls), cpu / _EXECS


def _run_true(vm: client.VM) -> None:
    done = vm.exec(["true"])
    if done.status != 0:
        raise HarnessError(f"true failed in a VM: {done.summary}", hint=done.next, evidence=vm.run)


# virtme-ng as its users call it, with our QEMU, the accelerator that works here, and a guest as large as ours.
def _vng(kernel: Kernel) -> tuple[float, float]:
    fetched = map(str, cache_dir().glob("bundles/virtiofsd-*"))
    path = ":".join([str(Path(sys.executable).parent), *fetched, os.environ.get("PATH", "")])
    vng = shutil.which("vng", path=path)
    if vng is None:
        raise _Missing("vng is not installed: pip install virtme-ng")
    # Without it virtme-ng takes 9p, which Debian's cloud kernels do not have.
    if not shutil.which("virtiofsd", path=f"{path}:/usr/libexec:/usr/lib/virtiofsd"):
        raise _Missing("virtme-ng needs virtiofsd (the one in Rust), which is not installed")
    if not (Path("/usr/lib/systemd/systemd-udevd").exists() or shutil.which("udevd", path=path)):
        raise _Missing("virtme-ng's init needs udevd (Debian's package udev), which is not installed")
    slow = accel.prove(kernel).name == "tcg"
    try:
        return _process(
            *(vng, "-r", str(kernel.image), "--qemu", str(toolset.get().qemu), "--cpus", "2", "--memory", "512M"),
            *(("--disable-kvm", "--qemu-opts=-accel tcg,thread=single") if slow else ()),
            *("--", "true"),
            env={"PATH": path},
        )
    except HarnessError as error:
        raise _Missing(f"vng fails here: {error.message}") from None


# In a checkout, or where the wheel has put it.
def _example() -> Path:
    here = Path(__file__).resolve()
    places = [here.parents[3] / "examples", here.parents[1] / "data/examples"]
    return next(place for place in places if place.exists()) / "schedulers/fifo.bpf.c"


# CPU seconds of a process that runs, and of its children that have ended.
def _of(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:15]) / os.sysconf("SC_CLK_TCK")


# Its supervisor is waited for, so that its CPU time is counted here and not with what is measured next.
def _stop(vm: client.VM) -> None:
    supervisor = Path(f"/proc/{vm.info().facts['supervisor']}")
    vm.stop()
    deadline = time.monotonic() + _REAPED_SECONDS
    while supervisor.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
