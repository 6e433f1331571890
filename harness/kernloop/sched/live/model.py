# SPDX-License-Identifier: Apache-2.0
"""What is seen of sched_ext in a guest's memory. A field is None where this kernel has no such thing."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Cpu", "Exit", "Queue", "Scheduler", "Seen", "Task"]


@dataclass(frozen=True)
class Task:
    """A task of sched_ext. `waiting` seconds since it became runnable, None while it runs or sleeps; `slice` in
    nanoseconds; `held` says who has it: "scheduler" (BPF, SCX_OPSS_QUEUED), "core", or "dsq"; `own_queue` is the map of
    the scheduler that is a queue and has the task's pid in it."""

    comm: str
    pid: int
    cpu: int
    weight: int
    slice: int
    vtime: int
    waiting: float
    cpus: str
    state: str
    flags: tuple[str, ...]
    dsq: str
    held: str
    sticky_cpu: int
    holding_cpu: int
    migration_disabled: int
    scheduler: str | None
    own_queue: str = ""


@dataclass(frozen=True)
class Queue:
    """A dispatch queue. `kind` is builtin or user, `owner` the CPU or node of a built-in one; `order` fifo, vtime, or
    "" while it is empty; `tasks` as many as were asked for, in the order in which they are taken. `steady` is False
    when it changed in each of the looks that were taken, so that the tasks may not be those of one moment."""

    id: int
    name: str
    kind: str
    owner: str
    order: str
    count: int
    tasks: tuple[Task, ...]
    steady: bool
    scheduler: str


@dataclass(frozen=True)
class Cpu:
    """`running` tasks are those of sched_ext on this CPU, the current one with them; `kicks` by kind the CPUs that
    this one is about to kick; `bypassed` whether its scheduler is passed over here."""

    cpu: int
    online: bool
    current: str
    current_pid: int
    current_class: str
    running: int
    all_running: int
    flags: tuple[str, ...]
    local: Queue
    kicks: dict[str, str]
    released: bool | None
    bypassed: bool | None


@dataclass(frozen=True)
class Exit:
    """Why a scheduler ends; `code` is its own or the kernel's (enum scx_exit_code)."""

    kind: str
    number: int
    code: int
    reason: str
    message: str
    cpu: int | None


@dataclass(frozen=True)
class Scheduler:
    """A loaded scheduler. `path` is that of its cgroup for one below another (7.x), `timeout` the watchdog's in
    seconds, `slice` the default one in nanoseconds, `programs` are by op, `maps` by id."""

    name: str
    level: int
    path: str
    flags: tuple[str, ...]
    timeout: float
    slice: int | None
    bypass_depth: int | None
    exit: Exit | None
    programs: dict[str, str]
    maps: tuple[int, ...]
    events: dict[str, int]


@dataclass(frozen=True)
class Seen:
    """All of it. `off_queue` tasks are runnable and on no DSQ: the scheduler has them in a queue of its own, or has
    lost them; the longest waiting first. `notes` say what could not be read."""

    state: str
    switched_all: bool
    enable_seq: int
    rejected: int
    watchdog_ago: float | None
    schedulers: tuple[Scheduler, ...]
    queues: tuple[Queue, ...]
    off_queue: tuple[Task, ...]
    cpus: tuple[Cpu, ...]
    notes: tuple[str, ...]
