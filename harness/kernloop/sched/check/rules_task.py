# SPDX-License-Identifier: Apache-2.0
"""Rules about the one task that select_cpu and enqueue are given: lost, inserted twice, sent to a wrong CPU."""

from __future__ import annotations

from kernloop.sched.check import calls
from kernloop.sched.check.finding import Level
from kernloop.sched.check.report import Report
from kernloop.sched.check.scene import Scene
from kernloop.sched.check.symbols import BIG, Sym, Value, parts, range_of, signed
from kernloop.sched.check.trace import Event, Trace
from kernloop.sched.check.ways import fork_of_loss, holds_insert

__all__ = ["double_insert", "invalid_cpu", "lost_task", "wrong_task"]

_INSERTS = ("insert", "insert_vtime")


def lost_task(scene: Scene, report: Report) -> None:
    """Ways through enqueue that put the task nowhere."""
    for trace in scene.of_op("enqueue"):
        exits = trace.of("exit")
        bare = [one for one in exits if not one.prop.inserts and not one.prop.handed]
        for one in bare:
            if one.prop.pushed is not None:
                _unchecked(report, trace, one.prop.pushed)
        lost = [
            one for one in bare if one.prop.pushed is None and not one.prop.soft and not _known_elsewhere(scene, one)
        ]
        if lost and not holds_insert(scene, trace):
            if trace.complete or not trace.events:
                report.of(
                    "lost-task",
                    "must",
                    scene.program(trace.entry),
                    "nothing in this op inserts the task or stores it for later",
                )
            continue
        for one in lost:
            if one.joined or scene.tuned(one):
                _undecided_loss(scene, report, trace)
            else:
                report.on("lost-task", "must", trace.entry, fork_of_loss(scene, one))
        if not trace.complete:
            _undecided_loss(scene, report, trace)
    for trace in scene.of_op("dispatch"):
        _lost_in_dispatch(scene, report, trace)


def _undecided_loss(scene: Scene, report: Report, trace: Trace) -> None:
    report.of("lost-task", "unknown", scene.program(trace.entry), "too many ways through it to see each one")


# It set a flag that others look at, or it is the one task whose id others know: they find it without a queue.
def _known_elsewhere(scene: Scene, event: Event) -> bool:
    ids = [
        part
        for sym, known in event.facts.items()
        if sym.kind == "op" and sym.a == "eq" and known[2] and any(_is_pid(one) for one in parts(sym))
        for part in parts(sym)
        if part.kind in ("ro", "ld")
    ]
    for trace in scene.traces.values():
        if trace.op == "enqueue":
            continue
        if any(one.args[0] in ids for one in trace.of("bpf_task_from_pid")):
            return True
        if any(
            (sym.a, sym.b) in event.prop.flagged for one in trace.compared for sym in parts(one) if sym.kind == "ld"
        ):
            return True
        if any(place in event.prop.flagged for place in trace.atomics):
            return True
    return False


def _is_pid(sym: Sym) -> bool:
    return sym.kind == "fld" and sym.b in ("task_struct.pid", "task_struct.tgid")


# A push whose result nobody looked at.
def _unchecked(report: Report, trace: Trace, pushed: Sym) -> None:
    for event in trace.of("push"):
        if event.result is pushed:
            report.at(
                "unchecked-push",
                "may",
                event,
            )
            return


# What was popped from the scheduler's own queue is put nowhere.
def _lost_in_dispatch(scene: Scene, report: Report, trace: Trace) -> None:
    for event in trace.of("exit", "pop"):
        popped = event.prop.popped
        if popped is None:
            continue
        for pop in trace.of("bpf_task_from_pid"):
            if pop.result is popped:
                report.at("popped-task-lost", "may", pop)
                break


def double_insert(scene: Scene, report: Report) -> None:
    """Ways that insert the task twice."""
    for trace in scene.of_op("enqueue", "select_cpu", "select_cid"):
        inserts = trace.of(*_INSERTS)
        for event in inserts:
            if not event.prop.inserts or not _own_task(event):
                continue
            first = event.prop.inserts[-1]
            earlier = next((one for one in inserts if one.site == first), None)
            if event.joined:
                continue
            level: Level = "must" if _always_twice(trace, first, event.site) else "may"
            if first == event.site:
                report.at("double-insert", level, event, "a loop comes here again with the same task")
            elif earlier is not None:
                report.at("double-insert", level, event, "", ((earlier, "the first insert of the same task"),))


# Whether who comes to the one has been, or will be, at the other, in all ways that there are.
def _always_twice(trace: Trace, first: int, second: int) -> bool:
    at_second = [event for event in trace.events if event.site == second]
    if all(event.prop.inserts for event in at_second):
        return True
    ends = [event.prop.inserts for event in trace.of("exit") if event.prop.inserts[:1] == (first,)]
    return bool(ends) and all(len(inserts) > 1 for inserts in ends)


def _own_task(event: Event) -> bool:
    task = event.args[0]
    return not (isinstance(task, Sym) and task.kind == "arg" and task.a != 0)


def wrong_task(scene: Scene, report: Report) -> None:
    """Another task than the one given is inserted from enqueue or select_cpu."""
    for trace in scene.of_op("enqueue", "select_cpu"):
        for event in trace.of(*_INSERTS):
            task = event.args[0]
            if (
                isinstance(task, Sym)
                and task.kind == "call"
                and task.a in ("bpf_task_from_pid", "bpf_get_current_task_btf")
            ):
                report.at("wrong-task", "may", event)


def invalid_cpu(scene: Scene, report: Report) -> None:
    """What select_cpu returns is no CPU."""
    for trace in scene.of_op("select_cpu", "select_cid"):
        for event in trace.of("exit"):
            whole = event.args[0]
            if event.joined or scene.tuned(event):
                continue
            for value in _alternatives(whole):
                low, high = range_of(whole, event.facts) if isinstance(whole, Sym) else BIG
                if isinstance(value, int) and not low <= signed(value, False) <= high:
                    continue
                _returned(scene, report, trace, event, value)


def _alternatives(value: Value | None) -> list[Value]:
    if isinstance(value, Sym):
        if value.kind == "phi" and value.c:
            return list(value.c)
        if value.kind == "set":
            return sorted(value.a)
    return [] if value is None else [value]


def _returned(scene: Scene, report: Report, trace: Trace, event: Event, value: Value) -> None:
    place = scene.places.returned(event)
    if isinstance(value, int):
        number = signed(value, False)
        if number < 0 or number >= 8192:
            report.on("invalid-cpu", "must", trace.entry, place, f"returns {number}, which is no CPU")
        return
    direct = event.args[0] is value
    low, _ = range_of(value, event.facts if direct else {})
    source = value
    if source.kind == "call" and source.a in calls.NEGATIVE and low < 0 and direct:
        made = next((one for one in scene.events(calls.ROLE.get(source.a, source.a)) if one.result is source), None)
        why = f"{source.a}() gives -EBUSY when no CPU is idle, and this way returns that"
        related = ((scene.places.of(made), "where the number is from"),) if made is not None else ()
        report.on("invalid-cpu", "must", trace.entry, place, why, related)
    elif source.kind == "call" and source.a == "scx_bpf_nr_cpu_ids":
        report.on("invalid-cpu", "must", trace.entry, place, "returns the number of CPUs: the highest CPU is one less")
