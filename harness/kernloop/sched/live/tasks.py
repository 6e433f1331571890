# SPDX-License-Identifier: Apache-2.0
"""Tasks and dispatch queues."""

from __future__ import annotations

from functools import cached_property

from drgn import FaultError, Object, Program, container_of

from kernloop.debug.walk import Broken, copy, entries
from kernloop.sched.live import names
from kernloop.sched.live.model import Queue, Task

__all__ = ["Reader"]

# SCX_OPSS_QSEQ_SHIFT: above is the sequence number, below who has the task.
_OPSS_MASK = 3
# A queue that changes each time is shown as it was seen the last.
_LOOKS = 6
_ON_PRIQ = 1
_CURSOR = 1


class Reader:
    """Reads them from one Program; a kernel that stands still, or one that runs on."""

    def __init__(self, prog: Program, most_tasks: int) -> None:
        self.prog = prog
        self.most_tasks = most_tasks
        self.hz = names.hz(prog)
        self._queued = names.constant(prog, "scx_ops_state", "SCX_OPSS_QUEUED", 2)
        # A cpumask_var_t has no room for more (include/linux/cpumask.h, cpumask_size()).
        self._cpus = int(prog["nr_cpu_ids"])
        self._with_sched = prog.type("struct sched_ext_entity").has_member("sched")

    @property
    def jiffies(self) -> int:
        return int(self.prog["jiffies"])

    @cached_property
    def possible_cpus(self) -> list[int]:
        return self.cpu_list(self.prog["__cpu_possible_mask"])

    def cpu_list(self, mask: Object) -> list[int]:
        value = self.mask(mask.address_of_().value_())
        return [cpu for cpu in range(value.bit_length()) if value >> cpu & 1]

    def mask(self, address: int) -> int:
        """A struct cpumask as a number."""
        return self._known(self.prog.read(address, (self._cpus + 63) // 64 * 8))

    def _known(self, mask: bytes) -> int:
        return int.from_bytes(mask, "little") & (1 << self._cpus) - 1

    def task(self, pointer: Object) -> Task:
        """The task as it is at one moment. Raises FaultError."""
        prog = self.prog
        task = copy(pointer)
        scx = task.scx
        flags = scx.flags.value_()
        queue = scx.dsq
        held = "core"
        if queue:
            held = "dsq"
        elif scx.ops_state.counter.value_() & _OPSS_MASK == self._queued:
            held = "scheduler"
        return Task(
            task.comm.string_().decode(errors="replace"),
            task.pid.value_(),
            _cpu(task),
            scx.weight.value_(),
            scx.slice.value_(),
            scx.dsq_vtime.value_(),
            round((self.jiffies - scx.runnable_at.value_()) / self.hz, 3),
            names.cpus_of(self._allowed(pointer, task)),
            names.task_state(prog, flags),
            names.bits(prog, "scx_ent_flags", flags, "SCX_TASK_", without=names.state_mask(prog) | 0x7000),
            names.dsq_name(prog, queue.id.value_()) if queue else "",
            held,
            scx.sticky_cpu.value_(),
            scx.holding_cpu.value_(),
            task.migration_disabled.value_(),
            scx.sched.ops.name.string_().decode(errors="replace") if self._with_sched and scx.sched else None,
        )

    # Usually the mask in the task itself, which is then of the same moment.
    def _allowed(self, pointer: Object, task: Object) -> int:
        mask = task.cpus_ptr.value_()
        if mask == pointer.cpus_mask.address_of_().value_():
            return self._known(task.cpus_mask.to_bytes_())
        return self.mask(mask)

    def queue(self, queue: Object, owner: str, scheduler: str) -> Queue:
        """A struct scx_dispatch_q, by its address. Raises FaultError."""
        id_ = queue.id.value_()
        for look in range(_LOOKS):
            # dsq->seq rises with each task that comes, dsq->nr with each that comes or goes.
            before = (queue.nr.value_(), queue.seq.value_())
            tasks, order, whole = self._queued_tasks(queue)
            steady = whole and before == (queue.nr.value_(), queue.seq.value_())
            if steady or look == _LOOKS - 1:
                break
        kind = "builtin" if id_ >> 63 else "user"
        name = names.dsq_name(self.prog, id_)
        return Queue(id_, name, kind, owner, order, before[0], tuple(tasks), steady, scheduler)

    # In the order of the list, which is that of vtime where there is one (dispatch_enqueue() in ext.c).
    def _queued_tasks(self, queue: Object) -> tuple[list[Task], str, bool]:
        tasks: list[Task] = []
        order = ""
        address = queue.address_of_().value_()
        try:
            for node in entries(queue.list, "struct scx_dsq_list_node", "node"):
                if node.flags.value_() & _CURSOR:
                    continue
                if len(tasks) == self.most_tasks:
                    return tasks, order, True
                pointer = _container(self.prog, node)
                if pointer.scx.dsq.value_() != address:
                    return tasks, order, False
                order = "vtime" if pointer.scx.dsq_flags.value_() & _ON_PRIQ else "fifo"
                tasks.append(self.task(pointer))
        except (Broken, FaultError):
            return tasks, order, False
        return tasks, order, True

    def off_queue(self, lists: list[Object]) -> list[Task]:
        """Tasks on the CPUs' lists of runnable ones (rq->scx.runnable_list) that are on no DSQ.

        Each is looked at twice: one on its way from one queue to another is not there the second time.
        """
        first = self._without_queue(lists)
        if not first:
            return []
        again = self._without_queue(lists)
        found = [again[key] for key in first if key in again]
        return sorted(found, key=lambda task: -task.waiting)

    def _without_queue(self, lists: list[Object]) -> dict[tuple[int, int, int], Task]:
        found = {}
        for head in lists:
            try:
                for pointer in entries(head, "struct task_struct", "scx.runnable_node"):
                    scx = pointer.scx
                    if scx.dsq or self._running(pointer):
                        continue
                    key = (pointer.value_(), scx.ops_state.counter.value_(), scx.runnable_at.value_())
                    found[key] = self.task(pointer)
            except (Broken, FaultError):
                continue
        return found

    # rq->curr is not on the list, except between being picked and being taken off.
    def _running(self, pointer: Object) -> bool:
        return bool(pointer.on_cpu.value_())


def _cpu(task: Object) -> int:
    return int(task.thread_info.cpu.value_()) if task.thread_info.type_.has_member("cpu") else int(task.cpu.value_())


def _container(prog: Program, node: Object) -> Object:
    return container_of(node, prog.type("struct task_struct"), "scx.dsq_list")
