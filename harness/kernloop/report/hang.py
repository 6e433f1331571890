# SPDX-License-Identifier: Apache-2.0
"""A machine that hangs: which CPU spins where, which task waits for what, who holds what.

Read from what a kernel says when it is asked (SysRq l, w, t, d: drivers/tty/sysrq.c, lib/nmi_backtrace.c,
kernel/sched/core.c sched_show_task(), kernel/locking/lockdep.c debug_show_all_locks()), from what its detectors say by
themselves (kernel/watchdog.c, kernel/hung_task.c, kernel/rcu/tree_stall.h), from the panic that an NMI ends in, and,
where it says nothing, from the registers that QEMU shows.

>>> hang(["sysrq: Show backtrace of all active CPUs", "NMI backtrace for cpu 1",
...       "CPU: 1 UID: 0 PID: 44 Comm: sh Not tainted 7.3.4 #1", "RIP: 0010:kl_spin+0x8/0x10",
...       "RSP: 0018:ffffc9000016fdc0 EFLAGS: 00000002", "Call Trace:", " vfs_write+0xd0/0x320"]).summary
'CPU 1 does not leave kl_spin (sh, pid 44), with interrupts off'
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from .details import Lock, all_held
from .hangstack import Stack, read_stack, waits_for
from .lines import read_line
from .patterns import Pattern

__all__ = ["CpuSeen", "Hang", "TaskSeen", "hang", "tells_of_hang"]

# A dump of all tasks of a busy machine has some ten thousand lines.
_MAX_LINES = 60_000
_MAX_TASKS = 32

# Where the report of one CPU or task begins; what follows the last one belongs to nobody.
_BEGINS = Pattern(
    r"NMI backtrace for cpu (?P<nmi>\d{1,5})(?: skipped: idling at (?P<idle>\S{1,200}?)\+0x)?"
    r"|^(?:sysrq: )?CPU(?P<ipi>\d{1,5}):(?P<idling> backtrace skipped as idling)?$"
    r"|BUG: soft lockup - CPU#(?P<soft>\d{1,5}) stuck|hard LOCKUP on cpu (?P<hard>\d{1,5})"
    r"|NMI received for unknown reason \w{1,8} on CPU (?P<unknown>\d{1,5})"
    r"|^task:(?P<comm>.{1,15}) *+state:(?P<state>\S) .{0,60}? pid: *+(?P<pid>\d{1,10})"
    r"(?:.{0,40}? ppid: *+(?P<ppid>\d{1,10}))?"
)
_IDLES = {"idle", "idling"}
_ENDS = Pattern(
    r"^sysrq: |^Sending NMI from CPU|^Showing (?:all locks held|busy workqueues)|^After \d+ seconds, these CPUS"
)
_SILENT = Pattern(r"these CPUS still haven't responded to the NMI: (?P<cpus>[\d,-]{1,200})")
_TELLS = (
    *(b"sysrq: Show ", b"NMI backtrace for cpu ", b"NMI: Not continuing", b"BUG: soft lockup", b"hard LOCKUP"),
    *(b" blocked for more than ", b" blocked in I/O wait", b"Showing all locks held"),
)
# QEMU's `info registers -a` (target/i386/cpu-dump.c): IF is bit 9 of the flags.
_QEMU_CPU = Pattern(r"^CPU#(?P<cpu>\d{1,5})")
_QEMU_STATE = Pattern(r"^[RE]IP=(?P<ip>[0-9a-f]+) [RE]FL=(?P<flags>[0-9a-f]+) .*CPL=(?P<ring>\d) .*HLT=(?P<halted>\d)")
_INTERRUPTS = 0x200


@dataclass(frozen=True)
class CpuSeen:
    """`state` is kernel, user, idle, unknown or silent; `at` the function of the program counter, `function` the
    culprit: the first that neither locks nor reports. `lock`: it waits there for a spinlock. `moved`: it ran another
    task at the look before."""

    cpu: int
    state: str
    comm: str | None = None
    pid: int | None = None
    function: str | None = None
    at: str | None = None
    irqs_off: bool | None = None
    lock: bool = False
    frames: tuple[str, ...] = ()
    moved: bool = False


@dataclass(frozen=True)
class TaskSeen:
    """A task that does not run: `state` is its letter (D: uninterruptible), `function` who called the wait; `kernel`: a
    thread of the kernel, child of kthreadd."""

    comm: str
    pid: int
    state: str
    function: str | None = None
    waits_for: str = ""
    frames: tuple[str, ...] = ()
    kernel: bool = False


@dataclass(frozen=True)
class Hang:
    """`function`, `comm`, `pid` and `cpu` are the guilty one's, as far as it can be told; `held` all known locks."""

    summary: str
    function: str | None = None
    comm: str | None = None
    pid: int | None = None
    cpu: int | None = None
    cpus: tuple[CpuSeen, ...] = ()
    blocked: tuple[TaskSeen, ...] = ()
    held: tuple[Lock, ...] = ()


