# SPDX-License-Identifier: Apache-2.0
"""From scheduling events to figures: how long each task waited for a CPU, how long it kept one, how often it moved; how
long tasks lay in each dispatch queue.

- wake-up: from sched_waking, when somebody begins to wake it, to the sched_switch that runs it.
- run delay: each time that it could run and did not: from the wake-up, or from its preemption, to the switch. A wait
  that began before the recording or lasts beyond it counts with the part that was seen, which is its least length: a
  task that starves would have none otherwise.
- slice: from a switch to it until the one away from it. Only whole ones count.

Behind lost events nothing is known of any task until its next event.
"""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

from kernloop.sched.trace.ringbuffer import LOST, Event

__all__ = [
    "CpuFigures",
    "DsqFigures",
    "Measured",
    "Meter",
    "Spread",
    "Task",
    "TaskFigures",
    "dsq_name",
    "spread",
    "tasks",
]

# Built-in queues (enum scx_dsq_id_flags, include/linux/sched/ext.h).
_LOCAL, _GLOBAL, _BYPASS = 0x8000000000000002, 0x8000000000000001, 0x8000000000000003
_RUNNABLE_MASK = 0xFF  # TASK_REPORT; the bit above says "preempted"
_STAT = re.compile(r"(?P<tgid>\d+) (?P<pid>\d+) \((?P<comm>.*)\) (?P<state>\S)(?P<rest>(?: -?\d+){35,})", re.DOTALL)
_CPU_FIELD = 35  # processor, behind the state in /proc/PID/stat


@dataclass(frozen=True)
class Spread:
    """Percentiles by nearest rank, in nanoseconds."""

    count: int = 0
    p50: int = 0
    p90: int = 0
    p99: int = 0
    max: int = 0


@dataclass(frozen=True)
class TaskFigures:
    """`ran` in nanoseconds; `waiting`: so long it had been waiting for a CPU when the recording ended."""

    pid: int
    comm: str
    wakeup: Spread
    delay: Spread
    slice: Spread
    migrations: int
    ran: int
    waiting: int


@dataclass(frozen=True)
class DsqFigures:
    """`stay`: from a task's insertion to its leaving; `depth` the most that lay there at once."""

    name: str
    inserts: int
    depth: int
    stay: Spread


@dataclass(frozen=True)
class CpuFigures:
    cpu: int
    switches: int
    busy: int


@dataclass(frozen=True)
class Measured:
    """`begin` and `end` in nanoseconds of the guest's clock; tasks with the worst run delay first."""

    begin: int
    end: int
    events: int
    lost: int
    gaps: int
    tasks: tuple[TaskFigures, ...]
    dsqs: tuple[DsqFigures, ...]
    cpus: tuple[CpuFigures, ...]


@dataclass(frozen=True)
class Task:
    """A thread as /proc told of it when the recording had ended."""

    pid: int
    tgid: int
    comm: str
    state: str
    cpu: int


def tasks(text: str) -> list[Task]:
    """Lines of PROCESS and /proc/PID/task/TID/stat, as scxtrace.c writes them."""
    found = []
    for m in map(_STAT.fullmatch, text.rstrip("\n").split("\n")):
        if m is not None:
            cpu = int(m["rest"].split()[_CPU_FIELD - 1])
            found.append(Task(int(m["pid"]), int(m["tgid"]), m["comm"], m["state"], cpu))
    return found


def spread(samples: Sequence[int]) -> Spread:
    """
    >>> spread([40, 10, 20, 30])
    Spread(count=4, p50=20, p90=40, p99=40, max=40)
    """
    if not samples:
        return Spread()
    ordered = sorted(samples)

    def rank(share: int) -> int:
        return ordered[math.ceil(share * len(ordered) / 100) - 1]

    return Spread(len(ordered), rank(50), rank(90), rank(99), ordered[-1])


