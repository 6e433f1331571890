# SPDX-License-Identifier: Apache-2.0
"""`sched show`: a look at a VM's scheduler with what its maps hold, and what it comes to in a sentence."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from drgn import FaultError, Object

from kernloop.debug.bpf import MapInfo, Maps, Page
from kernloop.debug.target import about, open_live
from kernloop.debug.values import Limits
from kernloop.errors import HarnessError, UsageError
from kernloop.sched.live.look import Look
from kernloop.sched.live.model import Scheduler, Seen, Task
from kernloop.sched.obj.btf import BtfError
from kernloop.vm.client import VM

__all__ = ["LONG", "Shown", "ShownMap", "contents", "show"]

# Who waits for less may be on its way from one queue to the next, or in one of the scheduler's own.
LONG = 1.0
# Types whose elements a scheduler may keep tasks in; what a value of another map means nobody else can know.
_QUEUES = ("queue", "stack", "arena")
_SECTION_LIMITS = Limits(depth=3, elements=8, values=120)


@dataclass(frozen=True)
class ShownMap:
    """A map; of a section the variables by name, None when they cannot be read."""

    info: MapInfo
    variables: dict[str, Any] | None


@dataclass(frozen=True)
class Shown:
    """`vm_state` is the VM's; `still` when the guest stood still while it was read, so that all is of one moment, and
    `held` when it did so for us; `seconds` is how long reading took."""

    vm: str
    vm_state: str
    release: str
    still: bool
    held: bool
    seconds: float
    seen: Seen
    maps: tuple[ShownMap, ...]

    @property
    def summary(self) -> str:
        seen = self.seen
        if not seen.schedulers:
            return "no scheduler is loaded" if seen.state == "disabled" else f"no scheduler; sched_ext is {seen.state}"
        root = seen.schedulers[0]
        waiting = sum(queue.count for queue in seen.queues) + sum(cpu.local.count for cpu in seen.cpus)
        parts = [f"{root.name} is {seen.state}"]
        if root.exit:
            message = f" ({root.exit.message})" * bool(root.exit.message)
            parts.append(f"it ends: {root.exit.reason or root.exit.kind}{message}")
        if root.bypass_depth:
            parts.append("it is passed over (bypass)")
        parts.append(f"{_count(waiting, 'task')} wait{'s' * (waiting == 1)} on DSQs")
        if seen.off_queue:
            first = seen.off_queue[0]
            number = len(seen.off_queue)
            parts.append(
                f"{_count(number, 'runnable task')} on no DSQ, {first.comm}[{first.pid}] for {first.waiting:.1f} s"
            )
        return "; ".join(parts)

    @property
    def next(self) -> str:
        """What to do now; "" when nothing strikes."""
        seen = self.seen
        root = next(iter(seen.schedulers), None)
        if root is None:
            return f"why the last one ended: kernloop vm console {self.vm} --grep sched_ext" if seen.enable_seq else ""
        lost = [task for task in seen.off_queue if task.held == "scheduler" and task.waiting >= LONG]
        if lost:
            return _lost(lost[0], root, self.own_queues)
        if not self.still and not all(queue.steady for queue in seen.queues):
            return "a queue changed while it was read: --hold lets the guest stand still meanwhile"
        return ""

    @property
    def own_queues(self) -> list[str]:
        """Maps made to hold tasks."""
        return [one.info.name for one in self.maps if one.info.type in _QUEUES]


def show(vm: VM, *, hold: bool = False, most_tasks: int = 32) -> Shown:
    """Raises HarnessError, also for a kernel without sched_ext."""
    with open_live(vm, hold=hold) as prog:
        target = about(prog)
        began = time.monotonic()
        try:
            one = Look(prog, most_tasks)
            seen = one.seen()
            maps = tuple(_shown(one.bpf, each) for _, each in sorted(one.maps.items()))
        except LookupError as error:
            raise _without(target.release, error) from None
        except (FaultError, BtfError) as error:
            raise _unreadable(vm, error) from None
        took = round(time.monotonic() - began, 3)
        return Shown(vm.name, target.state, target.release, target.still, target.held, took, seen, maps)


def contents(vm: VM, name: str, *, since: int = 0, count: int = 32, hold: bool = False) -> tuple[ShownMap, Page]:
    """Elements of a map of the scheduler, by its name or id. Raises UsageError for none of that name."""
    with open_live(vm, hold=hold) as prog:
        try:
            one = Look(prog, 0)
            one.seen()
            for number, each in sorted(one.maps.items()):
                info = one.bpf.info(each)
                if name in (info.name, str(number)):
                    return _shown(one.bpf, each), one.bpf.page(each, since, count)
            known = " ".join(one.bpf.info(each).name for each in one.maps.values()) or "none"
        except LookupError as error:
            raise _without(about(prog).release, error) from None
        except (FaultError, BtfError) as error:
            raise _unreadable(vm, error) from None
    raise UsageError(f"the scheduler has no map {name!r}; it has: {known}", hint=f"kernloop sched show {vm.name}")


def _shown(maps: Maps, one: Object) -> ShownMap:
    info = maps.info(one)
    variables = None
    if info.section:
        try:
            variables = maps.variables(one, _SECTION_LIMITS)
        except (FaultError, BtfError):
            variables = None
    return ShownMap(info, variables)


def _lost(task: Task, root: Scheduler, own: list[str]) -> str:
    ejected = f"; the watchdog ejects {root.name} at {root.timeout:g} s" if root.timeout else ""
    who = f"{task.comm}[{task.pid}]"
    if task.own_queue:
        return f"{who} waits in {task.own_queue}, a queue of {root.name}: does its dispatch drain it?{ejected}"
    enqueue = root.programs.get("enqueue", "ops.enqueue")
    where = f"it may be in {' or '.join(own)}; else " if own else ""
    path = f"{where}look for a path of {enqueue} that inserts it nowhere"
    return f"{root.name} has had {who} for {task.waiting:.1f} s and put it on no DSQ: {path}{ejected}"


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'s' * (number != 1)}"


def _without(release: str, error: LookupError) -> HarnessError:
    what = f"{release} has no sched_ext that can be read: {error}"
    return UsageError(what, hint="kernloop kernel list says which kernels have it; debian:newest does")


def _unreadable(vm: VM, error: Exception) -> HarnessError:
    return HarnessError(
        f"the memory of {vm.name} does not make sense: {error}",
        hint="it changed while it was read: try again, or with --hold; or it is damaged: kernloop vm console",
    )