def tells_of_hang(console: bytes) -> bool:
    """Whether a console holds anything to read: a cheap test."""
    return any(words in console for words in _TELLS)


def hang(
    lines: Iterable[str], *, registers: str = "", symbol: Callable[[int], str | None] | None = None
) -> Hang | None:
    """What a console says of a hang, the last word on each CPU and task; None where it says nothing.

    `registers` is QEMU's `info registers -a`, `symbol` names an address.
    """
    cpus: dict[int, CpuSeen] = {}
    stacks: dict[int, Stack] = {}
    tasks: dict[int, TaskSeen] = {}
    plain: list[str] = []
    body: list[str] | None = None
    found: list[tuple[dict[str, str], list[str]]] = []
    for raw in lines:
        text = read_line(raw).text
        if len(plain) < _MAX_LINES:
            plain.append(text)
        if begins := _BEGINS.search(text) if ("C" in text or "task:" in text or "cpu" in text) else None:
            body = []
            found.append(({name: word for name, word in begins.groupdict().items() if word}, body))
        elif _ENDS.search(text):
            body = None
        elif body is not None:
            body.append(text)
    for words, content in found:
        if "state" in words:
            task = _task(words, read_stack(content))
            tasks[task.pid] = task
        else:
            stack, number = read_stack(content), _number(words)
            if _IDLES & words.keys():
                stack.pid = 0
            before = stacks.get(number, stack)
            cpus[number] = replace(_cpu(number, words, stack.after(before)), moved=before.pid != stack.pid)
            stacks[number] = stack
    for text in plain:
        if silent := _SILENT.search(text):
            cpus |= {cpu: CpuSeen(cpu, "silent") for cpu in _numbers(silent["cpus"]) if cpu not in cpus}
    for seen in _by_qemu(registers, symbol):
        old = cpus.get(seen.cpu)
        if old is None or old.state == "silent" or not (old.function or old.state in ("idle", "user")):
            cpus[seen.cpu] = replace(seen, comm=old.comm, pid=old.pid) if old else seen
    if not cpus and not tasks:
        return None
    return _judged(tuple(cpus[cpu] for cpu in sorted(cpus)), tuple(tasks.values()), all_held(plain))


def _task(words: dict[str, str], stack: Stack) -> TaskSeen:
    names = stack.names
    pid, kernel = int(words["pid"]), words.get("ppid") in ("0", "2")
    what = waits_for(names)
    return TaskSeen(words["comm"].strip(), pid, words["state"], stack.waiter, what, tuple(names[:16]), kernel)


def _number(words: dict[str, str]) -> int:
    return next(int(words[name]) for name in ("nmi", "ipi", "soft", "hard", "unknown") if name in words)


def _cpu(number: int, words: dict[str, str], stack: Stack) -> CpuSeen:
    if _IDLES & words.keys():
        return CpuSeen(number, "idle", at=words.get("idle"))
    return CpuSeen(
        number,
        stack.state,
        stack.comm,
        stack.pid,
        stack.culprit if stack.state == "kernel" else None,
        stack.at,
        stack.irqs_off,
        stack.lock,
        tuple(stack.names[:16]),
    )


def _numbers(text: str) -> list[int]:
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        if first.isdigit():
            found += range(int(first), min(int(last) if last.isdigit() else int(first), int(first) + 1024) + 1)
    return found