def dsq_name(dsq: int, cpu: int) -> str:
    """A queue as people call it; `cpu` is that of the task."""
    named = {_LOCAL: f"local {cpu}", _GLOBAL: "global", _BYPASS: f"bypass {cpu}"}
    return named.get(dsq, f"{dsq:#x}")


@dataclass(slots=True)
class _State:
    comm: str = "?"
    state: str = ""  # running, runnable, asleep; "" when it is not known
    since: int = 0
    woken: int | None = None  # when, if it is runnable because it was woken
    early: int | None = None  # somebody began to wake it while it still ran
    epoch: int = 0
    migrations: int = 0
    ran: int = 0
    dsq: str = ""
    queued: int = 0
    wakeups: array[int] = field(default_factory=lambda: array("q"))
    delays: array[int] = field(default_factory=lambda: array("q"))
    slices: array[int] = field(default_factory=lambda: array("q"))


@dataclass(slots=True)
class _Queue:
    inserts: int = 0
    depth: int = 0
    most: int = 0
    stays: array[int] = field(default_factory=lambda: array("q"))


@dataclass(slots=True)
class _Cpu:
    switches: int = 0
    busy: int = 0
    since: int = 0
    pid: int = 0


class Meter:
    """Feed it the events in the order of their time. `begin` is when the recording did, if that is known, `there` are
    the tasks at its end."""

    def __init__(self, begin: int | None = None, there: Sequence[Task] = ()) -> None:
        self._begin = begin if begin is not None else -1
        self._there = there
        self._tasks: dict[int, _State] = {}
        self._queues: dict[str, _Queue] = {}
        self._cpus: dict[int, _Cpu] = {}
        self._events = self._lost = self._gaps = self._last = 0

    def feed(self, event: Event) -> None:
        if self._begin < 0:
            self._begin = event.ts
        self._last = max(self._last, event.ts)
        if event.kind == LOST:
            self._lose(event.values[0])
            return
        self._events += 1
        match event.kind:
            case "sched_switch":
                self._switch(event)
            case "sched_waking" | "sched_wakeup_new":
                self._wake(event.values[1], event.values[0], event.ts)
            case "sched_wakeup":
                task = self._task(event.values[1], event.values[0])
                if task.state == "running":
                    task.early = None  # it never went to sleep
                elif task.state != "runnable":
                    self._wake(event.values[1], event.values[0], event.ts)
            case "sched_migrate_task":
                self._task(event.values[0]).migrations += 1
            case "dsq_insert":
                self._insert(event.values[0], dsq_name(event.values[1], event.values[2]), event.ts)
            case "dsq_local":
                self._insert(event.values[0], dsq_name(_LOCAL, event.values[1]), event.ts)
            case "dsq_leave":
                self._leave(event.values[0], event.ts)

    def queue_depth(self, name: str) -> int:
        queue = self._queues.get(name)
        return queue.depth if queue else 0

    def queue_of(self, pid: int) -> str:
        task = self._tasks.get(pid)
        return task.dsq if task else ""

    def finish(self, end: int | None = None) -> Measured:
        """The figures; `end` is when the recording did, if that is known."""
        end = max(self._last, end or 0)
        begin = self._begin if self._begin >= 0 else end
        waiting: dict[int, int] = {}
        for pid, task in self._tasks.items():
            if self._fresh(task) and task.state == "runnable":
                waiting[pid] = end - task.since
                task.delays.append(end - task.since)
            elif self._fresh(task) and task.state == "running":
                task.ran += end - task.since
        for cpu in self._cpus.values():
            if cpu.pid and cpu.since >= 0:
                cpu.busy += end - cpu.since
        self._never_seen(begin, end, waiting)
        figures = [
            TaskFigures(
                pid,
                task.comm,
                spread(task.wakeups),
                spread(task.delays),
                spread(task.slices),
                task.migrations,
                task.ran,
                waiting.get(pid, 0),
            )
            for pid, task in self._tasks.items()
            if pid
        ]
        figures.sort(key=lambda one: (-one.delay.max, -one.ran, one.pid))
        queues = [
            DsqFigures(name, queue.inserts, queue.most, spread(queue.stays))
            for name, queue in sorted(self._queues.items())
        ]
        cpus = [CpuFigures(cpu, one.switches, one.busy) for cpu, one in sorted(self._cpus.items())]
        return Measured(begin, end, self._events, self._lost, self._gaps, tuple(figures), tuple(queues), tuple(cpus))

    # Runnable at the end and without any event: so it was all the time, and did not run, for the first switch on its
    # CPU would have told of it.
    def _never_seen(self, begin: int, end: int, waiting: dict[int, int]) -> None:
        for one in self._there:
            cpu = self._cpus.get(one.cpu)
            if one.state == "R" and one.pid not in self._tasks and cpu and cpu.switches and not self._gaps:
                task = self._task(one.pid, one.comm)
                task.delays.append(end - begin)
                waiting[one.pid] = end - begin

    def _task(self, pid: int, comm: str = "") -> _State:
        task = self._tasks.get(pid)
        if task is None:
            task = self._tasks[pid] = _State(epoch=self._gaps)
        if comm:
            task.comm = comm
        if task.epoch != self._gaps:
            task.epoch, task.state, task.woken, task.early, task.dsq = self._gaps, "", None, None, ""
        return task

    def _fresh(self, task: _State) -> bool:
        return task.epoch == self._gaps

    def _lose(self, count: int) -> None:
        self._lost += count
        self._gaps += 1
        for queue in self._queues.values():
            queue.depth = 0
        for cpu in self._cpus.values():
            cpu.since = -1

    def _switch(self, event: Event) -> None:
        prev_comm, prev_pid, _, prev_state, next_comm, next_pid, _ = event.values
        ts = event.ts
        cpu = self._cpus.get(event.cpu)
        if cpu is None:
            cpu = self._cpus[event.cpu] = _Cpu(since=self._begin)
        cpu.switches += 1
        if prev_pid:
            if cpu.since >= 0:
                cpu.busy += ts - cpu.since
            self._off(self._task(prev_pid, prev_comm), cpu.since, prev_state, ts)
        cpu.since, cpu.pid = ts, next_pid
        if next_pid:
            self._on(self._task(next_pid, next_comm), ts)

    def _off(self, task: _State, since: int, state: int, ts: int) -> None:
        if task.state == "running":
            task.slices.append(ts - task.since)
        if since >= 0:
            task.ran += ts - since
        task.since, task.woken = ts, None
        if state & _RUNNABLE_MASK == 0:
            task.state = "runnable"
        elif task.early is not None:
            task.state, task.woken = "runnable", task.early
        else:
            task.state = "asleep"
        task.early = None

    def _on(self, task: _State, ts: int) -> None:
        if not task.state and not self._gaps:
            task.delays.append(ts - self._begin)  # nobody woke it: it has waited since before
        elif task.state == "runnable":
            task.delays.append(ts - task.since)
            if task.woken is not None:
                task.wakeups.append(ts - task.woken)
        task.state, task.since, task.woken, task.early = "running", ts, None, None

    def _wake(self, pid: int, comm: str, ts: int) -> None:
        task = self._task(pid, comm)
        if task.state == "running":
            task.early = ts
        elif task.state != "runnable":
            task.state, task.since, task.woken = "runnable", ts, ts

    def _insert(self, pid: int, name: str, ts: int) -> None:
        self._leave(pid, ts)
        task = self._task(pid)
        task.dsq, task.queued = name, ts
        queue = self._queues.get(name)
        if queue is None:
            queue = self._queues[name] = _Queue()
        queue.inserts += 1
        queue.depth += 1
        queue.most = max(queue.most, queue.depth)

    def _leave(self, pid: int, ts: int) -> None:
        task = self._task(pid)
        if task.dsq:
            queue = self._queues[task.dsq]
            queue.stays.append(ts - task.queued)
            queue.depth = max(queue.depth - 1, 0)
            task.dsq = ""
