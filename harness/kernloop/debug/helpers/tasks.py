# SPDX-License-Identifier: Apache-2.0
"""All tasks, as ps has them, and what each CPU runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from drgn import FaultError, Object, Program, cast
from drgn.helpers.linux.cpumask import for_each_online_cpu
from drgn.helpers.linux.pid import for_each_task

from kernloop.debug.stacks import cpu_of, on_cpu
from kernloop.debug.walk import per_cpu_variable

__all__ = ["RunQueue", "TaskRow", "Who", "clock", "every_task", "full_name", "ps", "runqueues", "state_of", "who"]

# PF_KTHREAD, PF_WQ_WORKER: include/linux/sched.h
_KTHREAD, _WORKER = 0x00200000, 0x20
# __task_state_index() in include/linux/sched.h: the highest bit of TASK_REPORT; TASK_IDLE is two bits, and who waits
# for a sleeping lock (TASK_RTLOCK_WAIT) or is frozen (TASK_FROZEN) is told as uninterruptible.
_LETTERS = "RSDTtXZP"
_REPORT, _IDLE, _TOLD_AS_D = 0x7F, 0x402, 0x1000 | 0x8000
_POLICIES = {0: "other", 1: "fifo", 2: "rr", 3: "batch", 5: "idle", 6: "deadline", 7: "ext"}
_MOST = 1 << 16


@dataclass(frozen=True)
class Who:
    """A task by its names; `address` is its task_struct's."""

    pid: int
    comm: str
    address: int

    def __str__(self) -> str:
        return f"{self.comm}[{self.pid}]"


@dataclass(frozen=True)
class TaskRow:
    """`name` is ps's, longer than comm. `cpu` is where it runs (`running`) or ran last; `waited` the seconds that it
    has been runnable without a CPU, `since` those since it had one; None where the kernel does not count them
    (CONFIG_SCHED_INFO)."""

    who: Who
    name: str
    tgid: int
    parent: int
    state: str
    cpu: int
    running: bool
    kernel: bool
    policy: str
    waited: float | None
    since: float | None


@dataclass(frozen=True)
class RunQueue:
    """What a CPU runs; `behind` is how many seconds its clock is behind the newest: a busy CPU's is no tick old."""

    cpu: int
    current: Who
    idle: bool
    runnable: int
    behind: float


def ps(prog: Program) -> tuple[TaskRow, ...]:
    """Each thread, in the order of pids, without the idle ones."""
    now = clock(prog)
    return tuple(_row(task, now) for task in every_task(prog))


def every_task(prog: Program) -> Iterator[Object]:
    """All as pointers. One that ends meanwhile is left out."""
    for number, task in enumerate(for_each_task(prog)):
        if number >= _MOST:
            return
        yield task


def runqueues(prog: Program) -> tuple[RunQueue, ...]:
    """Of each CPU that is online."""
    now = clock(prog)
    found = []
    for cpu in for_each_online_cpu(prog):
        rq = per_cpu_variable(prog["runqueues"], cpu)
        current = rq.curr
        idle = current.value_() == rq.idle.value_()
        behind = max(now - rq.clock.value_(), 0) / 1e9
        found.append(RunQueue(cpu, who(current), idle, rq.nr_running.value_(), behind))
    return tuple(found)


def clock(prog: Program) -> int:
    """Nanoseconds of the scheduler's clock: the newest that a CPU has seen, as an idle one's stands still."""
    return max(int(per_cpu_variable(prog["runqueues"], cpu).clock.value_()) for cpu in for_each_online_cpu(prog))


def who(task: Object) -> Who:
    """`task` is a pointer."""
    try:
        return Who(task.pid.value_(), task.comm.string_().decode(errors="replace"), task.value_())
    except FaultError:
        return Who(-1, "?", task.value_())


def full_name(task: Object) -> str:
    """As ps has it: a kernel thread's whole name, and what a worker did last (proc_task_name() in fs/proc/array.c,
    wq_worker_comm() in kernel/workqueue.c)."""
    flags = task.flags.value_()
    name: str = task.comm.string_().decode(errors="replace")
    if not flags & _KTHREAD:
        return name
    try:
        thread = cast("struct kthread *", task.worker_private)
        if thread and thread.full_name:
            name = thread.full_name.string_().decode(errors="replace")
        worker = cast("struct worker *", thread.data)
        if flags & _WORKER and worker.pool and (work := worker.desc.string_().decode(errors="replace")):
            name += ("+" if worker.current_work else "-") + work
    except (FaultError, LookupError, AttributeError):
        pass
    return name


def state_of(task: Object) -> str:
    """ps's letter."""
    word = task.member_("__state").value_()
    exit_ = task.exit_state.value_()
    if word & _TOLD_AS_D:
        return "D"
    if word & _IDLE == _IDLE:
        return "I"
    return _LETTERS[((word | exit_) & _REPORT).bit_length()]


def _row(task: Object, now: int) -> TaskRow:
    running = on_cpu(task)
    waited = since = None
    try:
        info = task.sched_info
        queued, arrived = info.last_queued.value_(), info.last_arrival.value_()
        # 6.12 leaves it set in one that sleeps.
        runnable = task.on_rq.value_() and not task.member_("__state").value_()
        waited = max(now - queued, 0) / 1e9 if queued and runnable and not running else None
        since = max(now - arrived, 0) / 1e9 if arrived and not running else None
    except AttributeError:
        pass
    policy = task.policy.value_()
    return TaskRow(
        who(task),
        full_name(task),
        task.tgid.value_(),
        task.real_parent.tgid.value_(),
        state_of(task),
        cpu_of(task),
        running,
        bool(task.flags.value_() & _KTHREAD),
        _POLICIES.get(policy, str(policy)),
        waited,
        since,
    )
