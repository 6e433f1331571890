# SPDX-License-Identifier: Apache-2.0
"""The locks that a task holds, asked for by task: a mutex or rwsem names its owner, and the task's stack leads to it.

With lockdep (CONFIG_LOCKDEP) the task itself has the list. Without, each word of its stack, and each address in the
code of the functions on it, is looked at: what lies there is taken for a lock when it names this very task as owner.
A spinlock names nobody; `spins` finds those that are waited for.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from drgn import FaultError, Object, Program

from kernloop.debug.code import Code, code_of
from kernloop.debug.helpers.tasks import Who, who
from kernloop.debug.helpers.waits import named
from kernloop.debug.orc import Stack

__all__ = ["Held", "held_by"]

_KERNEL = 0xFFFF800000000000
_IMAGE = 0xFFFFFFFF80000000
_STACK = 16 << 10
_MOST_CODE, _MOST_FUNCTIONS = 1 << 14, 16
_MOST_LOCKS = 48
# kernel/locking/mutex.c, rwsem.c: flags in the owner's word; a count with a writer, and with one reader.
_MUTEX_FLAGS, _RWSEM_FLAGS, _READER_OWNED = 7, 3, 1
_WRITER, _READER_BIAS = 1, 1 << 8


@dataclass(frozen=True)
class Held:
    """`how` says what tells so; a reader of a rwsem may have given it back (`sure`)."""

    who: Who
    kind: str
    name: str
    address: int
    how: str
    sure: bool

    def __str__(self) -> str:
        return f"{self.kind} {self.name}" if self.name else f"{self.kind} at {self.address:#x}"


def held_by(prog: Program, task: Object, stack: Stack) -> tuple[Held, ...]:
    """`task` is a pointer, `stack` its stack. Without lockdep there may be more."""
    recorded = _recorded(prog, task)
    return recorded if recorded is not None else tuple(_looked_for(prog, task, stack))


# struct held_lock (include/linux/lockdep_types.h); None without lockdep.
def _recorded(prog: Program, task: Object) -> tuple[Held, ...] | None:
    try:
        depth, locks = task.lockdep_depth.value_(), task.held_locks
    except AttributeError:
        return None
    code, found = code_of(prog), []
    for one in (locks[number] for number in range(min(max(depth, 0), _MOST_LOCKS))):
        try:
            map_ = one.instance
            name = map_.name.string_().decode(errors="replace") if map_ and map_.name else ""
            place = code.name(one.acquire_ip.value_(), behind=True)[0]
        except FaultError:
            continue
        found.append(Held(who(task), "lock", name, map_.value_(), f"lockdep: taken in {place}", True))
    return tuple(found)


def _looked_for(prog: Program, task: Object, stack: Stack) -> Iterator[Held]:
    me, own = task.value_(), task.stack.value_()
    code = code_of(prog)
    seen: set[int] = set()
    for address, how in _candidates(prog, code, task, stack):
        # A word of the stack, or of the task, that is the task's address is no lock's.
        near = own <= address < own + _STACK or me <= address < me + task[0].type_.size
        if address in seen or address & 7 or near:
            continue
        seen.add(address)
        try:
            first, second = struct.unpack("<QQ", prog.read(address, 16))
        except FaultError:
            continue
        kind, sure = _kind(prog, address, first, second, me)
        if kind:
            yield Held(who(task), kind, named(code, address), address, how, sure)


def _kind(prog: Program, address: int, first: int, second: int, me: int) -> tuple[str, bool]:
    if first & ~_MUTEX_FLAGS == me and _is_mutex(prog, address):
        return "mutex", True
    if second & ~_RWSEM_FLAGS == me:
        if first & _WRITER and not second & _READER_OWNED:
            return "rwsem (writing)", True
        if second & _READER_OWNED and 1 <= first // _READER_BIAS < 1 << 16 and not first & _WRITER:
            return "rwsem (reading)", False
    return "", False


# A pointer to a task lies in many structures: behind a mutex's come an empty or whole queue and a small spinlock.
def _is_mutex(prog: Program, address: int) -> bool:
    lock = Object(prog, "struct mutex *", address)
    try:
        if lock.type_.type.has_member("first_waiter"):
            first = lock.first_waiter
            return not first or first.task.value_() >= _KERNEL
        head = lock.wait_list
        return bool(head.next.prev.value_() == head.address_ and head.prev.next.value_() == head.address_)
    except (FaultError, AttributeError):
        return False


def _candidates(prog: Program, code: Code, task: Object, stack: Stack) -> Iterator[tuple[int, str]]:
    own = task.stack.value_()
    inside = [call.sp for call in stack.calls if own <= call.sp < own + _STACK]
    for word in _words(prog, min(inside, default=own + _STACK), own + _STACK):
        if word >= _KERNEL:
            yield word, "its stack has the address, the lock names it"
    saved = (one.registers.values() for one in stack.calls if one.registers)
    for word in (word for words in saved for word in words):
        if word >= _KERNEL:
            yield word, "a register of it has the address, the lock names it"
    functions = {code.function(call.ip): call for call in reversed(stack.calls[:_MOST_FUNCTIONS])}
    for (begin, end), call in functions.items():
        for word in _in_code(prog, code, begin, min(end, begin + _MOST_CODE)):
            yield word, f"{call.function} refers to it, the lock names it"


# Addresses of data that code has in it: relative to the next instruction, or 32 bits that are extended.
def _in_code(prog: Program, code: Code, begin: int, end: int) -> Iterable[int]:
    try:
        data = prog.read(begin, max(end - begin, 0))
    except FaultError:
        return ()
    image = (code.address("_sdata") or _IMAGE, code.address("_end"))
    areas = [image, *(area for module in code.modules for area in module.areas[1:])]
    found = set()
    for at in range(len(data) - 3):
        [relative] = struct.unpack_from("<i", data, at)
        for address in (begin + at + 4 + relative, relative & (1 << 64) - 1):
            if not address & 7 and any(low <= address < high for low, high in areas):
                found.add(address)
    return found


def _words(prog: Program, begin: int, end: int) -> list[int]:
    begin &= ~7
    try:
        return [word for (word,) in struct.iter_unpack("<Q", prog.read(begin, (end - begin) & ~7))]
    except FaultError:
        return []
