# SPDX-License-Identifier: Apache-2.0
"""Rules about the ops table and about which op calls what."""

from __future__ import annotations

from kernloop.sched.check import calls
from kernloop.sched.check.kfuncs import callers
from kernloop.sched.check.report import Report
from kernloop.sched.check.scene import Scene
from kernloop.sched.check.symbols import Sym, Value, bits, parts
from kernloop.sched.check.trace import Event
from kernloop.sched.obj.model import Program

__all__ = ["enq_last", "idle_kfuncs", "kick_flags", "timeout", "wrong_context"]

_KEEP_BUILTIN_IDLE, _ENQ_LAST = 1, 2

# Until 6.15 scx_bpf_select_cpu_dfl() was for select_cpu alone (scx_kfunc_ids_select_cpu of kernel/sched/ext.c).
_DFL_FROM_ENQUEUE = (6, 16)


def wrong_context(scene: Scene, report: Report) -> None:
    """kfuncs that the op must not call."""
    for trace in scene.traces.values():
        if trace.op == "callback":
            continue
        program = scene.program(trace.entry)
        for event in trace.events:
            call = event.insn.call
            if call is None or call.kind != "kfunc":
                continue
            allowed = callers(call.name)
            if event.kind == "select_cpu_dfl" and scene.release is not None and scene.release < _DFL_FROM_ENQUEUE:
                allowed = frozenset(["select_cpu"])
            if allowed is None or trace.op in allowed or (not trace.op and _free(program, event.kind)):
                continue
            where = f"ops.{trace.op}()" if trace.op else f"a program of section {program.section}"
            report.at(
                "wrong-context",
                "must",
                event,
                f"{event.name}() must not be called from {where}; it may from {_list(allowed)}",
            )


# SYSCALL programs may create and move; struct_ops programs that no table names are not loaded.
def _free(program: Program, kind: str) -> bool:
    if program.section.startswith("struct_ops"):
        return True
    return program.section.startswith("syscall") and kind in (
        "create",
        "move",
        "move_vtime",
        "select_cpu_dfl",
        "select_cpu_and",
    )


def _list(ops: frozenset[str]) -> str:
    unlocked = callers("scx_bpf_create_dsq") or frozenset()
    if ops >= unlocked:
        return ", ".join([*sorted(_known(ops - unlocked)), "ops that may sleep (init, init_task, cgroup_init ...)"])
    return ", ".join(sorted(_known(ops)))


# Those of every kernel: not of the cid form, not of schedulers in schedulers.
def _known(ops: frozenset[str]) -> list[str]:
    return [op for op in ops if op not in ("select_cid", "sub_ecaps_updated")]


def idle_kfuncs(scene: Scene, report: Report) -> None:
    """Built-in idle tracking is off, and a kfunc that needs it is called."""
    for table in scene.tables:
        if "update_idle" not in table.members or _flags(table.scalars) & _KEEP_BUILTIN_IDLE:
            continue
        for entry in set(table.members.values()):
            trace = scene.traces.get(entry)
            for event in trace.events if trace is not None else ():
                if event.name in calls.IDLE:
                    report.at(
                        "idle-kfunc-off",
                        "must",
                        event,
                        f"ops.update_idle() without SCX_OPS_KEEP_BUILTIN_IDLE turns the kernel's idle tracking off, "
                        f"which {event.name}() needs",
                        ((scene.places.table(table, "flags"), "the ops"),),
                    )


def enq_last(scene: Scene, report: Report) -> None:
    """SCX_OPS_ENQ_LAST asks for more than is done."""
    for table in scene.tables:
        if not _flags(table.scalars) & _ENQ_LAST:
            continue
        entry = table.members.get("enqueue")
        if entry is None:
            report.on("enq-last-no-enqueue", "must", table.name, scene.places.table(table, "SCX_OPS_ENQ_LAST"))
            continue
        trace = scene.traces.get(entry)
        if trace is None or scene.walker.callbacks:
            continue
        kicks = [*trace.of("kick"), *(event for idle in scene.of_op("update_idle") for event in idle.of("kick"))]
        if any(_last(event) is not False for event in kicks):
            continue
        inserts = trace.of("insert", "insert_vtime")
        if any(_last(event) and _is_local(event.args[1]) for event in inserts):
            continue
        for event in inserts:
            if not _local(event.args[1]) and _last(event) is not False:
                report.at("enq-last-no-kick", "may", event)


# Whether a way is that of the last task of a CPU; None: it has not asked.
def _last(event: Event) -> bool | None:
    for sym, (low, high, nonzero) in event.facts.items():
        if _asks_last(sym):
            return True if nonzero else False if low == high == 0 else None
    return None


def _is_local(value: Value | None) -> bool:
    return _local(value) or (value is not None and bits(value) >> 62 == 3)


def _asks_last(sym: Sym) -> bool:
    return any(
        one.kind == "op" and one.a == "and" and isinstance(one.c, int) and one.c & calls.CONSTANTS["SCX_ENQ_LAST"]
        for one in parts(sym)
    )


def _local(value: object) -> bool:
    return value == calls.CONSTANTS["SCX_DSQ_LOCAL"]


def _flags(scalars: dict[str, int | str]) -> int:
    flags = scalars.get("flags", 0)
    return flags if isinstance(flags, int) else 0


def timeout(scene: Scene, report: Report) -> None:
    """No timeout_ms: a stall takes 30 s to be noticed; one above 30 s does not load."""
    for table in scene.tables:
        value = table.scalars.get("timeout_ms", 0)
        if value == 0:
            report.on("timeout-unset", "may", table.name, scene.places.table(table))
        elif isinstance(value, int) and value > 30000:
            report.on(
                "timeout-too-long",
                "must",
                table.name,
                scene.places.table(table, "timeout_ms"),
                f"timeout_ms is {value}; the kernel takes 30000 at most",
            )


def kick_flags(scene: Scene, report: Report) -> None:
    """SCX_KICK_IDLE with SCX_KICK_PREEMPT or SCX_KICK_WAIT."""
    for event in scene.events("kick"):
        flags = event.args[1] if len(event.args) > 1 else None
        if isinstance(flags, int) and flags & 1 and flags & 6:
            report.at("kick-flags", "must", event)