def _by_qemu(registers: str, symbol: Callable[[int], str | None] | None) -> Iterable[CpuSeen]:
    cpu = 0
    for line in registers.splitlines():
        if number := _QEMU_CPU.match(line):
            cpu = int(number["cpu"])
        elif state := _QEMU_STATE.match(line):
            where = "user" if state["ring"] == "3" else "idle" if state["halted"] == "1" else "kernel"
            name = symbol(int(state["ip"], 16)) if symbol and where == "kernel" else None
            off = not int(state["flags"], 16) & _INTERRUPTS
            yield CpuSeen(cpu, where, function=name, at=name or f"0x{state['ip']}", irqs_off=off)


# Whose fault: a CPU that does not leave the kernel, before a task that waits, before a program that computes.
def _judged(cpus: Sequence[CpuSeen], tasks: Sequence[TaskSeen], held: tuple[Lock, ...]) -> Hang:
    blocked = tuple(task for task in tasks if task.state == "D")[:_MAX_TASKS]
    kernel = sorted(
        (cpu for cpu in cpus if cpu.state == "kernel"), key=lambda cpu: (cpu.lock, not cpu.irqs_off, cpu.cpu)
    )
    # One that ran another task before works, and does not hang.
    busy = [cpu for cpu in kernel if not cpu.moved] or ([] if blocked else kernel)
    all_of_it = Hang("", cpus=tuple(cpus), blocked=blocked, held=held)
    found = partial(replace, all_of_it)
    if busy:
        first = busy[0]
        text = "; ".join([_spins(cpu) for cpu in busy[:3]] + _holders(held))
        return found(summary=text, function=first.function, comm=first.comm, pid=first.pid, cpu=first.cpu)
    if blocked:
        task = next((task for task in blocked if task.function), blocked[0])
        rest = f", and {len(blocked) - 1} more in state D" if len(blocked) > 1 else ""
        text = "; ".join([_waits(task) + rest, *_holders(held)])
        return found(summary=text, function=task.function, comm=task.comm, pid=task.pid)
    if silent := [cpu for cpu in cpus if cpu.state == "silent"]:
        numbers = ", ".join(str(cpu.cpu) for cpu in silent)
        return found(summary=f"CPU {numbers} does not even answer an NMI", cpu=silent[0].cpu)
    if unknown := [cpu for cpu in cpus if cpu.state == "unknown"]:
        text = f"CPU {unknown[0].cpu} takes an NMI and no interrupt; what it runs was not told"
        return found(summary=text, cpu=unknown[0].cpu)
    if user := [cpu for cpu in cpus if cpu.state == "user"]:
        who = f"{user[0].comm} (pid {user[0].pid})" if user[0].pid is not None else "a program"
        text = f"CPU {user[0].cpu} runs {who} in user space: it computes and does not end"
        return found(summary=text, comm=user[0].comm, pid=user[0].pid, cpu=user[0].cpu)
    # The youngest program is the one that init waits for, or its child.
    if asleep := max((task for task in tasks if not task.kernel), key=lambda task: task.pid, default=None):
        return found(summary=f"all CPUs idle; {_waits(asleep)}", comm=asleep.comm, pid=asleep.pid)
    return found(summary="all CPUs idle: everybody waits for something that does not come")


def _spins(cpu: CpuSeen) -> str:
    who = f" ({cpu.comm}, pid {cpu.pid})" if cpu.pid is not None else ""
    where = cpu.function or cpu.at or "the kernel"
    off = {True: ", with interrupts off", False: "", None: ""}[cpu.irqs_off]
    if cpu.lock:
        return f"CPU {cpu.cpu} spins for a lock in {where}{who}{off}"
    return f"CPU {cpu.cpu} does not leave {where}{who}{off}"


def _waits(task: TaskSeen) -> str:
    what = f" for {task.waits_for}" if task.waits_for else ""
    where = f" in {task.function}" if task.function else ""
    return f"{task.comm} (pid {task.pid}) waits{what}{where}"


# The locks that somebody holds, by holder; not those that are taken to look (sysrq's own RCU).
def _holders(held: Sequence[Lock]) -> list[str]:
    by: dict[tuple[str | None, int | None], list[str]] = {}
    for lock in held:
        if not lock.name.startswith("rcu_"):
            by.setdefault((lock.comm, lock.pid), []).append(lock.name)
    return [f"{comm} (pid {pid}) holds {', '.join(names[:4])}" for (comm, pid), names in list(by.items())[:3]]
