# SPDX-License-Identifier: Apache-2.0
"""Who waits for which lock, and who holds it: of tasks that sleep on mutexes, rwsems, semaphores and completions.

A lock is taken for a task's only when the lock's own queue has the task: no debugging option is needed, and no pointer
that merely looks like one is believed. Where to look for it, task->blocked_on and task->blocker say where there are
such (include/linux/hung_task.h), else the words of the task's stack.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from drgn import FaultError, Object, Program, container_of

from kernloop.debug.code import Code, code_of
from kernloop.debug.helpers.tasks import Who, every_task, state_of, who
from kernloop.debug.orc import Call, Stack
from kernloop.debug.stacks import Stacks, on_cpu
from kernloop.debug.walk import Broken, entries

__all__ = ["KINDS", "Lock", "Wait", "lock_at", "named", "wait_queue", "waits"]

_KERNEL = 0xFFFF800000000000
_MOST_WAITERS = 1024
_MOST_WORDS = 512
# How far above the lock's function its callers' frames, which have its address, are looked through.
_CALLERS = 6


@dataclass(frozen=True)
class _Kind:
    """A kind of lock: its type, the type of who waits and its link, where the first is, who sleeps for it."""

    name: str
    type: str
    waiter: str
    link: str
    queue: tuple[str, ...]
    functions: tuple[str, ...]


KINDS = {
    one.name: one
    for one in (
        # kernel/locking/mutex.c
        _Kind("mutex", "struct mutex", "struct mutex_waiter", "list", ("wait_list",), ("__mutex_lock", "mutex_lock")),
        # kernel/locking/ww_mutex.h: begins with its mutex
        _Kind("ww_mutex", "struct mutex", "struct mutex_waiter", "list", ("wait_list",), ("__ww_mutex", "ww_mutex")),
        # kernel/locking/rwsem.c
        _Kind(
            "rwsem",
            "struct rw_semaphore",
            "struct rwsem_waiter",
            "list",
            ("wait_list",),
            ("rwsem_down_", "down_read", "down_write", "__down_read", "__down_write"),
        ),
        # kernel/locking/semaphore.c
        _Kind(
            "semaphore",
            "struct semaphore",
            "struct semaphore_waiter",
            "list",
            ("wait_list",),
            ("___down_common", "__down_common", "__down", "down"),
        ),
        # kernel/sched/completion.c
        _Kind(
            "completion",
            "struct completion",
            "struct swait_queue",
            "task_list",
            ("wait", "task_list"),
            ("__wait_for_common", "do_wait_for_common", "wait_for_common", "wait_for_completion"),
        ),
    )
}
# More of a stack is not looked through for the function of a lock.
_DEPTH = 8
# kernel/locking/mutex.c and rwsem.c: the flags in the word of the owner.
_MUTEX_FLAGS, _RWSEM_FLAGS = 7, 3
_WRITER, _READER_BIAS = 1, 1 << 8


@dataclass(frozen=True)
class Lock:
    """`holder` is who holds it as far as the lock says; `surely` when that is certain (a rwsem knows one of its
    readers, a semaphore who took it last). `free`: nobody holds it, or the completion is done. `waiters` come in the
    order of the queue."""

    kind: str
    address: int
    name: str
    holder: Who | None
    surely: bool
    free: bool
    detail: str
    waiters: tuple[Who, ...]

    def __str__(self) -> str:
        return f"{self.kind} {self.name}" if self.name else f"{self.kind} at {self.address:#x}"


@dataclass(frozen=True)
class Wait:
    """A task that sleeps in `function`, for `lock` or, with None, for something else: `what`."""

    who: Who
    state: str
    function: str
    lock: Lock | None
    what: str
    stack: Stack


def waits(prog: Program, stacks: Stacks) -> tuple[Wait, ...]:
    """All tasks that wait for a lock, or without being interruptible for anything."""
    found = []
    locks: dict[tuple[str, int], Lock] = {}
    for task in every_task(prog):
        state = state_of(task)
        if state not in "SD" or on_cpu(task):
            continue
        try:
            stack = stacks.of(task)
            kind = _kind(stack)
            if kind is None and state != "D":
                continue
            address = _address(task, kind, stack) if kind else 0
            lock = None
            if kind and address:
                lock = locks.setdefault((kind.name, address), lock_at(prog, kind.name, address))
            what = "" if lock else _else(task, stack)
            found.append(Wait(who(task), state, _asker(stack), lock, what, stack))
        except FaultError:
            continue
    return tuple(found)


def lock_at(prog: Program, kind: str, address: int) -> Lock:
    """The lock of `kind` (a name of `KINDS`) at `address`. Raises FaultError."""
    form = KINDS[kind]
    one = Object(prog, f"{form.type} *", address)
    waiters = tuple(who(task) for task in _waiters(one, form))
    holder, surely, free, detail = _holder(one, kind)
    task = Object(prog, "struct task_struct *", holder) if holder else None
    return Lock(
        kind, address, named(code_of(prog), address), who(task) if task else None, surely, free, detail, waiters
    )


def named(code: Code, address: int) -> str:
    """The variable that a lock is or lies in, else the slab cache of the object that has it, else ""."""
    if name := code.data(address):
        return name
    from kernloop.debug.helpers.memory import slab_of

    found = slab_of(code.prog, address)
    return f"{address:#x} in {found}" if found else ""


def wait_queue(task: Object, stack: Stack) -> int:
    """The wait_queue_head whose queue a sleeping task is on by an entry on its stack (kernel/sched/wait.c), or 0."""
    prog, me = task.prog_, task.value_()
    type_ = prog.type("struct wait_queue_entry")
    code = code_of(prog)
    for at, word in _words(task, stack, len(stack.calls)):
        if word != me:
            continue
        entry = Object(prog, type_, address=at - prog.type("struct wait_queue_entry").member("private").offset)
        try:
            if not _is_code(code, entry.func.value_()):
                continue
            each, before = entry.entry.next, entry.entry.address_of_()
            for _ in range(_MOST_WAITERS):
                if each.prev.value_() != before.value_():
                    break
                other = container_of(each, type_, "entry")
                if not _is_code(code, other.func.value_()):
                    return int(container_of(each, prog.type("struct wait_queue_head"), "head").value_())
                each, before = each.next, each
        except FaultError:
            continue
    return 0


def _kind(stack: Stack) -> _Kind | None:
    for function in stack.functions[:_DEPTH]:
        for kind in KINDS.values():
            if any(function == each or function.startswith((each + "_", each + ".")) for each in kind.functions):
                return kind
            if kind.functions[0].endswith("_") and function.startswith(kind.functions[0]):
                return kind
    return None


# Who asked for the lock: the first function of the stack that is none of locking or scheduling.
_MACHINERY = ("schedule", "__schedule", "preempt_schedule", "io_schedule", "schedule_timeout", "prepare_to_")


def _asker(stack: Stack) -> str:
    return str(_asking(stack)) if stack.calls else ""


def _asking(stack: Stack) -> Call:
    known = tuple(name for kind in KINDS.values() for name in kind.functions)
    ours = (*_MACHINERY, *known, "msleep", "swait", "rt_mutex", "__rt_mutex")
    return next((call for call in stack.calls if not call.function.startswith(ours)), stack.calls[-1])


# Where the lock is that has `task` in its queue, 0 when it is not found.
def _address(task: Object, kind: _Kind, stack: Stack) -> int:
    # What lies on the task's own stack below who asked is a register that was saved there, and no lock.
    below = range(task.thread.sp.value_(), _asking(stack).sp if stack.calls else 0)
    for address in _candidates(task, kind, stack):
        if address < _KERNEL or address & 3 or address in below:
            continue
        lock = Object(task.prog_, f"{kind.type} *", address)
        try:
            if any(one.value_() == task.value_() for one in _waiters(lock, kind)):
                return address
        except (FaultError, Broken):
            continue
    return 0


def _candidates(task: Object, kind: _Kind, stack: Stack) -> Iterator[int]:
    for member in ("blocked_on", "blocker"):
        try:
            yield task.member_(member).value_() & ~3
        except (LookupError, AttributeError):
            continue
    depth = next((n for n, name in enumerate(stack.functions) if name.startswith(kind.functions)), 0)
    seen = set()
    for _, word in _words(task, stack, depth + _CALLERS):
        if word not in seen:
            seen.add(word)
            yield word


# The words of a sleeping task's stack, with where each is, up to the frame of the `depth`-th call.
def _words(task: Object, stack: Stack, depth: int) -> list[tuple[int, int]]:
    begin = task.thread.sp.value_()
    end = stack.calls[min(depth, len(stack.calls) - 1)].sp if stack.calls else begin
    size = min(max(end - begin, 0) + 64, 8 * _MOST_WORDS)
    top = task.stack.value_() + (16 << 10)
    size = min(size, max(top - begin, 0)) & ~7
    data = task.prog_.read(begin, size) if size else b""
    return [(begin + 8 * place, word) for place, (word,) in enumerate(struct.iter_unpack("<Q", data))]


# The tasks in the queue of a lock. Since 7.x it names the first, before it has a list's head.
def _waiters(lock: Object, kind: _Kind) -> Iterator[Object]:
    prog = lock.prog_
    if _has(lock, "first_waiter"):
        first = lock.first_waiter
        at = first
        for _ in range(_MOST_WAITERS):
            if not at:
                return
            yield at.task
            at = container_of(at.member_(kind.link).next, prog.type(kind.waiter), kind.link)
            if at.value_() == first.value_():
                return
        raise Broken
    head = lock
    for member in kind.queue:
        head = head.member_(member)
    for one in entries(head, kind.waiter, kind.link, _MOST_WAITERS):
        yield one.task


# Address of the holder's task_struct or 0; whether it surely is; whether the lock is free; a word more.
def _holder(lock: Object, kind: str) -> tuple[int, bool, bool, str]:
    if kind in ("mutex", "ww_mutex"):
        owner = lock.owner.counter.value_() & (1 << 64) - 1
        return owner & ~_MUTEX_FLAGS, True, not owner & ~_MUTEX_FLAGS, ""
    if kind == "rwsem":
        owner = lock.owner.counter.value_() & (1 << 64) - 1
        count = lock.count.counter.value_()
        readers = (count & (1 << 63) - 1) // _READER_BIAS
        if count & _WRITER:
            return owner & ~_RWSEM_FLAGS, True, False, "held for writing"
        # A reader notes itself; it does not take that back when it is not the last (kernel/locking/rwsem.c).
        return owner & ~_RWSEM_FLAGS if readers else 0, False, not readers, f"{readers} readers" if readers else ""
    if kind == "semaphore":
        count = lock.count.value_()
        last = lock.last_holder.value_() if _has(lock, "last_holder") else 0
        return (0 if count else last), False, count > 0, f"count {count}"
    done = lock.done.value_()
    return 0, False, done > 0, f"done is {done}"


def _else(task: Object, stack: Stack) -> str:
    head = wait_queue(task, stack)
    if head:
        name = named(code_of(task.prog_), head)
        return f"wait queue {name or hex(head)}"
    if any(name.startswith(("io_schedule", "folio_wait", "blk_", "bit_wait_io")) for name in stack.functions[:6]):
        return "I/O"
    if any(name.startswith(("schedule_timeout", "msleep", "schedule_hrtimeout")) for name in stack.functions[:6]):
        return "a time to pass"
    return ""


def _has(pointer: Object, member: str) -> bool:
    return bool(pointer.type_.type.has_member(member))


# A function begins there.
def _is_code(code: Code, address: int) -> bool:
    return address > 0 and code.function(address)[0] == address
