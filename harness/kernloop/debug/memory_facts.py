# SPDX-License-Identifier: Apache-2.0
"""What the memory of a dead or hung kernel shows, for `debug triage`: who is to blame, locks, CPUs, sched_ext, log."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from drgn import FaultError, Object, Program

from kernloop.debug import whyhung, whyoops
from kernloop.debug.helpers.held import Held, held_by
from kernloop.debug.helpers.logs import dmesg
from kernloop.debug.helpers.tasks import clock, every_task, state_of, who
from kernloop.debug.orc import Call, Stack
from kernloop.debug.stacks import Stacks, cpu_of, on_cpu
from kernloop.debug.target import about, open_core, open_live
from kernloop.debug.walk import Broken
from kernloop.debug.whyhung import Finding
from kernloop.debug.whyoops import Pointed
from kernloop.errors import HarnessError
from kernloop.report.crash import Crash
from kernloop.report.lines import read_line
from kernloop.sched.live.look import look as look_at_scheduler
from kernloop.sched.live.model import Seen
from kernloop.sched.live.show import Shown
from kernloop.sched.obj.btf import BtfError
from kernloop.vm.client import VM

__all__ = ["CpuSeen", "Memory", "Suspect", "look"]

_MAKES_NO_SENSE = (FaultError, LookupError, BtfError, AttributeError, ValueError, OverflowError, Broken, OSError)
# As whyhung has them: `sh[44]`, `sh[44] on CPU 1`, `sh[44] 6.2 s`.
_WHO = re.compile(r"^(?P<comm>.*?)\[(?P<pid>\d+)\](?: on CPU \d+| [\d.]+ s)?$")
# Seconds that a task keeps its CPU, in the kernel and without a break, until that is odd.
_LONG = 2.0
_MOST_TASKS = 16
_LOG_LINES = 400
# Who is made to stop by a panic on another CPU (arch/x86/kernel/process.c, smp.c, nmi.c).
_STOPPED = ("stop_this_cpu", "crash_nmi_callback", "nmi_panic_self_stop")
_SCHEDULER = ("__schedule", "schedule", "preempt_schedule")
_SURE = ("deadlock", "lost-wakeup", "spinlock", "interrupts-off", "lock-held")


@dataclass(frozen=True)
class CpuSeen:
    """A CPU with the task that it runs. `stopped`: a panic on another CPU has stopped it, `calls` are from there on;
    `ran` the seconds since its task got it, None where nobody counts."""

    cpu: int
    task: str
    idle: bool
    user: bool
    stopped: bool
    interrupts: bool | None
    ran: float | None
    calls: tuple[str, ...]
    whole: bool


@dataclass(frozen=True)
class Suspect:
    """The task to blame and why it is thought so; `waits`: it rather suffers, and nobody else was found. `calls` begin
    below what only reports or waits."""

    task: str
    state: str
    cpu: int | None
    why: str
    sure: bool
    waits: bool
    calls: tuple[str, ...]
    whole: bool


@dataclass(frozen=True)
class Memory:
    """`source` is the file or the VM, `state` the VM's or "dump"; `types` dwarf or btf; `pointers` what the registers
    of a crash point to; `held` the locks of the tasks that matter; `sched` None for a kernel without sched_ext;
    `problems` what was not read."""

    source: str
    state: str
    bytes: int | None
    release: str
    build_id: str
    types: str
    suspect: Suspect | None
    findings: tuple[Finding, ...]
    pointers: tuple[Pointed, ...]
    held: tuple[Held, ...]
    cpus: tuple[CpuSeen, ...]
    sched: Seen | None
    sched_summary: str
    dmesg: tuple[str, ...]
    tasks: int
    problems: tuple[str, ...]


def look(
    where: Path | VM,
    crash: Crash | None,
    report: str,
    *,
    hung: bool,
    symbols: Sequence[Path] = (),
    tree: Path | None = None,
) -> Memory:
    """The memory of a vmcore or a VM; `crash` with the text of its `report` is what the console says, `hung` whether
    who keeps the machine is looked for. `symbols` are modules, `tree` is the kernel's source. Raises HarnessError.
    """
    with contextlib.ExitStack() as stack:
        try:
            if isinstance(where, VM):
                prog = stack.enter_context(open_live(where, hold=True, files=symbols))
            else:
                prog = open_core(where, files=symbols)
                if symbols and about(prog).vmlinux is None:
                    prog = open_core(where)
            return _Look(prog, tree, where, crash, report, hung).all()
        except Exception as error:
            if not _of_damage(error):
                raise
            raise HarnessError(f"it makes no sense: {error}", hint="is the dump whole?") from None


class _Look:
    def __init__(
        self, prog: Program, tree: Path | None, where: Path | VM, crash: Crash | None, report: str, hung: bool
    ) -> None:
        self.prog, self.tree, self.where = prog, tree, where
        self.crash, self.report, self.hung = crash, report, hung
        self.stacks = Stacks(prog)
        self.problems: list[str] = []

    def all(self) -> Memory:
        target = about(self.prog)
        findings: tuple[Finding, ...] = ()
        tasks = 0
        with self._told("locks and waits"):
            found = whyhung.investigate(self.prog)
            findings, tasks = found.findings, found.tasks
        cpus: tuple[CpuSeen, ...] = ()
        with self._told("the CPUs"):
            now = clock(self.prog)
            cpus = tuple(self._cpu(cpu, now) for cpu in sorted(self.stacks.cpus))
        suspect, task = None, None
        with self._told("the task to blame"):
            suspect, task = self._suspect(findings, cpus)
        pointers: tuple[Pointed, ...] = ()
        if self.crash and not self.hung:
            with self._told("what the registers point to"):
                registers = whyoops.registers_in(self.report)
                pointers = whyoops.investigate(self.prog, self.crash, registers).pointers
        held: tuple[Held, ...] = ()
        with self._told("the locks that are held"):
            held = tuple(self._held(task, findings))
        seen, summary = self._scheduler()
        log: tuple[str, ...] = ()
        with self._told("the kernel's log"):
            log = tuple(self._log())
        types = "dwarf" if target.vmlinux else "btf"
        problems = tuple(self.problems)
        size = self.where.stat().st_size if isinstance(self.where, Path) else None
        source = target.name if isinstance(self.where, VM) else str(self.where)
        facts = (source, target.state, size, target.release, target.build_id, types)
        return Memory(*facts, suspect, findings, pointers, held, cpus, seen, summary, log, tasks, problems)

    # What is damaged in one place need not be elsewhere.
    @contextlib.contextmanager
    def _told(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if not _of_damage(error):
                raise
            self.problems.append(f"{what}: {error}")

    def _cpu(self, cpu: int, now: int) -> CpuSeen:
        registers, task = self.stacks.cpus[cpu], self.stacks.current(cpu)
        stack = self.stacks.of_cpu(cpu)
        idle = task.pid.value_() == 0
        calls, stopped = _before_stop(stack)
        if self.crash and self.crash.function and not stopped:
            calls = _from(calls, self.crash.function)
        ran = self._ran(task, now)
        # Where the panic has stopped it, its registers no longer say so.
        interrupts = None if stopped else registers.interrupts
        user = registers.user or (stopped and not calls)
        lines = tuple(self._line(call) for call in calls)
        return CpuSeen(cpu, str(who(task)), idle, user, stopped, interrupts, ran, lines, stack.whole)

    # Seconds since it got its CPU; without CONFIG_SCHED_INFO those that were accounted since (kernel/sched/fair.c).
    def _ran(self, task: Object, now: int) -> float | None:
        with contextlib.suppress(AttributeError):
            return float(max(now - task.sched_info.last_arrival.value_(), 0)) / 1e9
        with contextlib.suppress(AttributeError):
            return float(max(task.se.sum_exec_runtime.value_() - task.se.prev_sum_exec_runtime.value_(), 0)) / 1e9
        return None

    # `function+0x12 [module] file:line`; the line where the kernel was built here.
    def _line(self, call: Call) -> str:
        if about(self.prog).vmlinux is None:
            return str(call)
        try:
            places = self.prog.source_location(call.ip if call.interrupted else call.ip - 1)
            place = next(iter(places))
            return f"{call} {_in_tree(str(place.filename), self.tree)}:{place.line}"
        except (LookupError, StopIteration, AttributeError):
            return str(call)

    def _suspect(self, findings: Sequence[Finding], cpus: Sequence[CpuSeen]) -> tuple[Suspect | None, Object | None]:
        crash = self.crash
        for pid, why, sure, waits in self._blamed(findings, cpus):
            task = next((one for one in every_task(self.prog) if one.pid.value_() == pid), None)
            if task is None:
                continue
            stack = self.stacks.of(task)
            calls, stopped = _before_stop(stack)
            calls = _from(calls, crash.function) if crash and crash.function else calls
            if not stopped and (crash is None or self.hung):
                calls = _without_scheduler(calls)
            cpu = cpu_of(task) if on_cpu(task) else None
            state = state_of(task)
            lines = tuple(self._line(call) for call in calls)
            return Suspect(str(who(task)), state, cpu, why, sure, waits, lines, stack.whole), task
        if crash is not None and crash.pid is not None:
            frames = tuple(frame.function for frame in crash.frames if frame.reliable)
            who_ = f"{crash.comm}[{crash.pid}]"
            return Suspect(who_, "X", None, "the report names it; it has ended since", True, False, frames, True), None
        return None, None

    # Pids, the likeliest first.
    def _blamed(self, findings: Sequence[Finding], cpus: Sequence[CpuSeen]) -> Iterator[tuple[int, str, bool, bool]]:
        crash = self.crash
        if crash is not None and crash.pid is not None and not self.hung:
            yield crash.pid, "the report names it", True, False
            return
        named = [(one, _pid(one.holder) or _pid(next(iter(one.waiters), ""))) for one in findings]
        for one, pid in named:
            if pid is not None and one.kind in _SURE:
                yield pid, one.text, one.sure, one.kind == "lost-wakeup"
        busy = [cpu for cpu in cpus if not cpu.idle and not cpu.user and (cpu.ran or 0) >= _LONG]
        for cpu in sorted(busy, key=lambda cpu: (cpu.interrupts is not False, -(cpu.ran or 0))):
            where = f" in {cpu.calls[0]}" if cpu.calls else ""
            if (pid := _pid(cpu.task)) is not None:
                yield pid, f"it has kept CPU {cpu.cpu} for {cpu.ran:.0f} s, now{where}", cpu.interrupts is False, False
        for one, pid in named:
            if pid is not None and one.kind not in _SURE:
                yield pid, one.text, one.sure, True
        for cpu in cpus:
            if cpu.user and not cpu.idle and (pid := _pid(cpu.task)) is not None:
                yield pid, f"it computes in user space on CPU {cpu.cpu}", False, False
        if crash is not None and crash.pid is not None:
            yield crash.pid, "the report names it", True, False
        # The youngest program is the one that init waits for, or its child.
        programs = [task.pid.value_() for task in every_task(self.prog) if task.mm and task.pid.value_() > 1]
        if programs:
            yield max(programs), "everybody waits; it is the youngest program", False, True

    def _held(self, suspect: Object | None, findings: Sequence[Finding]) -> Iterator[Held]:
        tasks = {one.value_(): one for one in ([suspect] if suspect is not None else [])}
        for cpu in self.stacks.cpus:
            current = self.stacks.current(cpu).read_()
            if current.pid.value_():
                tasks.setdefault(current.value_(), current)
        pids = {_pid(name) for one in findings for name in (one.holder, *one.waiters)}
        for task in every_task(self.prog):
            if len(tasks) >= _MOST_TASKS:
                break
            if task.pid.value_() in pids or state_of(task) == "D":
                tasks.setdefault(task.value_(), task)
        for task in tasks.values():
            yield from held_by(self.prog, task, self.stacks.of(task))

    def _scheduler(self) -> tuple[Seen | None, str]:
        try:
            seen = look_at_scheduler(self.prog, most_tasks=8)
        except LookupError:
            return None, "the kernel has no sched_ext"
        except Exception as error:
            if not _of_damage(error):
                raise
            self.problems.append(f"sched_ext: {error}")
            return None, ""
        target = about(self.prog)
        shown = Shown("", target.state, target.release, True, False, 0.0, seen, ())
        before = f"; {seen.enable_seq} were loaded before" if seen.enable_seq and not seen.schedulers else ""
        return seen, shown.summary + before

    # What is no part of the report: that is told by itself.
    def _log(self) -> Iterator[str]:
        told = {read_line(line).text.strip() for line in self.report.splitlines()}
        for line in dmesg(self.prog, count=_LOG_LINES):
            if line.partition("] ")[2].strip() not in told:
                yield line


# What drgn has no class for, such as a page that cannot be unpacked, it raises as Exception itself.
def _of_damage(error: Exception) -> bool:
    return isinstance(error, _MAKES_NO_SENSE) or type(error) is Exception


def _in_tree(file: str, tree: Path | None) -> str:
    path = Path(file)
    return str(path.relative_to(tree)) if tree and path.is_relative_to(tree) else file.removeprefix("./")


def _pid(text: str) -> int | None:
    found = _WHO.match(text)
    return int(found["pid"]) if found else None


# What a CPU did when another's panic has stopped it.
def _before_stop(stack: Stack) -> tuple[tuple[Call, ...], bool]:
    if not any(name.startswith(_STOPPED) for name in stack.functions[:4]):
        return stack.calls, False
    interrupted = [number for number, call in enumerate(stack.calls) if call.interrupted and number]
    return (stack.calls[interrupted[0] :] if interrupted else ()), True


# From the function that the report blames on: above it is what noticed and reported.
def _from(calls: Sequence[Call], function: str) -> tuple[Call, ...]:
    place = next((number for number, call in enumerate(calls) if call.function.partition(".")[0] == function), 0)
    return tuple(calls[place:])


# That a task sleeps its state says.
def _without_scheduler(calls: Sequence[Call]) -> tuple[Call, ...]:
    first = next((number for number, call in enumerate(calls) if not call.function.startswith(_SCHEDULER)), 0)
    return tuple(calls[first:])
