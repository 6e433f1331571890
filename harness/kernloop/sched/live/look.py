# SPDX-License-Identifier: Apache-2.0
"""All of sched_ext in one look."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

from drgn import FaultError, Object, Program
from drgn.helpers.linux.percpu import per_cpu as per_cpu_variable

from kernloop.debug import bpf
from kernloop.debug.walk import Broken, copy, entries, hash_entries, per_cpu
from kernloop.sched.live import names
from kernloop.sched.live.model import Cpu, Exit, Queue, Scheduler, Seen
from kernloop.sched.live.tasks import Reader
from kernloop.sched.obj.btf import BtfError

__all__ = ["Look", "look"]

_STATES = ("scx_enable_state", "scx_ops_enable_state")
_KICKS = ("cpus_to_kick", "cpus_to_kick_if_idle", "cpus_to_preempt", "cpus_to_wait", "cpus_to_sync")
_MOST_SCHEDULERS = 256


def look(prog: Program, *, most_tasks: int = 32) -> Seen:
    """What sched_ext is at; of each queue as many tasks as asked for.

    Raises LookupError for a kernel without sched_ext.
    """
    return Look(prog, most_tasks).seen()


class Look:
    """One look; `maps` are those of the schedulers by id, once `seen` was called."""

    def __init__(self, prog: Program, most_tasks: int) -> None:
        prog.type("struct scx_dispatch_q")
        self.prog = prog
        self.reader = Reader(prog, most_tasks)
        self.bpf = bpf.Maps(prog, self.reader.possible_cpus)
        self.maps: dict[int, Object] = {}
        self._notes: list[str] = []

    def seen(self) -> Seen:
        prog, reader = self.prog, self.reader
        state = self._state()
        roots = list(self._roots()) if state != "disabled" else []
        schedulers = [self._scheduler(one) for one in roots]
        queues = [queue for one in roots for queue in self._queues(one)]
        runqueues = {cpu: per_cpu_variable(prog["runqueues"], cpu) for cpu in reader.possible_cpus}
        off = reader.off_queue([rq.scx.runnable_list for rq in runqueues.values()]) if roots else []
        off = [replace(task, own_queue=self._own_queue(task.pid)) if task.held == "scheduler" else task for task in off]
        online = set(reader.cpu_list(prog["__cpu_online_mask"]))
        root = roots[0] if roots else None
        cpus = [self._cpu(cpu, rq, root, cpu in online) for cpu, rq in runqueues.items()]
        return Seen(
            state,
            bool(self._number("scx_switching_all")),
            self._number("scx_enable_seq"),
            self._number("scx_nr_rejected"),
            self._ago("scx_watchdog_timestamp") if roots else None,
            tuple(schedulers),
            tuple(queues),
            tuple(off),
            tuple(cpus),
            tuple(self._notes),
        )

    def _variable(self, *spellings: str) -> Object | None:
        for name in spellings:
            with contextlib.suppress(LookupError):
                return self.prog[name]
        return None

    def _number(self, name: str) -> int:
        found = self._variable(name)
        if found is None:
            return 0
        return int((found.counter if _has(found, "counter") else found).value_())

    def _state(self) -> str:
        found = self._variable("scx_enable_state_var", "scx_ops_enable_state_var")
        if found is None:
            return "unknown"
        number = found.counter.value_()
        for enum in _STATES:
            name = names.enumerator(self.prog, enum, number)
            if not name.isdigit():
                return name.rpartition("_")[2].lower()
        return str(number)

    def _ago(self, name: str) -> float | None:
        found = self._variable(name)
        if found is None:
            return None
        return float(round((self.reader.jiffies - found.value_()) / self.reader.hz, 3))

    # struct scx_sched *, the root first; one made of the variables' address in kernels that have it in variables.
    def _roots(self) -> Iterator[Object]:
        root = self._variable("scx_root")
        if root is None:
            if (ops := self._variable("scx_ops")) is not None:
                yield ops
            return
        if not root:
            return
        yield root.read_()
        listed = self._variable("scx_sched_all")
        if listed is not None and _has(root[0], "all"):
            with contextlib.suppress(Broken):
                for one in entries(listed, "struct scx_sched", "all", _MOST_SCHEDULERS):
                    if one.value_() != root.value_():
                        yield one

    # A member of struct scx_sched, or the variable of the same name before that was.
    def _of(self, one: Object, member: str, *variables: str) -> Object | None:
        if one.type_.kind.name == "POINTER":
            return one.member_(member) if _has(one[0], member) else self._variable(*variables)
        return self._variable(*variables)

    def _ops(self, one: Object) -> Object:
        return one.ops if one.type_.kind.name == "POINTER" else one

    def _name(self, one: Object) -> str:
        return str(self._ops(one).name.string_().decode(errors="replace"))

    def _scheduler(self, one: Object) -> Scheduler:
        prog = self.prog
        ops = self._ops(one)
        timeout = self._of(one, "watchdog_timeout", "scx_watchdog_timeout")
        depth = self._of(one, "bypass_depth", "scx_ops_bypass_depth")
        slice_ = self._of(one, "slice_dfl")
        level = self._of(one, "level")
        path = self._of(one, "cgrp_path")
        programs, maps = self._programs(one)
        return Scheduler(
            self._name(one),
            level.value_() if level is not None else 0,
            path.string_().decode(errors="replace") if path is not None and path else "",
            names.bits(prog, "scx_ops_flags", ops.flags.value_(), "SCX_OPS_"),
            round(timeout.value_() / self.reader.hz, 3) if timeout is not None else 0.0,
            slice_.value_() if slice_ is not None else None,
            depth.value_() if depth is not None else None,
            self._exit(one),
            programs,
            tuple(maps),
            self._events(one),
        )

    def _exit(self, one: Object) -> Exit | None:
        kind = self._of(one, "exit_kind", "scx_exit_kind")
        info = self._of(one, "exit_info", "scx_exit_info")
        number = kind.counter.value_() if kind is not None else 0
        if not number or names.enumerator(self.prog, "scx_exit_kind", number) == "SCX_EXIT_DONE":
            return None
        reason = message = ""
        code, cpu = 0, None
        if info is not None and info:
            with contextlib.suppress(FaultError):
                reason = info.reason.string_().decode(errors="replace") if info.reason else ""
                message = info.msg.string_().decode(errors="replace") if info.msg else ""
                code = info.exit_code.value_()
                cpu = info.exit_cpu.value_() if _has(info[0], "exit_cpu") else None
        return Exit(
            names.enumerator(self.prog, "scx_exit_kind", number, "SCX_EXIT_"), number, code, reason, message, cpu
        )

    # The programs of the struct_ops map that was attached, and all maps that these use.
    def _programs(self, one: Object) -> tuple[dict[str, str], list[int]]:
        maps = self.bpf
        try:
            attached = self._attached(one, maps.all())
            if attached is None:
                return {}, []
            data = bpf.struct_ops_data(attached, "struct sched_ext_ops")
            assert data is not None
            found = bpf.struct_ops_programs(attached, data)
            used = maps.used_by(list(found.values()))
            # Programs of the same object that are no op share its variables.
            shared = {number for number, each in used.items() if maps.info(each).section}
            for program in bpf.programs(self.prog):
                if shared & set(mine := maps.used_by([program])):
                    used.update(mine)
            used[attached.id.value_()] = attached
            for each in list(used.values()):
                used.update((one_.id.value_(), one_) for one_ in maps.inner(each).values())
            names_ = {op: maps.program_name(program) for op, program in found.items()}
        except (FaultError, LookupError, BtfError) as error:
            self._notes.append(f"the programs of {self._name(one)} cannot be told: {error}")
            return {}, []
        self.maps.update(used)
        return names_, sorted(used)

    # The scheduler's own queue that has the task's pid in it, as scx_qmap's do.
    def _own_queue(self, pid: int) -> str:
        for each in self.maps.values():
            if pid in self.bpf.queued(each):
                return self.bpf.info(each).name
        return ""

    def _attached(self, one: Object, maps: dict[int, Object]) -> Object | None:
        ops = self._ops(one)
        same: Object | None = None
        for each in maps.values():
            data = bpf.struct_ops_data(each, "struct sched_ext_ops")
            if data is None or data.name.string_() != ops.name.string_():
                continue
            # ops->priv is the scheduler that it was registered as (scx_alloc_and_add_sched() in ext.c).
            if _has(data[0], "priv") and one.type_.kind.name == "POINTER" and data.priv.value_() == one.value_():
                return each
            same = each
        return same

    def _events(self, one: Object) -> dict[str, int]:
        found: dict[str, int] = {}
        pointer = self._of(one, "pcpu")
        stats = self._of(one, "event_stats_cpu")
        for cpu in self.reader.possible_cpus:
            if stats is not None:
                counters = per_cpu(stats, cpu)[0]
            elif pointer is not None and _has(pointer[0], "event_stats"):
                counters = per_cpu(pointer, cpu).event_stats
            elif (variable := self._variable("event_stats_cpu")) is not None:
                counters = per_cpu_variable(variable, cpu)
            else:
                return {}
            for member in counters.type_.members or ():
                if member.name is not None:
                    name = member.name.removeprefix("SCX_EV_")
                    found[name] = found.get(name, 0) + counters.member_(member.name).value_()
        return found

    # The queues of one scheduler: the user's, then those of nodes and CPUs that are its own.
    def _queues(self, one: Object) -> Iterator[Queue]:
        name = self._name(one)
        table = self._of(one, "dsq_hash", "dsq_hash")
        found: dict[int, Object] = {}
        if table is not None:
            for _ in range(3):
                try:
                    found = {
                        each.id.value_(): each for each in hash_entries(table, "struct scx_dispatch_q", "hash_node")
                    }
                    break
                except Broken:
                    continue
            else:
                self._notes.append(f"the DSQs of {name} changed with each look")
        for _, each in sorted(found.items()):
            yield self.reader.queue(each[0], "", name)
        for node in self._nodes():
            queue = self._node_queue(one, node)
            if queue is not None:
                yield self.reader.queue(queue, f"node {node}", name)
        pointer = self._of(one, "pcpu")
        if pointer is not None and _has(pointer[0], "bypass_dsq"):
            for cpu in self.reader.possible_cpus:
                queue = per_cpu(pointer, cpu).bypass_dsq
                if queue.nr:
                    yield self.reader.queue(queue, f"cpu {cpu}", name)

    def _nodes(self) -> range:
        found = self._variable("nr_node_ids")
        return range(found.value_() if found is not None else 1)

    def _node_queue(self, one: Object, node: int) -> Object | None:
        if (nodes := self._of(one, "pnode")) is not None:
            return nodes[node].global_dsq if nodes[node] else None
        if (queues := self._of(one, "global_dsqs", "global_dsqs")) is not None:
            return queues[node][0] if queues[node] else None
        return None

    def _cpu(self, cpu: int, rq: Object, root: Object | None, online: bool) -> Cpu:
        current = copy(rq.curr)
        scx = rq.scx
        kicks, bypassed = {}, None
        holders = [scx]
        pointer = self._of(root, "pcpu") if root is not None else None
        if pointer is not None:
            mine = per_cpu(pointer, cpu)[0]
            holders.append(mine)
            if _has(mine, "flags"):
                bypassed = "BYPASSING" in names.bits(
                    self.prog, "scx_sched_pcpu_flags", mine.flags.value_(), "SCX_SCHED_PCPU_"
                )
        for holder in holders:
            for name in _KICKS:
                if _has(holder, name) and (mask := self._mask(holder.member_(name))):
                    kicks[name.removeprefix("cpus_to_")] = names.cpus_of(mask)
        flags = names.bits(self.prog, "scx_rq_flags", scx.flags.value_(), "SCX_RQ_")
        if bypassed is None and root is not None:
            bypassed = "BYPASSING" in flags
        return Cpu(
            cpu,
            online,
            current.comm.string_().decode(errors="replace"),
            current.pid.value_(),
            self._class(current.sched_class),
            scx.nr_running.value_(),
            rq.nr_running.value_(),
            flags,
            self.reader.queue(scx.local_dsq, f"cpu {cpu}", ""),
            kicks,
            bool(scx.cpu_released) if _has(scx, "cpu_released") else None,
            bypassed,
        )

    # cpumask_var_t: a pointer, or an array of one where masks are small (CONFIG_CPUMASK_OFFSTACK).
    def _mask(self, mask: Object) -> int:
        address = mask.value_() if _kind(mask) == "POINTER" else mask.address_
        return self.reader.mask(address) if address else 0

    def _class(self, pointer: Object) -> str:
        with contextlib.suppress(LookupError):
            return str(self.prog.symbol(pointer.value_()).name).removesuffix("_sched_class")
        return f"{pointer.value_():#x}"


def _kind(one: Object) -> str:
    type_ = one.type_
    while type_.kind.name == "TYPEDEF":
        type_ = type_.type
    return str(type_.kind.name)


def _has(one: Object, member: str) -> bool:
    type_ = one.type_
    while type_.kind.name == "TYPEDEF":
        type_ = type_.type
    return type_.kind.name in ("STRUCT", "UNION") and type_.has_member(member)
