# SPDX-License-Identifier: Apache-2.0
"""All that the rules look at: the object, and what each of its programs can do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

from kernloop.sched.check import calls
from kernloop.sched.check.dsq import Dsq, dsqs
from kernloop.sched.check.places import Places
from kernloop.sched.check.symbols import Sym, parts
from kernloop.sched.check.trace import Event, Trace
from kernloop.sched.check.walk import Walker
from kernloop.sched.obj.model import OpsTable, Program, SchedObject
from kernloop.sched.obj.world import World

__all__ = ["Scene", "Use", "look"]

# Instructions to walk through. At 5 to 20 us each this keeps the largest schedulers below half a second.
_ALL = 26000
_EACH = 7000
_GLANCE = 700
_FIRST = ("init", "enqueue", "select_cpu", "select_cid", "dispatch", "init_task", "cgroup_init", "stopping", "running")


@dataclass(frozen=True)
class Use:
    """One DSQ at one place, as one way came there. Not `sure`: ways were joined, and none may have had this one."""

    dsq: Dsq
    event: Event
    sure: bool


@dataclass
class Scene:
    """`traces` is keyed by program; `op_of` has what the kernel calls each as ("" for others than struct_ops)."""

    obj: SchedObject
    walker: Walker
    traces: dict[str, Trace]
    places: Places
    release: tuple[int, ...] | None = None
    own_loader: bool = False
    _uses: dict[str, list[Use]] = field(default_factory=dict)
    _alone: dict[str, Trace] = field(default_factory=dict)

    @property
    def tables(self) -> tuple[OpsTable, ...]:
        return tuple(table for table in self.obj.ops if table.type_name in ("", "sched_ext_ops", "sched_ext_ops_cid"))

    def of_op(self, *ops: str) -> Iterator[Trace]:
        """The traces of these ops."""
        return (trace for trace in self.traces.values() if trace.op in ops)

    def events(self, *kinds: str) -> list[Event]:
        """All events of these kinds, of all programs."""
        return [event for trace in self.traces.values() for event in trace.events if event.kind in kinds]

    def uses(self, *kinds: str) -> list[Use]:
        """The DSQs that all events of these kinds name."""
        found: list[Use] = []
        for kind in kinds:
            if kind not in self._uses:
                at = {"insert": 1, "insert_vtime": 1, "move": 2, "move_vtime": 2, "iterate": 1}.get(kind, 0)
                self._uses[kind] = [
                    Use(dsq, event, self.sure(event, event.args[at]))
                    for event in self.events(kind)
                    if len(event.args) > at
                    for dsq in dsqs(event.args[at], event.facts)
                ]
            found += self._uses[kind]
        return found

    def alone(self, name: str) -> Trace:
        """A look at function `name` for itself: all that it may do for any arguments."""
        if name not in self._alone:
            self._alone[name] = self.walker.alone(name)
        return self._alone[name]

    @cached_property
    def complete(self) -> bool:
        """Whether all ways of all programs were gone."""
        return all(trace.complete for trace in self.traces.values())

    def unseen(self, *kinds: str) -> bool:
        """Whether there are calls of these kinds that no way has come to, and might have."""
        if self.complete:
            return False
        seen = {event.program.name for event in self.events(*kinds)}
        return any(
            insn.call is not None
            and insn.call.kind == "kfunc"
            and calls.ROLE.get(calls.base_name(insn.call.name)) in kinds
            for name, program in self.obj.programs.items()
            if program.name not in seen and name not in seen
            for insn in program.insns
        )

    def sure(self, event: Event, value: object) -> bool:
        """Whether `value` is what `event` had on a way of its own, and not what several ways have in common."""
        if not event.joined:
            return True
        return not (isinstance(value, Sym) and any(one.kind in ("phi", "set") for one in parts(value)))

    def tuned(self, event: Event) -> bool:
        """Whether `event` is only come to with another number in .rodata than the object's: a loader's setting.

        A bool there is a mode that the scheduler has; a number is mostly for tests, as scx_qmap's stall_kernel_nth.
        """
        return any(
            not low <= sym.c <= high or (nonzero and sym.c == 0)
            for sym, (low, high, nonzero) in event.facts.items()
            if sym.kind == "ro" and isinstance(sym.c, int) and sym.b[0] != "kconfig" and sym.b[2] > 1
        )

    def asks_for(self, member: str) -> bool:
        """Whether any program reads `member`, as "task_struct.flags"."""
        return any(
            insn.core is not None and insn.core.name == member
            for program in self.obj.programs.values()
            if not program.section.startswith("fentry/bpf_scx_reg")
            for insn in program.insns
        )

    def program(self, name: str) -> Program:
        return self.obj.programs[name]


def look(
    world: World,
    places: Places,
    release: tuple[int, ...] | None,
    own_loader: bool,
) -> Scene:
    """Walk all programs of an object, the weighty ones first."""
    obj = world.obj
    walker = Walker(world, _ALL)
    ops = obj.op_programs()
    entries = sorted(ops, key=lambda name: (_FIRST.index(ops[name]) if ops[name] in _FIRST else len(_FIRST), name))
    # scx/common.bpf.h puts a probe of its own into each object.
    others = (name for name, one in obj.programs.items() if one.role == "program" and name not in ops)
    entries += [name for name in others if name != "scx_lib_init_probe"]
    traces: dict[str, Trace] = {}
    # A glance at each first: what follows enqueue shall not go without, where enqueue alone takes all that there is.
    for name in entries:
        if ops.get(name, "") in _FIRST:
            traces[name] = _walk(walker, name, ops[name], _GLANCE)
    for name in entries:
        if name not in traces or not traces[name].complete:
            traces[name] = _fuller(traces.get(name), _walk(walker, name, ops.get(name, ""), _EACH))
    for name in list(walker.callbacks):
        traces.setdefault(name, _walk(walker, name, "callback", _EACH))
    return Scene(obj, walker, traces, places, release, own_loader)


# How many ways are kept apart where they meet: many where the order of things counts.
_APART = {"enqueue": 8, "select_cpu": 8, "select_cid": 8, "dispatch": 8, "init": 4, "stopping": 2, "running": 2}


# A program that is too large for that is gone through again with ways joined at once.
def _walk(walker: Walker, name: str, op: str, steps: int) -> Trace:
    apart = _APART.get(op, 1)
    trace = walker.walk(name, op, steps, apart=apart)
    if not trace.complete and apart > 1:
        return _fuller(trace, walker.walk(name, op, steps, apart=1))
    return trace


def _fuller(before: Trace | None, now: Trace) -> Trace:
    return now if before is None or now.complete or len(now.events) > len(before.events) else before
