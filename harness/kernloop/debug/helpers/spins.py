# SPDX-License-Identifier: Apache-2.0
"""CPUs that spin for a lock, and who holds it: a spinlock does not say, so who does is found by what refers to it.

A CPU that spins has the lock's address in a register. Its holder is a CPU, or a task that was taken off one, whose
stack has the address in a word, or whose functions on the stack refer to it in their code.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from drgn import FaultError, Object, Program

from kernloop.debug.code import Code, code_of
from kernloop.debug.helpers.tasks import Who, every_task, who
from kernloop.debug.helpers.waits import named
from kernloop.debug.orc import Call, Stack
from kernloop.debug.registers import INTERRUPTS, Registers
from kernloop.debug.stacks import Stacks, on_cpu

__all__ = ["Holder", "Spin", "holders", "spins"]

# kernel/locking/qspinlock.c, arch/x86/include/asm/qspinlock.h, kernel/locking/qrwlock.c
_SPINNERS = (
    "native_queued_spin_lock_slowpath",
    "queued_spin_lock_slowpath",
    "__pv_queued_spin_lock_slowpath",
    "resilient_queued_spin_lock_slowpath",
    "queued_read_lock_slowpath",
    "queued_write_lock_slowpath",
    "virt_spin_lock",
)
# kernel/locking/spinlock.c; who is in it alone takes a lock that is free.
_LOCKERS = (*_SPINNERS, "_raw_spin_lock", "_raw_read_lock", "_raw_write_lock")
# Who asks the slow path: the argument's register first, then where compilers keep it.
_ORDER = ("rdi", "rbx", "rbp", "r12", "r13", "r14", "r15", "rdx", "rcx", "rsi", "rax", "r8", "r9", "r10", "r11")
_KERNEL = 0xFFFF800000000000
_TOP = 3
_MOST_CODE = 1 << 16
_STACK = 16 << 10
_FRAMES = 12


@dataclass(frozen=True)
class Holder:
    """Who seems to hold a lock, on `cpu` (None: on none), in `function`, and `why` it is thought so."""

    who: Who
    cpu: int | None
    function: str
    interrupts: bool | None
    why: str


@dataclass(frozen=True)
class Spin:
    """`cpu` runs `who`, which spins in `function` for the lock at `address`, 0 when that was not found."""

    cpu: int
    who: Who
    function: str
    interrupts: bool
    address: int
    name: str
    value: int
    holders: tuple[Holder, ...]

    def __str__(self) -> str:
        return f"spinlock {self.name}" if self.name else f"spinlock at {self.address:#x}"


def spins(prog: Program, stacks: Stacks) -> tuple[Spin, ...]:
    """The CPUs that spin for a lock this moment."""
    found = []
    code = code_of(prog)
    for cpu, registers in sorted(stacks.cpus.items()):
        stack, registers, depth = _spinner(stacks.of_cpu(cpu), registers)
        if registers.user or depth is None:
            continue
        address = _lock(prog, stack, registers, depth)
        value = int.from_bytes(prog.read(address, 4), "little") if address else 0
        asker = next((call for call in stack.calls[depth:] if not call.function.startswith(_LOCKERS)), None)
        who_ = who(stacks.current(cpu))
        having = holders(prog, stacks, address) if address else ()
        name = named(code, address) if address else ""
        found.append(Spin(cpu, who_, str(asker or ""), registers.interrupts, address, name, value, having))
    return tuple(found)


def holders(prog: Program, stacks: Stacks, address: int) -> tuple[Holder, ...]:
    """Who seems to hold the spinlock at `address`: of running CPUs and of tasks that were taken off one.

    A CPU that spins for it is told last, when nobody else is found: it may hold it itself.
    """
    found: list[Holder] = []
    itself: list[Holder] = []
    code = code_of(prog)
    for cpu, registers in sorted(stacks.cpus.items()):
        stack = stacks.of_cpu(cpu)
        at, words, depth = _spinner(stack, registers)
        spinning = depth is not None and _lock(prog, at, words, depth) == address
        if not (evidence := _refers(prog, code, stack, registers, address)):
            continue
        call, why = evidence
        one = Holder(who(stacks.current(cpu)), cpu, str(call), registers.interrupts, why)
        (itself if spinning else found).append(one)
    if not found:
        found = [each for task in every_task(prog) if (each := _off_cpu(prog, code, stacks, task, address))]
    return tuple(found or itself)


# Only who can run was taken off a CPU: who sleeps holds no spinlock.
def _off_cpu(prog: Program, code: Code, stacks: Stacks, task: Object, address: int) -> Holder | None:
    if not task.on_rq.value_() or on_cpu(task):
        return None
    stack = stacks.of(task)
    evidence = _refers(prog, code, stack, None, address)
    return Holder(who(task), None, str(evidence[0]), None, evidence[1]) if evidence else None


# An interrupt may have come to a CPU that spins: what it saved tells what the CPU did. The innermost first, for an
# interrupt may spin as well.
def _spinner(stack: Stack, registers: Registers) -> tuple[Stack, Registers, int | None]:
    if (depth := _spinning(stack)) is not None:
        return stack, registers, depth
    for level, call in enumerate(stack.calls):
        if call.interrupted and call.registers:
            at = replace(stack, calls=stack.calls[level:])
            if (depth := _spinning(at)) is not None:
                words = {**call.registers, "rip": call.ip, "rsp": call.sp}
                return at, replace(registers, words=words, flags=registers.flags | INTERRUPTS), depth
    return stack, registers, None


def _spinning(stack: Stack) -> int | None:
    return next((n for n, name in enumerate(stack.functions[:_TOP]) if name.startswith(_SPINNERS)), None)


# The lock is what a register points to that is taken; a queued lock that is waited for has a tail or a pending bit
# besides, but for guests, whose CPUs do not queue (virt_spin_lock()).
def _lock(prog: Program, stack: Stack, registers: Registers, depth: int) -> int:
    words = [registers.words.get(name, 0) for name in _ORDER]
    begin, end = registers.sp, stack.calls[min(depth + 2, len(stack.calls) - 1)].sp
    if depth or begin < end:
        words += _stack_words(prog, begin, min(end + 64, begin + 1024))
    for word in words:
        if word >= _KERNEL and not word & 3 and _taken(prog, word):
            return word
    return 0


def _taken(prog: Program, address: int) -> bool:
    try:
        value = int.from_bytes(prog.read(address, 4), "little")
    except FaultError:
        return False
    locked, pending, cpu = value & 0xFF, value >> 8 & 0xFF, value >> 18
    return locked == 1 and pending in (0, 1) and cpu <= 1 << 13 and (value >> 16 == 0 or cpu > 0)


def _refers(
    prog: Program, code: Code, stack: Stack, registers: Registers | None, address: int
) -> tuple[Call, str] | None:
    for call in stack.calls[:_FRAMES]:
        if call.function.startswith(_SPINNERS):
            continue
        begin, end = code.function(call.ip)
        if end > begin and _in_code(prog, begin, min(end, begin + _MOST_CODE), address):
            return call, f"{call.function} on its stack refers to the lock"
    if not stack.calls:
        return None
    callers = [call for call in stack.calls if not call.function.startswith(_SPINNERS)]
    words = list(registers.words.values()) if registers else []
    words += _stack_words(prog, stack.calls[0].sp, min(stack.calls[-1].sp, stack.calls[0].sp + _STACK))
    return (callers[0], "its stack has the lock's address") if callers and address in words else None


# An address in code is an immediate of 32 bits that is extended, or relative to the next instruction.
def _in_code(prog: Program, begin: int, end: int, address: int) -> bool:
    try:
        data = prog.read(begin, end - begin)
    except FaultError:
        return False
    low = (address & 0xFFFFFFFF).to_bytes(4, "little")
    if address >= 0xFFFFFFFF80000000 and low in data:
        return True
    return any(
        begin + at + 4 + int.from_bytes(data[at : at + 4], "little", signed=True) == address
        for at in _places(data, begin, address)
    )


# Where a displacement to `address` can stand: its upper two bytes hardly change within a function, so they are looked
# for instead of each place being tried.
def _places(data: bytes, begin: int, address: int) -> Iterator[int]:
    if abs(address - begin) >= 1 << 31:
        return
    for upper in {(address - begin - place >> 16) & 0xFFFF for place in (0, len(data) + 4)}:
        wanted = upper.to_bytes(2, "little")
        at = data.find(wanted)
        while at >= 0:
            if at >= 2:
                yield at - 2
            at = data.find(wanted, at + 1)


def _stack_words(prog: Program, begin: int, end: int) -> list[int]:
    try:
        data = prog.read(begin & ~7, max(end - begin, 0) & ~7)
    except FaultError:
        return []
    return [int.from_bytes(data[at : at + 8], "little") for at in range(0, len(data), 8)]
