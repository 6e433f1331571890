# SPDX-License-Identifier: Apache-2.0
"""What to do next, given what a report says: one sentence a family.

>>> next_step.__name__
'next_step'
"""

from __future__ import annotations

from .crash import Crash

__all__ = ["next_step"]

_FAMILY = {
    "kasan": "read the stacks below `Allocated by` and `Freed by`: they say who owned the memory",
    "kfence": "KFENCE samples: run it again with CONFIG_KASAN=y to catch it every time, with both stacks",
    "kmsan": "follow `Uninit was created at` to where the memory should have been filled",
    "kcsan": "look at both accesses: a lock is missing, or READ_ONCE()/WRITE_ONCE() where the race is meant",
    "ubsan": "the line after `UBSAN:` names file, line and value: correct the computation there",
    "bad-access": "run it again with CONFIG_KASAN=y: it names the object where this only names the address",
    "warning": "read the condition at the line that the WARNING names, and how {function} got there",
    "bug": "read the assertion at the line that the report names: its condition was broken before it",
    "lockdep": "write down the chain of locks that the report lists, and take them in one order",
    "atomic-sleep": "find who disabled preemption or took a spinlock above {function}: it must not sleep there",
    "leak": "look at the error paths of {function}: one of them does not free what it allocated",
    "hang": "see who holds what the task waits for: SysRq w and l, or the backtraces of all CPUs in the log",
    "sched-ext": "kernloop verify explains the exit and shows the scheduler's dump",
}
_KIND = {
    "kernel-exit": "see what init printed before it ended: its exit code is in the message",
    "vfs": "the root file system was not found: check root=, its driver (=y or in the initramfs), and the image",
    "oom": "give the VM more memory, or look at the table of tasks that the OOM killer printed",
}


def next_step(crash: Crash) -> str:
    """What to look at or run next."""
    if crash.corrupted:
        return "the report is damaged: run it again with CONFIG_PRINTK_CALLER=y, which tells its lines from others"
    advice = _KIND.get(crash.kind) or _FAMILY.get(crash.family)
    advice = advice or "build with CONFIG_DEBUG_INFO=y and look up the line: scripts/faddr2line vmlinux FUNCTION+OFFSET"
    return advice.format(function=crash.function or "the function")
