# SPDX-License-Identifier: Apache-2.0
"""The questions to GDB at QEMU's stub (kernloop.debug.gdb). A guest that runs is not stopped for them: it is told."""

from __future__ import annotations

from typing import Any

from kernloop.debug.gdb import client
from kernloop.debug.gdb.client import Answer, Gdb
from kernloop.debug.questions.told import By, Of, Told
from kernloop.debug.questions.values import pruned, rows
from kernloop.errors import HarnessError, UsageError
from kernloop.vm.client import VM

__all__ = ["backtrace", "local_variables", "place", "read", "session"]

_DEEP = 64
_OF_EACH = 12


def session(vm: VM) -> Gdb:
    """The one at `vm`. Raises UsageError when there is none that lives."""
    found = client.find(vm)
    if found is None:
        raise UsageError(f"gdb is not at {vm.name}", hint=f"kernloop debug gdb {vm.name} interrupt")
    return found


def backtrace(vm: VM, of: Of) -> Told:
    gdb = session(vm)
    if of.every:
        found = _there(gdb.ask("cpus", limit=_OF_EACH))
        stacks = tuple(
            {"of": f"cpu {one['cpu']}", "frames": [place(frame) for frame in one["frames"]]}
            for one in found.found["cpus"]
        )
        return Told(By.GDB, True, "stacks", stacks)
    found = _there(gdb.ask("backtrace", limit=_DEEP, **_cpu(of)))
    frames = tuple(place(frame) for frame in found.found["frames"])
    return Told(By.GDB, True, "frames", frames, {"of": f"cpu {found.found['cpu']}"})


def read(vm: VM, what: str, of: Of, frame: int, depth: int, size: int) -> Told:
    gdb = session(vm)
    if size:
        found = _there(gdb.ask("memory", address=what, size=size))
        pieces = tuple(f"{one['address']}: {one['bytes']}" for one in found.found["pieces"])
        return Told(By.GDB, True, "bytes", pieces)
    found = _there(gdb.ask("evaluate", expression=what, frame=frame, **_cpu(of)))
    return Told(By.GDB, True, "value", tuple(rows(pruned(found.found["value"], depth + 1))))


def local_variables(vm: VM, of: Of, frame: int) -> Told:
    found = _there(session(vm).ask("locals", frame=frame, **_cpu(of)))
    variables = tuple(f"{one['name']} = {pruned(one['value'], 1)}" for one in found.found["variables"])
    where = found.found["frame"]
    return Told(By.GDB, True, "locals", variables, {"in": place(where) if where else ""})


def place(frame: dict[str, Any]) -> str:
    """A call in one line."""
    args = ", ".join(f"{name}={value}" for name, value in frame.get("args") or ())
    where = f"{frame['file']}:{frame['line']}" if frame["file"] else frame["address"]
    return f"#{frame['level']} {frame['function'] or '?'}({args}) {where}"


def _cpu(of: Of) -> dict[str, int]:
    if of.pid is not None:
        raise UsageError("GDB's threads are CPUs: it knows no pids", hint="by='drgn' has the calls of every task")
    return {} if of.cpu is None else {"cpu": of.cpu}


# A session that is over answers with its state only.
def _there(answer: Answer) -> Answer:
    if answer.session.state.over:
        raise HarnessError(f"the session is {answer.session.state}: {answer.session.why}", hint="kernloop vm list")
    return answer
