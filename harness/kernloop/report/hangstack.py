# SPDX-License-Identifier: Apache-2.0
"""Where a CPU or a task was, from the stack that the kernel printed of it: without what asked, locked or waited.

>>> read_stack(["RIP: 0010:queued_spin_lock_slowpath+0x8/0x10", "Call Trace:", " kl_write+0x1/0x2"]).culprit
'kl_write'
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from .frames import base_name, parse_frame
from .layers import is_waiting
from .machinery import is_machinery
from .patterns import Pattern
from .stackline import program_counter

__all__ = ["Stack", "read_stack", "waits_for"]

_PROCESS = Pattern(r"\bCPU: \d{1,6} (?:UID: \d+ )?PID: (?P<pid>\d{1,10}) Comm: (?P<comm>.+?) (?:Not tainted|Tainted: )")
# IF of x86's flags; the I of arm64's DAIF is a capital when interrupts are masked (arch/arm64/kernel/process.c).
_FLAGS = Pattern(r"\bEFLAGS: (?P<flags>[0-9a-f]{8})|\bpstate: [0-9a-f]+ \(\w{4} [Dd][Aa](?P<masked>[Ii])")
_INTERRUPTS = 0x200
_USER = Pattern(r"^(?:RIP: 00[23]3:|RIP: 002b:)")
# Interrupts on top of what was interrupted, and the idle loop below all else (kernel/sched/idle.c, arch's halts).
_INTERRUPT = (
    "asm_* *sysvec_* *common_interrupt* *apic_timer_interrupt* el1h_64_irq* irq_exit* handle_softirqs *do_softirq*"
)
_ENTRIES = ("asm_common_interrupt", "asm_sysvec_")
_IDLE = ("idle", "halt", "mwait", "wfi")
_IDLE_LOOP = frozenset({"do_idle", "cpu_startup_entry", "cpu_idle_loop"})
# What a wait is for, by a function of the stack; the first that fits counts.
_WAITS = (
    ("rtnl_lock", "rtnl_lock"),
    ("percpu_down", "a percpu rw-semaphore"),
    ("rwsem_down", "an rw-semaphore"),
    ("down_read", "an rw-semaphore"),
    ("down_write", "an rw-semaphore"),
    ("rt_mutex", "an rt-mutex"),
    ("mutex_lock", "a mutex"),
    ("mutex", "a mutex"),
    ("synchronize_", "an RCU grace period"),
    ("rcu_barrier", "RCU callbacks"),
    ("wait_for_completion", "a completion"),
    ("wait_for_common", "a completion"),
    ("flush_work", "work to end"),
    ("io_schedule", "I/O"),
    ("folio_wait", "I/O on a page"),
    ("wait_on_bit", "a bit"),
    ("futex", "a futex"),
    ("__down", "a semaphore"),
    ("hrtimer_nanosleep", "time to pass"),
    ("do_wait", "a child to end"),
    ("pipe_read", "a pipe's writer"),
    ("do_sys_poll", "a file to be ready"),
    ("ep_poll", "a file to be ready"),
)


@dataclass
class Stack:
    """`names` begin with the innermost; `at` is the program counter's, `state` kernel, user, idle or
    unknown. `over_user`: it is of an interrupt that came in user space."""

    names: list[str] = field(default_factory=list)
    at: str | None = None
    comm: str | None = None
    pid: int | None = None
    irqs_off: bool | None = None
    user: bool = False
    over_user: bool = False

    @property
    def state(self) -> str:
        if self.user:
            return "user"
        if not self.names:
            return "unknown"
        # A driver may wait until its hardware is idle.
        loops = len(self.names) < 4 or not _IDLE_LOOP.isdisjoint(self.names)
        return "idle" if loops and any(_is_idle(name) for name in self.names[:4]) else "kernel"

    @property
    def culprit(self) -> str | None:
        """The first that neither locks nor waits nor reports."""
        return next((name for name in self.names if not _passed(name)), None)

    @property
    def waiter(self) -> str | None:
        """The first that called the wait."""
        return next((name for name in self.names if not _passed(name) and not _only_waits(name)), None)

    @property
    def lock(self) -> bool:
        """Whether it spins for a lock at the top."""
        return any("spin" in name and "lock" in name for name in self.names[:3])

    def after(self, old: Stack) -> Stack:
        """This one of a CPU, unless it shows only an interrupt that came and went: `old`, of the same task, does not
        have its culprit. Then it is what was interrupted."""
        entry = next((place for place, name in enumerate(self.names) if name.startswith(_ENTRIES)), None)
        if entry is None or self is old or self.pid != old.pid or self.culprit in old.names:
            return self
        below = self.names[entry + 1 :]
        if not (below or self.over_user) or self.culprit in below:
            return self
        return replace(self, names=below, at=below[0] if below else None, irqs_off=False, user=not below)


def read_stack(lines: Sequence[str]) -> Stack:
    """What the lines below a heading show: of what was interrupted, not of the interrupt that asked for it."""
    stack = Stack()
    shown = False
    traced = False
    for line in lines:
        if process := _PROCESS.search(line):
            stack.comm, stack.pid = process["comm"], int(process["pid"])
        elif (name := program_counter(line)) is not None:
            # Registers above the trace are the CPU's own; within a trace those of what was interrupted there.
            if not traced or not shown:
                if _USER.match(line):
                    # Below a system call it is only where that came from; below an interrupt that is shown without
                    # what it interrupted, it is that.
                    if stack.names and not shown and stack.names[-1].startswith(_ENTRIES):
                        stack.names = []
                    stack.user = stack.user or not stack.names
                else:
                    stack.at = name or None
                    stack.names += [name] if name else []
                shown = shown or not traced
                # Above the trace, arm64 has its flags before the program counter.
                stack.irqs_off = None if traced else stack.irqs_off
            elif not _USER.match(line):
                stack.names += [name] if name else []
            elif stack.names and stack.names[-1].startswith(_ENTRIES):
                stack.over_user = True
        elif (flags := _FLAGS.search(line)) and stack.irqs_off is None and not _USER.match(line):
            bits = flags["flags"]
            stack.irqs_off = not int(bits, 16) & _INTERRUPTS if bits else flags["masked"] == "I"
        elif "Call Trace:" in line or "Call trace:" in line:
            traced = True
        elif not shown and ("</IRQ>" in line or "</NMI>" in line):
            stack.names, stack.at, stack.irqs_off = [], None, None
        elif (frame := parse_frame(line)) and frame.reliable:
            stack.names.append(base_name(frame.function))
    return stack


def waits_for(names: Sequence[str]) -> str:
    """What a task with this stack waits for, in words; "" where it cannot be told."""
    return next((what for part, what in _WAITS if any(part in name for name in names[:8])), "")


def _is_idle(name: str) -> bool:
    return any(word in name.split("_") for word in _IDLE)


def _passed(name: str) -> bool:
    return is_machinery(name, _INTERRUPT)


def _only_waits(name: str) -> bool:
    return is_waiting(name) or "schedule" in name or name in ("do_nanosleep", "hrtimer_nanosleep")
