# SPDX-License-Identifier: Apache-2.0
"""The structure of reports about waiting: lockdep's cycle, who waits for whom, the CPU that RCU waits for, stuck work.

Formats: kernel/locking/lockdep.c (print_circular_bug, print_deadlock_bug, debug_show_all_locks), kernel/hung_task.c,
kernel/rcu/tree_stall.h, kernel/workqueue.c (show_all_workqueues).

>>> found = details("deadlock", ["kl/7 is trying to acquire lock:", "ff (&a){+.+.}-{3:3}, at: kl_take+0x1/0x2"])
>>> found.wanted
(Lock(name='&a', function='kl_take', comm='kl', pid=7),)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .frames import base_name, parse_frame
from .machinery import is_machinery
from .patterns import Pattern

__all__ = ["Details", "Lock", "Stall", "Work", "all_held", "details"]

_MAX = 64

_LOCK = Pattern(r"^\s*(?:#\d+: )?(?:[0-9a-f]+ )?\((?P<name>.+?)\)\{.{2,8}\}(?:-\{\d+:\d+\})?(?:, at: (?P<at>.*))?$")
_AT = Pattern(r"^(?:\[<[0-9a-f]+>\]\s*)?(?P<func>[A-Za-z_$][\w.$]*)(?:\+0x|$)")
_TASK = r"(?P<comm>.{1,40}?)/(?P<pid>\d{1,10})"
_WANTS = Pattern(rf"^\s*{_TASK} (?:is trying to (?:acquire|lock|release)|just changed the state of lock)")
_HOLDS = Pattern(r"but task is already holding lock:|but (?:this|that) .*lock (?:was|took|could)")
_LINK = Pattern(r"^-> #(?P<number>\d+) \((?P<name>.+?)\)\{")
_CHAIN = Pattern(r"^\s*(?P<chain>\S.* --> \S.*)$")
# The second form is that of 7.x.
_HELD_BY = Pattern(rf"^(?:\d+ locks?|locks) held by {_TASK}:(?: \d+, (?:on|last) CPU#\d+:?)?$")
_BLOCKED = Pattern(r"INFO: task (?P<comm>.{1,100}?):(?P<pid>\d{1,10}) (?:blocked|can't die)")
_OWNER = Pattern(
    r"INFO: task .{1,100}?:\d+ (?:is |<\w+> )?blocked on an? (?P<name>[\w -]+?),? (?:but the owner is not found"
    r"|(?:likely )?(?:last )?(?:owned|held) by task (?P<comm>.{1,100}?):(?P<pid>\d{1,10}))"
)
_RCU_CPU = Pattern(r"^(?:rcu: )?\s*(?P<cpu>\d{1,6})-[.O][.o][.N][.D!]?.{0,3}: \(")
_RCU_TASK = Pattern(r"\bP(?P<pid>\d{1,10})(?:/\d+:|\b)")
_RCU_WAIT = Pattern(r"\((?:detected by (?P<by>\d{1,6}), )?t=(?P<jiffies>\d{1,18}) jiffies")
_RCU_STARVED = Pattern(r"kthread (?:starved|timer wakeup didn't happen) for (?P<jiffies>\d{1,18}) jiffies")
_POOL = Pattern(r"workqueue lockup - pool (?P<pool>.*?) stuck for (?P<seconds>\d{1,9})s")
_QUEUE = Pattern(r"^workqueue (?P<name>\S+?): flags=")
_IN_FLIGHT = Pattern(r"^\s*in-flight: (?P<works>.*)")
_PENDING = Pattern(r"^\s*pending: (?P<works>.*)")
_WORK = Pattern(r"(?:(?P<pid>\d{1,10})(?:\([^)]*\))?:)?(?P<func>[A-Za-z_]\w*)")


@dataclass(frozen=True)
class Lock:
    """A lock, where it was taken, and who has or wants it, as far as the report says."""

    name: str
    function: str | None = None
    comm: str | None = None
    pid: int | None = None


@dataclass(frozen=True)
class Stall:
    """What RCU waits for: CPUs without a quiescent state, tasks that were preempted in a reader; who found it out."""

    cpus: tuple[int, ...] = ()
    pids: tuple[int, ...] = ()
    jiffies: int | None = None
    detected_by: int | None = None
    kthread_starved: int | None = None


@dataclass(frozen=True)
class Work:
    """A work item of a queue: running (with its worker's pid) or still waiting."""

    queue: str
    function: str
    running: bool
    pid: int | None = None


@dataclass(frozen=True)
class Details:
    """`wanted` and `held` are the two ends of a deadlock; `cycle` the order that lockdep has seen, `places` where each
    of its locks was taken; `waiting` the hung task, `owner` who has what it waits for; `all_held` all locks."""

    wanted: tuple[Lock, ...] = ()
    held: tuple[Lock, ...] = ()
    cycle: tuple[str, ...] = ()
    places: tuple[Lock, ...] = ()
    waiting: Lock | None = None
    owner: Lock | None = None
    all_held: tuple[Lock, ...] = ()
    stall: Stall | None = None
    pool: str | None = None
    stuck_seconds: int | None = None
    works: tuple[Work, ...] = ()


def details(kind: str, lines: Sequence[str]) -> Details | None:
    """What a report of this kind says about waiting; None for kinds that have no such structure."""
    if kind in ("deadlock", "inconsistent-lock-state"):
        return _lockdep(lines)
    if kind == "hung-task":
        return _hung(lines)
    if kind == "rcu-stall":
        return Details(stall=_stall(lines), all_held=all_held(lines))
    if kind == "workqueue-lockup":
        return _workqueue(lines)
    return None


def _lockdep(lines: Sequence[str]) -> Details:
    wanted: list[Lock] = []
    held: list[Lock] = []
    places: list[Lock] = []
    cycle: tuple[str, ...] = ()
    who: tuple[str | None, int | None] = (None, None)
    into: list[Lock] | None = None
    for number, line in enumerate(lines):
        if wants := _WANTS.match(line):
            who, into = (wants["comm"], int(wants["pid"])), wanted
        elif _HOLDS.search(line):
            into = held
        elif link := _LINK.match(line):
            into = None
            if len(places) < _MAX:
                places.append(Lock(link["name"], _taken_in(lines[number + 1 : number + 40])))
        elif into is not None and (lock := _lock(line, *who)):
            into.append(lock)
            into = None
        elif not cycle and (chain := _CHAIN.match(line)):
            cycle = tuple(chain["chain"].split(" --> "))
    return Details(tuple(wanted), tuple(held), cycle, tuple(places), all_held=all_held(lines))


# The first function below a link of the chain that is not lockdep's own.
def _taken_in(lines: Sequence[str]) -> str | None:
    for line in lines:
        frame = parse_frame(line)
        if frame is None:
            return None
        if frame.reliable and not is_machinery(name := base_name(frame.function)):
            return name
    return None


def _lock(line: str, comm: str | None, pid: int | None) -> Lock | None:
    match = _LOCK.match(line)
    if match is None:
        return None
    at = _AT.match(match["at"] or "")
    return Lock(match["name"], base_name(at["func"]) if at else None, comm, pid)


def all_held(lines: Sequence[str]) -> tuple[Lock, ...]:
    """The locks below each "N locks held by comm/pid:", of any task."""
    found: list[Lock] = []
    holder: tuple[str, int] | None = None
    for line in lines:
        if by := _HELD_BY.match(line):
            holder = (by["comm"], int(by["pid"]))
        elif holder and line.lstrip().startswith("#") and (lock := _lock(line, *holder)):
            found.append(lock)
        else:
            holder = None
        if len(found) >= _MAX:
            break
    return tuple(found)


def _hung(lines: Sequence[str]) -> Details:
    waiting = owner = None
    for line in lines:
        if waiting is None and (blocked := _BLOCKED.search(line)):
            waiting = Lock("", None, blocked["comm"], int(blocked["pid"]))
        if owner is None and (owned := _OWNER.search(line)):
            owner = Lock(owned["name"], None, owned["comm"], int(owned["pid"]) if owned["pid"] else None)
    return Details(waiting=waiting, owner=owner, all_held=all_held(lines))


def _stall(lines: Sequence[str]) -> Stall:
    cpus: list[int] = []
    pids: list[int] = []
    jiffies = by = starved = None
    for line in lines:
        if cpu := _RCU_CPU.match(line):
            cpus.append(int(cpu["cpu"]))
        if "Tasks blocked on" in line or (" P" in line and "l-0 rcu_node" in line):
            pids += [int(task["pid"]) for task in _RCU_TASK.finditer(line)]
        if jiffies is None and (wait := _RCU_WAIT.search(line)):
            jiffies, by = int(wait["jiffies"]), int(wait["by"]) if wait["by"] else None
        if starved is None and (hungry := _RCU_STARVED.search(line)):
            starved = int(hungry["jiffies"])
    return Stall(tuple(dict.fromkeys(cpus)), tuple(dict.fromkeys(pids)), jiffies, by, starved)


def _workqueue(lines: Sequence[str]) -> Details:
    pool, seconds, queue = None, None, ""
    works: list[Work] = []
    for line in lines:
        if pool is None and (stuck := _POOL.search(line)):
            pool, seconds = stuck["pool"], int(stuck["seconds"])
        elif named := _QUEUE.match(line):
            queue = named["name"]
        elif (found := _IN_FLIGHT.match(line)) or (found := _PENDING.match(line)):
            running = "in-flight" in line
            for part in found["works"].split(", "):
                if len(works) < _MAX and (work := _WORK.match(part.strip())):
                    works.append(Work(queue, work["func"], running, int(work["pid"]) if work["pid"] else None))
    return Details(pool=pool, stuck_seconds=seconds, works=tuple(works))
