# SPDX-License-Identifier: Apache-2.0
"""Why a guest, or some tasks of it, does not go on: locks, holders, waiters, lost wake-ups, CPUs that are kept, tasks
that the scheduler leaves. What is told is in the memory; what is only likely says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from drgn import FaultError, Object, Program

from kernloop.debug.helpers.spins import Spin, spins
from kernloop.debug.helpers.tasks import RunQueue, TaskRow, Who, ps, runqueues
from kernloop.debug.helpers.waits import Lock, Wait, waits
from kernloop.debug.orc import Stack
from kernloop.debug.stacks import Stacks
from kernloop.debug.target import Target, about

__all__ = ["CpuState", "Finding", "Investigation", "investigate"]

# Who is runnable for longer without a CPU is not merely behind others on a busy guest of two CPUs.
_LONG = 2.0
# A busy CPU's clock is a tick old, or some; one whose is older takes no timer interrupts.
_NO_TICK = 1.0
_ORDER = ("deadlock", "lost-wakeup", "spinlock", "interrupts-off", "scheduler-stall", "lock-held", "blocked")
_MOST_CHAIN = 64


@dataclass(frozen=True)
class CpuState:
    """A CPU: what it runs, where, and whether it takes interrupts (None: not known)."""

    cpu: int
    current: Who
    idle: bool
    user: bool
    interrupts: bool | None
    runnable: int
    behind: float
    stack: Stack


@dataclass(frozen=True)
class Finding:
    """`kind` is a stable word: deadlock, lost-wakeup, spinlock, interrupts-off, scheduler-stall, lock-held, blocked.
    `sure`: nothing in it is a guess."""

    kind: str
    text: str
    sure: bool
    lock: str = ""
    holder: str = ""
    waiters: tuple[str, ...] = ()
    evidence: tuple[str, ...] = ()


@dataclass(frozen=True)
class Investigation:
    target: Target
    findings: tuple[Finding, ...]
    waits: tuple[Wait, ...]
    cpus: tuple[CpuState, ...]
    tasks: int
    seconds: float

    @property
    def summary(self) -> str:
        if not self.findings:
            return f"nothing hangs: {self.tasks} tasks, none waits for a lock that nobody gives back"
        if all(one.kind == "blocked" for one in self.findings):
            number = len(self.findings)
            some = "a task sleeps" if number == 1 else f"{number} times tasks sleep"
            return f"nothing surely hangs; {some} uninterruptibly this moment: {self.findings[0].text}"
        more = len(self.findings) - 1
        return self.findings[0].text + (f"; {more} more finding{'s' * (more != 1)}" if more else "")


@dataclass
class _Case:
    prog: Program
    stacks: Stacks
    waits: tuple[Wait, ...]
    spins: tuple[Spin, ...]
    queues: tuple[RunQueue, ...]
    rows: tuple[TaskRow, ...]
    told: set[int] = field(default_factory=set)  # pids that a finding has named as waiters


def investigate(prog: Program) -> Investigation:
    """Look at all tasks and CPUs. Raises FaultError or LookupError where the memory makes no sense."""
    began = time.monotonic()
    stacks = Stacks(prog)
    case = _Case(prog, stacks, waits(prog, stacks), spins(prog, stacks), runqueues(prog), ps(prog))
    looks: tuple[Callable[[_Case], Iterator[Finding]], ...] = (
        _deadlocks,
        _lost,
        _spinlocks,
        _kept,
        _stalls,
        _held,
        _blocked,
    )
    found = [one for look in looks for one in look(case)]
    found.sort(key=lambda one: (not one.sure, _ORDER.index(one.kind)) if one.kind != "blocked" else (True, 99))
    took = round(time.monotonic() - began, 3)
    return Investigation(about(prog), tuple(found), case.waits, _cpus(case), len(case.rows), took)


# A circle of tasks each of which waits for a lock that the next one holds.
def _deadlocks(case: _Case) -> Iterator[Finding]:
    by_task = {wait.who.address: wait for wait in case.waits if wait.lock and wait.lock.holder}
    seen: set[int] = set()
    for start in by_task:
        path: list[int] = []
        at = start
        while at in by_task and at not in path and at not in seen and len(path) < _MOST_CHAIN:
            path.append(at)
            at = _holder(by_task[at]).address
        if at in path:
            circle = [by_task[one] for one in path[path.index(at) :]]
            yield _circle(case, circle)
        seen.update(path)


def _circle(case: _Case, circle: Sequence[Wait]) -> Finding:
    parts, evidence = [], []
    for wait in circle:
        lock = _lock(wait)
        parts.append(f"{wait.who} waits for {lock}, which {lock.holder} holds")
        evidence.append(f"{wait.who} in {wait.function}")
        case.told.add(wait.who.pid)
    first = _lock(circle[0])
    sure = all(_lock(wait).surely for wait in circle)
    how = "deadlock" if len(circle) > 1 else "deadlock with itself"
    waiters = tuple(str(wait.who) for wait in circle)
    return Finding(
        "deadlock", f"{how}: {'; '.join(parts)}", sure, str(first), str(first.holder), waiters, tuple(evidence)
    )


# A lock that is free, or a completion that is done, for which a task sleeps nevertheless.
def _lost(case: _Case) -> Iterator[Finding]:
    for lock, waiting in _by_lock(case.waits):
        if not lock.free or not waiting:
            continue
        first = next((wait for wait in waiting if lock.waiters and wait.who.address == lock.waiters[0].address), None)
        if first is None:
            continue
        case.told.update(wait.who.pid for wait in waiting)
        free = lock.detail if lock.kind in ("completion", "semaphore") else "nobody holds it"
        text = f"a wake-up was lost: {first.who} sleeps for {lock}, though {free}"
        sure = about(case.prog).still
        where = tuple(f"{wait.who} in {wait.function}" for wait in waiting)
        yield Finding("lost-wakeup", text, sure, str(lock), "", tuple(str(wait.who) for wait in waiting), where)


def _spinlocks(case: _Case) -> Iterator[Finding]:
    by_lock: dict[int, list[Spin]] = {}
    for spin in case.spins:
        by_lock.setdefault(spin.address or -spin.cpu - 1, []).append(spin)
    for spinning in by_lock.values():
        first = spinning[0]
        waiters = tuple(f"{one.who} on CPU {one.cpu}" for one in spinning)
        where = [f"CPU {one.cpu} spins in {one.function}, interrupts {_on(one.interrupts)}" for one in spinning]
        case.told.update(one.who.pid for one in spinning)
        if not first.address:
            text = f"{', '.join(waiters)} spins for a lock that could not be found, in {first.function}"
            yield Finding("spinlock", text, False, "", "", waiters, tuple(where))
            continue
        if not first.holders:
            text = f"{', '.join(waiters)} spins for {first}; who holds it was not found"
            yield Finding("spinlock", text, False, str(first), "", waiters, tuple(where))
            continue
        holder = first.holders[0]
        itself = any(one.who == holder.who for one in spinning)
        place = f"on CPU {holder.cpu}" if holder.cpu is not None else "which was taken off its CPU"
        off = " with interrupts off" if holder.interrupts is False else ""
        text = f"{', '.join(waiters)} spins for {first}, which {holder.who} {place} holds{off}, in {holder.function}"
        if itself:
            text = f"{holder.who} on CPU {holder.cpu} spins for {first}, which it seems to hold itself{off}"
        where += [f"{one.who}: {one.why}" for one in first.holders]
        yield Finding("spinlock", text, len(first.holders) == 1, str(first), str(holder.who), waiters, tuple(where))


# A CPU that takes no interrupts for long: its clock has not been ticked on.
def _kept(case: _Case) -> Iterator[Finding]:
    holders = {one.who.address for spin in case.spins for one in spin.holders}
    for rq in case.queues:
        registers = case.stacks.cpus.get(rq.cpu)
        if registers is None or registers.user or registers.interrupts or registers.halted or rq.idle:
            continue
        if rq.behind < _NO_TICK or rq.current.address in holders or rq.current.pid in case.told:
            continue
        stack = case.stacks.of_cpu(rq.cpu)
        where = str(stack.calls[0]) if stack.calls else hex(registers.ip)
        text = f"CPU {rq.cpu} runs {rq.current} with interrupts off in {where}, for {rq.behind:.0f} s or more"
        calls = tuple(str(call) for call in stack.calls[:8])
        yield Finding("interrupts-off", text, True, "", str(rq.current), (), calls)


# Tasks that could run and get no CPU; under sched_ext the scheduler is asked where they are.
def _stalls(case: _Case) -> Iterator[Finding]:
    waited = {row.who.pid: (row.waited, str(row.who)) for row in case.rows if row.waited is not None}
    scheduler, places = _scheduler(case)
    waited |= {pid: (seconds, who) for pid, (seconds, who, _) in places.items()}
    late = sorted((pid for pid, (seconds, _) in waited.items() if seconds >= _LONG), key=lambda pid: -waited[pid][0])
    late = [pid for pid in late if pid not in case.told]
    if not late:
        return
    waiters = tuple(f"{waited[pid][1]} {waited[pid][0]:.1f} s" for pid in late)
    seconds, worst = waited[late[0]]
    text = f"{worst} has been runnable for {seconds:.1f} s without a CPU"
    others = len(late) - 1
    text += f", {others} more as well" * bool(others)
    told = [places[pid][2] for pid in late if pid in places]
    if told:
        text += f"; {told[0]}"
    busy = [rq for rq in case.queues if not rq.idle]
    where = [f"CPU {rq.cpu} runs {rq.current}, {rq.runnable} runnable" for rq in busy] or ["all CPUs are idle"]
    yield Finding("scheduler-stall", text, True, "", scheduler, waiters, (*told[1:], *where))


# The scheduler's name; of the tasks that wait in it the seconds, who, and where, by pid.
def _scheduler(case: _Case) -> tuple[str, dict[int, tuple[float, str, str]]]:
    from kernloop.sched.live.look import Look  # what only a guest with a scheduler takes

    try:
        seen = Look(case.prog, 64).seen()
    except (LookupError, FaultError):
        return "", {}
    if not seen.schedulers:
        return "", {}
    name = seen.schedulers[0].name
    places = {}
    for task in seen.off_queue:
        one = f"{task.comm}[{task.pid}]"
        has = (
            f"the scheduler {name} has {one} and put it on no DSQ"
            if task.held == "scheduler"
            else f"{one} is on no DSQ"
        )
        places[task.pid] = (task.waiting or 0.0, one, has)
    for queue in seen.queues:
        for task in queue.tasks:
            one = f"{task.comm}[{task.pid}]"
            has = f"{one} waits on {queue.kind} DSQ {queue.name or queue.id} of {name}"
            places[task.pid] = (task.waiting or 0.0, one, has)
    return name, places


# The rest of the locks: who holds one for which others sleep, and what the holder does meanwhile.
def _held(case: _Case) -> Iterator[Finding]:
    sleeping = {wait.who.address: wait for wait in case.waits}
    for lock, waiting in _by_lock(case.waits):
        left = [wait for wait in waiting if wait.who.pid not in case.told]
        if not left or lock.free:
            continue
        case.told.update(wait.who.pid for wait in left)
        waiters = tuple(str(wait.who) for wait in left)
        some = f"{waiters[0]} and {len(waiters) - 1} more wait" if len(waiters) > 1 else f"{waiters[0]} waits"
        where = [f"{wait.who} in {wait.function}" for wait in left]
        if lock.holder is None:
            yield Finding(
                "blocked", f"{some} for {lock}, {lock.detail or 'not done'}", True, str(lock), "", waiters, tuple(where)
            )
            continue
        doing = _doing(case, lock.holder, sleeping)
        held = "holds" if lock.surely else "took it last, and may hold" if lock.kind == "semaphore" else "may hold"
        text = f"{some} for {lock}, which {lock.holder} {held}{doing}"
        yield Finding("lock-held", text, lock.surely, str(lock), str(lock.holder), waiters, tuple(where))


def _doing(case: _Case, holder: Who, sleeping: dict[int, Wait]) -> str:
    if wait := sleeping.get(holder.address):
        what = str(wait.lock) if wait.lock else wait.what
        return f"; it sleeps in {wait.function}" + (f" for {what}" if what else "")
    task = Object(case.prog, "struct task_struct *", holder.address)
    stack = case.stacks.of(task)
    return f"; it is in {stack.calls[0]}" if stack.calls else ""


# Who sleeps without being interruptible for what is no lock.
def _blocked(case: _Case) -> Iterator[Finding]:
    rows = {row.who.address: row for row in case.rows}
    for wait in case.waits:
        if wait.lock or wait.state != "D" or wait.who.pid in case.told:
            continue
        row = rows.get(wait.who.address)
        ago = f", for {row.since:.0f} s" if row and row.since is not None and row.since >= 1 else ""
        what = f" for {wait.what}" if wait.what else ""
        text = f"{wait.who} sleeps uninterruptibly{what} in {wait.function}{ago}"
        if wait.what.startswith("wait queue"):
            text += "; nothing but its condition and a wake-up ends that"
        yield Finding("blocked", text, True, wait.what, "", (str(wait.who),), tuple(map(str, wait.stack.calls[:8])))


def _by_lock(found: Sequence[Wait]) -> list[tuple[Lock, list[Wait]]]:
    locks: dict[int, tuple[Lock, list[Wait]]] = {}
    for wait in found:
        if wait.lock is not None:
            locks.setdefault(wait.lock.address, (wait.lock, []))[1].append(wait)
    return list(locks.values())


def _cpus(case: _Case) -> tuple[CpuState, ...]:
    found = []
    for rq in case.queues:
        registers = case.stacks.cpus.get(rq.cpu)
        user = bool(registers and registers.user)
        interrupts = registers.interrupts if registers else None
        stack = case.stacks.of_cpu(rq.cpu)
        found.append(CpuState(rq.cpu, rq.current, rq.idle, user, interrupts, rq.runnable, rq.behind, stack))
    return tuple(found)


def _lock(wait: Wait) -> Lock:
    assert wait.lock is not None
    return wait.lock


def _holder(wait: Wait) -> Who:
    holder = _lock(wait).holder
    assert holder is not None
    return holder


def _on(interrupts: bool) -> str:
    return "on" if interrupts else "off"
