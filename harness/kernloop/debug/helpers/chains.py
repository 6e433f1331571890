# SPDX-License-Identifier: Apache-2.0
"""Who waits for whom: from each task that sleeps for a lock over its holder, and what that waits for, to the end."""

from __future__ import annotations

from dataclasses import dataclass

from drgn import Object, Program

from kernloop.debug.helpers.spins import Holder, holders
from kernloop.debug.helpers.tasks import Who, state_of
from kernloop.debug.helpers.waits import KINDS, Lock, Wait, lock_at, waits
from kernloop.debug.stacks import Stacks, on_cpu

__all__ = ["Chain", "chains", "who_holds"]

_MOST = 64
# The type of a lock, or that without its typedef, is the kind of its row.
_SPINLOCKS = ("spinlock_t", "raw_spinlock_t", "struct spinlock", "struct raw_spinlock", "struct qspinlock")
_TYPES = {
    "struct mutex": "mutex",
    "struct ww_mutex": "ww_mutex",
    "struct rw_semaphore": "rwsem",
    "struct semaphore": "semaphore",
    "struct completion": "completion",
}


@dataclass(frozen=True)
class Chain:
    """`steps` are sentences, from `who` to whom it all waits for; `end` says what the last one is: "deadlock", "runs",
    "sleeps", "unknown" (the lock does not name its holder) or "free" (nobody has the lock)."""

    who: Who
    steps: tuple[str, ...]
    end: str


def chains(prog: Program, stacks: Stacks) -> tuple[Chain, ...]:
    """The longest first."""
    by_task = {wait.who.address: wait for wait in waits(prog, stacks)}
    found = [_chain(prog, by_task, wait) for wait in by_task.values() if wait.lock]
    return tuple(sorted(found, key=lambda one: -len(one.steps)))


def who_holds(prog: Program, stacks: Stacks, lock: object, kind: str = "") -> Lock | tuple[Holder, ...]:
    """Who holds `lock`: an object of the kernel, a pointer to one, or a variable's name or an address with its `kind`
    (mutex, ww_mutex, rwsem, semaphore, completion, spinlock). A spinlock does not say: of it whoever seems to.

    Raises LookupError, ValueError for what is no lock.
    """
    if isinstance(lock, str):
        try:
            lock = prog[lock]
        except LookupError:
            lock = prog.symbol(str(lock)).address
    if isinstance(lock, Object):
        pointer = lock.type_.kind.name == "POINTER"
        type_ = (lock.type_.type if pointer else lock.type_).unqualified().type_name()
        kind = kind or ("spinlock" if type_ in _SPINLOCKS else _TYPES.get(type_, ""))
        lock = lock.value_() if pointer else lock.address_
    if kind not in (*KINDS, "spinlock") or not isinstance(lock, int):
        raise ValueError(f"of which kind is the lock? {' '.join(KINDS)} spinlock")
    return holders(prog, stacks, lock) if kind == "spinlock" else lock_at(prog, kind, lock)


def _chain(prog: Program, by_task: dict[int, Wait], first: Wait) -> Chain:
    steps: list[str] = []
    seen = set()
    at: Wait | None = first
    end = "unknown"
    while at is not None and at.lock is not None and len(steps) < _MOST:
        seen.add(at.who.address)
        holder = at.lock.holder
        held = f", which {holder} {'holds' if at.lock.surely else 'may hold'}" if holder else ""
        steps.append(f"{at.who} waits for {at.lock}{held}, in {at.function}")
        if holder is None:
            end = "free" if at.lock.free else "unknown"
            break
        if holder.address in seen:
            end = "deadlock"
            break
        at = by_task.get(holder.address)
        if at is None or at.lock is None:
            task = Object(prog, "struct task_struct *", holder.address)
            running = on_cpu(task) or state_of(task) == "R"
            end = "runs" if running else "sleeps"
            what = f" for {at.what}" if at is not None and at.what else ""
            where = f" in {at.function}" if at is not None else ""
            steps.append(f"{holder} {end}{what}{where}")
    return Chain(first.who, tuple(steps), end)
