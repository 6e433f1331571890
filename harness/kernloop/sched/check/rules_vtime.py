# SPDX-License-Identifier: Apache-2.0
"""Rules about virtual time: the lag of who slept, and which way the weight counts."""

from __future__ import annotations

from kernloop.sched.check.dsq import dsqs
from kernloop.sched.check.report import Report
from kernloop.sched.check.scene import Scene
from kernloop.sched.check.symbols import Sym, Value, parts
from kernloop.sched.check.trace import Event

__all__ = ["unclamped", "weight_reversed"]

_VTIME = "task_struct.scx.dsq_vtime"
_STORAGE = "bpf_task_storage_get"
_WEIGHT = "task_struct.scx.weight"
# Where the time of a task that slept can be brought forward before it is queued.
_BEFORE = ("enqueue", "select_cpu", "select_cid", "runnable", "quiescent")


def unclamped(scene: Scene, report: Report) -> None:
    """A task is sorted by its own virtual time as it was when it fell asleep."""
    for trace in scene.of_op("enqueue", "select_cpu"):
        for event in trace.of("insert_vtime"):
            vtime = event.args[3]
            own = any(one.kind in ("own", "unknown") for one in dsqs(event.args[1], event.facts))
            if own and isinstance(vtime, Sym) and _kept(vtime) and not _settled(scene, vtime):
                report.at("vtime-unclamped", "may", event)


# A time that stays with the task: p->scx.dsq_vtime, or a number in its storage that stopping adds to.
def _kept(value: Sym) -> bool:
    if value.kind == "fld":
        return str(value.b) == _VTIME
    return value.kind == "ld" and isinstance(value.a, Sym) and value.a.kind == "call" and value.a.a == _STORAGE


# Somebody compares it on the task's way to the queue, or sets it anew when the task wakes up; or it is no clock.
def _settled(scene: Scene, vtime: Sym) -> bool:
    for trace in scene.of_op(*_BEFORE):
        if any(_alike(part, vtime) for sym in trace.compared for part in parts(sym)):
            return True
        if any(_stores(event, vtime) for event in trace.events):
            return True
    return vtime.kind == "ld" and not any(
        _stores(event, vtime) and isinstance(event.args[1], Sym) and event.args[1].kind == "op"
        for trace in scene.of_op("stopping")
        for event in trace.events
    )


def _alike(one: Sym, other: Sym) -> bool:
    if one.kind != other.kind or one.b != other.b:
        return False
    return one.kind == "fld" or (isinstance(one.a, Sym) and one.a.kind == "call" and one.a.a == _STORAGE)


def _stores(event: Event, vtime: Sym) -> bool:
    if vtime.kind == "fld":
        return _stores_vtime(event)
    base = event.args[0] if event.kind == "store" else None
    return isinstance(base, Sym) and base.kind == "call" and base.a == _STORAGE and event.insn.off == vtime.b


def _stores_vtime(event: Event) -> bool:
    return event.kind == "set_vtime" or (event.kind == "store" and event.name == _VTIME)


def weight_reversed(scene: Scene, report: Report) -> None:
    """vtime grows faster for heavier tasks."""
    clocks = {
        event.args[3]
        for event in scene.events("insert_vtime")
        if isinstance(event.args[3], Sym) and event.args[3].kind == "ld" and _kept(event.args[3])
    }
    for trace in scene.of_op("stopping", "tick", "quiescent", "running", "enqueue", "dequeue"):
        for event in trace.events:
            ours = _stores_vtime(event) or any(_stores(event, clock) for clock in clocks)
            if not ours or len(event.args) < 2:
                continue
            if _multiplied(event.args[1]):
                report.at("weight-reversed", "may", event)


# Whether the weight is a factor of what is added to the virtual time.
def _multiplied(value: Value | None) -> bool:
    if not isinstance(value, Sym) or value.kind != "op":
        return False
    if value.a in ("add", "div", "rsh"):
        return _multiplied(value.b) or (value.a == "add" and _multiplied(value.c))
    if value.a == "mul":
        return any(isinstance(one, Sym) and one.kind == "fld" and one.b == _WEIGHT for one in (value.b, value.c))
    return False
