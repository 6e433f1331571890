# SPDX-License-Identifier: Apache-2.0
"""Rules about sending a task to the local DSQ of a CPU: may it run there, can it be moved at all."""

from __future__ import annotations

from kernloop.sched.check import calls
from kernloop.sched.check.report import Report
from kernloop.sched.check.scene import Scene, Use
from kernloop.sched.check.symbols import Sym, Value, parts, signed
from kernloop.sched.check.trace import Event

__all__ = ["affinity", "migration"]

_FILL = ("insert", "insert_vtime", "move", "move_vtime")
_REMEMBERED = ("bpf_task_storage_get", "bpf_map_lookup_elem", "bpf_map_lookup_percpu_elem")
_PINNED = ("task_struct.migration_disabled", "task_struct.nr_cpus_allowed")


def affinity(scene: Scene, report: Report) -> None:
    """LOCAL_ON to a CPU that nobody has compared with the task's cpumask."""
    for use in scene.uses(*_FILL):
        if use.dsq.kind != "local_on" or use.dsq.cpu is None:
            continue
        verdict = _allowed(use.event, use.dsq.cpu)
        if verdict == "no" and not use.sure:
            verdict = "unknown"
        if verdict == "no":
            report.at("affinity", "may", use.event)
        elif verdict == "unknown":
            report.at(
                "affinity",
                "unknown",
                use.event,
                "where the number of the CPU is from, and whether it was tested there, cannot be told",
            )
    for trace in scene.of_op("dispatch"):
        for event in trace.of("insert"):
            _local_in_dispatch(report, event)


# Popped from a queue of all CPUs and sent to the local DSQ of this one.
def _local_in_dispatch(report: Report, event: Event) -> None:
    task = event.args[0]
    if event.args[1] != calls.CONSTANTS["SCX_DSQ_LOCAL"] or not isinstance(task, Sym) or task.kind == "arg":
        return
    if task.kind == "call" and task.a == "bpf_task_from_pid" and not _any_test(event):
        report.at("affinity", "may", event, "any task of the queue comes to this CPU, allowed or not")


def _allowed(event: Event, cpu: Value) -> str:
    for sym, known in event.facts.items():
        if sym.kind == "call" and sym.a in calls.MASK_TESTS and known[2] and (cpu in sym.c or _same(cpu, sym.c[0])):
            return "yes"
        if sym.kind == "op" and sym.a == "eq" and known[2] and cpu in (sym.b, sym.c):
            other = sym.c if _same(cpu, sym.b) else sym.b
            if isinstance(other, Sym) and other.kind == "call" and other.a == "scx_bpf_task_cpu":
                return "yes"
        if sym.kind == "fld" and sym.b == "task_struct.nr_cpus_allowed" and (known[0] > 1 or known[0] == known[1]):
            return "unknown"
    if isinstance(cpu, Sym) and cpu.kind == "phi" and cpu.c:
        found = {_allowed(event, one) for one in cpu.c if not (isinstance(one, int) and signed(one, False) < 0)}
        return "no" if "no" in found else "unknown" if "unknown" in found else "yes"
    if isinstance(cpu, int):
        return "no"
    if cpu.kind == "call":
        if cpu.a in calls.CPU_IN_MASK:
            mask = cpu.c[calls.CPU_IN_MASK[cpu.a]] if cpu.c else None
            if isinstance(mask, Sym) and mask.kind == "fld" and mask.b == "task_struct.cpus_ptr":
                return "yes"
            known_other = isinstance(mask, Sym) and mask.kind == "call" and mask.a.startswith("scx_bpf_get_")
            return "no" if known_other else "unknown"
        if cpu.a in (
            "scx_bpf_select_cpu_dfl",
            "scx_bpf_select_cpu_and",
            "__scx_bpf_select_cpu_and",
            "scx_bpf_task_cpu",
        ):
            return "yes"
        if cpu.a == "bpf_get_smp_processor_id":
            return "no"
        return "unknown"
    if cpu.kind == "arg":
        return "no" if event.op == "dispatch" else "yes" if event.op == "select_cpu" else "unknown"
    if cpu.kind in ("iter", "ro", "set"):
        return "no"
    # Remembered with the task, or in a map: nothing on this way has looked at the mask as it is now.
    if cpu.kind == "ld" and isinstance(cpu.a, Sym) and cpu.a.kind == "call" and cpu.a.a in _REMEMBERED:
        return "unknown" if _any_test(event) else "no"
    if cpu.kind == "op":
        return "no" if cpu.a in ("mod", "and", "add", "rsh", "sub", "xor") else "unknown"
    return "unknown"


def _same(one: Value, other: Value) -> bool:
    return one is other or one == other


def _any_test(event: Event) -> bool:
    return any(sym.kind == "call" and sym.a in calls.MASK_TESTS for sym in event.facts)


def migration(scene: Scene, report: Report) -> None:
    """LOCAL_ON to another CPU with no look at whether the task can be migrated."""
    if scene.asks_for(_PINNED[0]):
        return
    for use in scene.uses(*_FILL):
        if use.dsq.kind != "local_on" or not (use.event.op == "enqueue" or _popped(use.event)):
            continue
        if _searched(use) and not _looked(use.event):
            report.at("migration-disabled", "may", use.event)


# Its cpus_ptr need not say yet that it cannot be migrated (tools/sched_ext/scx_central.bpf.c, dispatch_to_cpu).
def _popped(event: Event) -> bool:
    task = event.args[0]
    return event.op == "dispatch" and isinstance(task, Sym) and task.kind == "call" and task.a == "bpf_task_from_pid"


# A CPU that was found for the task, which need not be its own.
def _searched(use: Use) -> bool:
    cpu = use.dsq.cpu
    if cpu is None or _allowed(use.event, cpu) != "yes":
        return False
    return not any(one.kind == "call" and one.a in ("scx_bpf_task_cpu", "scx_bpf_select_cpu_dfl") for one in parts(cpu))


def _looked(event: Event) -> bool:
    return any(part.kind == "fld" and part.b in _PINNED for sym in event.facts for part in parts(sym))
