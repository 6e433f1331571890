# SPDX-License-Identifier: Apache-2.0
"""The questions to KGDB (kernloop.debug.kgdb). What it takes tens of packets over a serial port for, drgn reads at once
from the same memory, which stands still."""

from __future__ import annotations

import re

from kernloop.debug import kgdb
from kernloop.debug.kgdb import Frame, Thread
from kernloop.debug.questions.told import By, Of, Told, tree_of
from kernloop.debug.questions.values import pruned, rows
from kernloop.errors import UsageError
from kernloop.vm.client import VM

__all__ = ["address", "backtrace", "called", "local_variables", "place", "read", "tasks"]

_DEEP = 64
_OF_EACH = 12


def backtrace(vm: VM, of: Of) -> Told:
    tree = tree_of(vm.run)
    if of.every:
        stacks = tuple(
            {"of": called(one), "frames": [place(frame, tree) for frame in one.frames]}
            for one in kgdb.backtrace(vm, "cpus", limit=_OF_EACH)
        )
        return Told(By.KGDB, True, "stacks", stacks)
    [one] = kgdb.backtrace(vm, _thread(vm, of), limit=_DEEP)
    frames = tuple(place(frame, tree) for frame in one.frames)
    return Told(By.KGDB, True, "frames", frames, {"of": called(one)})


def read(vm: VM, what: str, of: Of, frame: int, depth: int) -> Told:
    value = kgdb.evaluate(vm, what, frame=frame, thread=_thread(vm, of), depth=depth + 2)
    text = f"<{value.why}>" if value.value is None else value.value
    cut = f"the first {len(text)} of {value.cut} characters" if value.cut else ""
    return Told(By.KGDB, True, "value", tuple(rows(pruned(text, depth + 1))), {"type": value.type, "read": cut})


def address(vm: VM, what: str, of: Of, frame: int) -> int:
    """The value of `what` as an address. Raises UsageError."""
    value = kgdb.evaluate(vm, f"(unsigned long)({what})", frame=frame, thread=_thread(vm, of)).value or ""
    if not (number := re.match(r"\d+", value)):
        raise UsageError(f"{what} is no address: {value}", hint="an expression of C: &init_task, p->scx.dsq")
    return int(number[0])


def local_variables(vm: VM, of: Of, frame: int) -> Told:
    found = kgdb.local_variables(vm, frame=frame, thread=_thread(vm, of))
    variables = (f"{one.name} = {f'<{one.why}>' if one.value is None else pruned(one.value, 1)}" for one in found)
    return Told(By.KGDB, True, "locals", tuple(variables))


def tasks(vm: VM, like: str) -> Told:
    tree = tree_of(vm.run)
    listed = (
        f"{called(one)}" + "".join(f" in {place(frame, tree).partition(' ')[2]}" for frame in one.frames[:1])
        for one in kgdb.threads(vm)
    )
    return Told(By.KGDB, True, "tasks", tuple(row for row in listed if re.search(like, row)))


def called(one: Thread) -> str:
    return f"cpu {one.cpu}" if one.cpu is not None else f"{one.pid} {one.name}"


def place(frame: Frame, tree: str) -> str:
    """A call in one line; files of the `tree` by their names in it."""
    where = f"{(frame.file or '').removeprefix(tree)}:{frame.line}" if frame.file else frame.pc
    return f"#{frame.level} {frame.function or '?'} {where}" + " inlined" * frame.inlined


# GDB's number of it; "" is what stopped.
def _thread(vm: VM, of: Of) -> str:
    if of.cpu is None and of.pid is None:
        return ""
    found = next((one for one in kgdb.threads(vm) if (one.cpu, one.pid) == (of.cpu, of.pid)), None)
    if found is None:
        raise UsageError(f"KGDB knows no {'task' if of.pid is not None else 'CPU'} {of.pid or of.cpu}", hint="tasks")
    return str(found.thread)
