# SPDX-License-Identifier: Apache-2.0
"""What `vm start` takes, and which VMs there are: names, and the limits of this machine."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kernloop import runs
from kernloop.errors import HarnessError, UsageError
from kernloop.host.cache import exclusive
from kernloop.host.paths import runs_dir
from kernloop.kernel import refs
from kernloop.vm.argv import DEFAULT_SHIFT
from kernloop.vm.topology import Topology, of_json

__all__ = ["IDLE_SECONDS", "VERB", "VmRequest", "check_name", "live", "reserved"]

VERB = "vm"
IDLE_SECONDS = 1800.0
_MOST_VMS = 16


@dataclass(frozen=True)
class VmRequest:
    """A VM to start; `memory` in MiB, `idle` seconds without a client or a command until it stops.

    With `seed` it runs in virtual time. `tag` is a saved VM to start from, whose machine it gets.
    `folder` is the directory that a vng guest shares, for it to write to if `writable`. `owner` is the pid of the
    process that starts it when it must end with that process, which kernloop.vm.client fills in. With `kgdb` it has a
    serial port for the kernel's debugger, where a kernel that is told kgdbwait `waits` as it boots. With `dump` a crash
    or a hang leaves a vmcore.
    """

    name: str = ""
    backend: str = "micro"
    kernel: str = refs.DEFAULT
    topology: Topology = field(default_factory=Topology)
    memory: int = 512
    append: tuple[str, ...] = ()
    seed: int | None = None
    shift: int = DEFAULT_SHIFT
    cold: bool = False
    idle: float = IDLE_SECONDS
    tag: str = ""
    folder: str = ""
    writable: bool = False
    owner: int | None = None
    kgdb: bool = False
    dump: bool = False

    @property
    def waits(self) -> bool:
        return self.kgdb and "kgdbwait" in self.append

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of_json(cls, value: dict[str, Any]) -> VmRequest:
        """What `as_json` gave, after a trip through JSON."""
        return cls(**{**value, "topology": of_json(value["topology"]), "append": tuple(value["append"])})


def check_name(name: str, what: str) -> None:
    """Raise UsageError unless `name` can be a word on a command line and a file's name."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", name):
        raise UsageError(f"{name!r} cannot name a {what}", hint="letters, digits, dot, dash and underscore")


def live() -> list[tuple[Path, dict[str, Any]]]:
    """The run directories of VMs whose supervisor lives, newest first, with their specs."""
    folder = runs_dir()
    paths = sorted((path for path in folder.glob(f"*-{VERB}-*")), reverse=True) if folder.exists() else []
    found = [(path, runs.read_json(path / "spec.json")) for path in paths if runs.is_live(path)]
    return [(path, spec) for path, spec in found if spec]  # without, it is about to be


@contextlib.contextmanager
def reserved(request: VmRequest) -> Iterator[str]:
    """Hold the registry while a run is made for `request`; gives the VM's name.

    Raises UsageError for a name that is taken, HarnessError when this machine has enough VMs or too little memory.
    """
    if request.name:
        check_name(request.name, "VM")
    if not request.idle > 0:
        raise UsageError(f"an idle time of {request.idle:g} s leaves no time", hint="give seconds")
    with exclusive("vms", what="starting a VM", seconds=60):
        running = live()
        names = {str(spec.get("subject")) for _, spec in running}
        if request.name in names:
            raise UsageError(
                f"a VM called {request.name} is running already",
                hint=f"use it: kernloop vm exec {request.name} -- CMD; or kernloop vm stop {request.name}",
            )
        most = _limit("KERNLOOP_MAX_VMS", _MOST_VMS)
        if len(running) >= most:
            raise HarnessError(
                f"{len(running)} VMs run already, the limit is {most}",
                hint="kernloop vm list; kernloop vm stop NAME; or set KERNLOOP_MAX_VMS",
            )
        taken = sum(int(spec.get("memory", 0)) for _, spec in running)
        room = _limit("KERNLOOP_VM_MEMORY", _total_mebibytes() * 3 // 4)
        if taken + request.memory > room:
            raise HarnessError(
                f"{request.memory} MiB for this VM and {taken} MiB for those that run are more than {room} MiB",
                hint="kernloop vm stop one, give it less --memory, or set KERNLOOP_VM_MEMORY (MiB)",
            )
        yield request.name or _made_up(names)


def _made_up(taken: set[str]) -> str:
    return next(name for name in iter(lambda: f"vm-{secrets.token_hex(2)}", "") if name not in taken)


def _limit(variable: str, default: int) -> int:
    text = os.environ.get(variable, "")
    if text and not text.isdecimal():
        raise UsageError(f"{variable}={text!r} is no number", hint=f"unset it for the default, {default}")
    return int(text or default)


def _total_mebibytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
