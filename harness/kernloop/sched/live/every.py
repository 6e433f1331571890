# SPDX-License-Identifier: Apache-2.0
"""All tasks of sched_ext, with where each of them is."""

from __future__ import annotations

from dataclasses import dataclass

from drgn import FaultError, Object, Program

from kernloop.debug.helpers.tasks import Who, every_task, who
from kernloop.debug.stacks import cpu_of, on_cpu
from kernloop.sched.live.tasks import Reader

__all__ = ["Placed", "every"]


@dataclass(frozen=True)
class Placed:
    """`where` is "cpu 1" (it runs there), "dsq 0x1", "scheduler" (BPF has it, on no DSQ), "core" (on its way) or
    "asleep"; `waiting` the seconds since it became runnable, None when it runs or sleeps."""

    who: Who
    where: str
    waiting: float | None
    cpu: int
    weight: int
    slice: int
    vtime: int
    cpus: str


def every(prog: Program) -> tuple[Placed, ...]:
    """Raises LookupError for a kernel without sched_ext."""
    reader = Reader(prog, 0)
    ext = prog.symbol("ext_sched_class").address
    found = []
    for task in every_task(prog):
        try:
            if task.sched_class.value_() == ext:
                found.append(_placed(reader, task))
        except FaultError:
            continue
    return tuple(found)


def _placed(reader: Reader, task: Object) -> Placed:
    seen = reader.task(task)
    if on_cpu(task):
        where = f"cpu {cpu_of(task)}"
    elif not task.on_rq.value_():
        where = "asleep"
    else:
        where = f"dsq {seen.dsq}" if seen.dsq else seen.held
    waiting = None if where == "asleep" or on_cpu(task) else seen.waiting
    return Placed(who(task), where, waiting, seen.cpu, seen.weight, seen.slice, seen.vtime, seen.cpus)
