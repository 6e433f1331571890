# SPDX-License-Identifier: Apache-2.0
"""Rules about ops.dispatch: who is served first, and how much it does in one call."""

from __future__ import annotations

from kernloop.sched.check.dsq import dsqs
from kernloop.sched.check.report import Report
from kernloop.sched.check.scene import Scene
from kernloop.sched.check.symbols import Sym, Value, compute
from kernloop.sched.check.trace import Event, Trace
from kernloop.sched.obj.model import Block, Program

__all__ = ["batch", "kthreads_last"]

_DEFAULT_BATCH = 32
_KTHREAD = 0x00200000
_TAKES = ("consume", "pop")


def kthreads_last(scene: Scene, report: Report) -> None:
    """Kernel threads, or tasks of one CPU, have a queue that is served only when another one is empty."""
    served = _served_last(scene)
    if not served:
        return
    special: dict[object, str] = {}
    others: set[object] = set()
    for trace in scene.of_op("enqueue", "select_cpu"):
        for event in trace.of("insert", "insert_vtime", "push"):
            for queue in _queues(event):
                who = _who(event, queue)
                if who:
                    special.setdefault(queue, who)
                else:
                    others.add(queue)
    for queue, (event, first) in served.items():
        if queue in special and first in others and first not in special:
            report.at(
                "kthreads-last",
                "may",
                event,
                f"{special[queue]} wait here until the queue asked before is empty, which may be never",
                ((_first(scene, first) or event, "served first"),),
            )


# Where dispatch takes from `queue`.
def _first(scene: Scene, queue: object) -> Event | None:
    for trace in scene.of_op("dispatch"):
        for event in trace.of(*_TAKES):
            if queue in _queues(event):
                return event
    return None


# Queue -> where it is served, and the queue that has to be empty for that; only those for which it is always so.
def _served_last(scene: Scene) -> dict[object, tuple[Event, object]]:
    found: dict[object, tuple[Event, object]] = {}
    free: set[object] = set()
    for trace in scene.of_op("dispatch"):
        for event in trace.of(*_TAKES):
            before = [queue for sym in event.facts for queue in _emptied(sym, event)]
            for queue in _queues(event):
                earlier = [one for one in before if one != queue]
                if earlier:
                    found.setdefault(queue, (event, earlier[0]))
                else:
                    free.add(queue)
    return {queue: value for queue, value in found.items() if queue not in free}


# The queue that `sym` says was found empty.
def _emptied(sym: Sym, event: Event) -> list[object]:
    known = event.facts[sym]
    if sym.kind != "call" or not sym.c:
        return []
    if sym.a in ("scx_bpf_dsq_move_to_local", "scx_bpf_consume") and known[1] == 0:
        return [one.low for one in dsqs(sym.c[0], {}) if one.single]
    if sym.a == "bpf_map_pop_elem" and (known[2] or known[1] < 0):
        return [sym.c[0]]
    return []


def _queues(event: Event) -> list[object]:
    if event.kind in ("push", "pop"):
        return [event.args[0]]
    value = event.args[1] if event.kind in ("insert", "insert_vtime") else event.args[0]
    return [one.low for one in dsqs(value, event.facts) if one.single]


# Who comes to which queue: by what the branches have found out, and where the queue's number is computed from it.
def _who(event: Event, queue: object) -> str:
    for sym, known in event.facts.items():
        if sym.kind == "op" and sym.a == "and" and sym.c == _KTHREAD and known[2] and _flags(sym.b):
            return "kernel threads"
        if sym.kind == "fld" and sym.b == "task_struct.nr_cpus_allowed" and known[0] == known[1] == 1:
            return "tasks of a single CPU"
    value = event.args[1] if event.kind != "push" else None
    if isinstance(value, Sym) and _given(value, _KTHREAD) == queue and _given(value, 0) != queue:
        return "kernel threads"
    return ""


def _flags(value: object) -> bool:
    return isinstance(value, Sym) and value.kind == "fld" and value.b == "task_struct.flags"


# What `value` is for a task with these flags; None if it depends on something else.
def _given(value: Value, flags: int) -> int | None:
    if isinstance(value, int):
        return value
    if _flags(value):
        return flags
    if value.kind != "op":
        return None
    left, right = _given(value.b, flags), _given(value.c, flags)
    if left is None or right is None or value.a in ("eq", "lt", "slt"):
        return None
    return compute(value.a, left, right, True)


def batch(scene: Scene, report: Report) -> None:
    """More inserts in one dispatch than there are slots for."""
    limits = [table.scalars.get("dispatch_max_batch", 0) for table in scene.tables]
    limit = min((one for one in limits if isinstance(one, int) and one), default=_DEFAULT_BATCH)
    for trace in scene.of_op("dispatch"):
        if trace.of("slots"):
            continue
        counts = _counts(trace)
        for event in trace.of("insert", "insert_vtime"):
            turns = _turns(scene, trace, event) if event.site in event.prop.inserts else None
            if turns is not None and _filled_elsewhere(scene, trace):
                continue
            if turns is not None and turns > limit:
                report.at(
                    "dispatch-batch",
                    "may",
                    event,
                    f"the loop inserts up to {turns} tasks, dispatch_max_batch is {limit}, and "
                    "it never asks scx_bpf_dispatch_nr_slots()",
                )
        if counts > limit:
            last = trace.of("insert", "insert_vtime")[-1]
            report.at("dispatch-batch", "may", last, f"{counts} inserts in one call, dispatch_max_batch is {limit}")


# A queue that no program of this object fills: user space decides how much waits in it.
def _filled_elsewhere(scene: Scene, trace: Trace) -> bool:
    filled = [event.args[0] for event in scene.events("push")]
    return any(event.args[0] not in filled for event in trace.of("pop"))


# Straight-line inserts on the longest way.
def _counts(trace: Trace) -> int:
    return len({event.site for event in trace.of("insert", "insert_vtime")}) if not trace.loops else 0


# How often the loop around the insert may turn; None where it is in none, or the buffer is emptied in it.
def _turns(scene: Scene, trace: Trace, event: Event) -> int | None:
    program, index = event.program, event.insn.index
    loops = _loops(program, index)
    if not loops:
        for frame in reversed(event.frames):
            program = scene.walker.program(frame.site)
            if frame.kind == "loop":
                return _loop_count(trace, frame.site)
            loops = _loops(program, frame.site & 0xFFFFF)
            if loops:
                break
    if not loops or any(_empties(program, block) for block in loops[0]):
        return None
    return max((count for loop in loops for count in _iterations(trace, program, loop)), default=1 << 23)


def _empties(program: Program, block: int) -> bool:
    found = program.blocks[block]
    calls = [insn.call.name for insn in program.insns[found.start : found.end] if insn.call]
    return any("move_to_local" in name or "consume" in name for name in calls)


def _loop_count(trace: Trace, site: int) -> int | None:
    counts = [event.args[0] for event in trace.of("bpf_loop") if event.site == site]
    return max((one if isinstance(one, int) else 1 << 23 for one in counts), default=None)


# How often bpf_for() turns the loop of these blocks, and not one inside it. Its first test may stand before it.
def _iterations(trace: Trace, program: Program, loop: set[int]) -> list[int]:
    inside = _inside(program.blocks, loop)
    tests = [event for event in trace.of("bpf_iter_num_next") if event.program is program]
    own, inner = (
        {event.args[0] for event in tests if program.block_of[event.insn.index] in blocks}
        for blocks in (loop - inside, inside)
    )
    found = []
    for event in trace.of("bpf_iter_num_new"):
        if event.program is program and event.args[0] in own - inner:
            first, end = event.args[1], event.args[2]
            found.append(end - first if isinstance(first, int) and isinstance(end, int) else 1 << 23)
    return found


# The blocks of each loop around the instruction `index`, the outermost first.
def _loops(program: Program, index: int) -> list[set[int]]:
    blocks, home = program.blocks, program.block_of[index]
    found: list[set[int]] = []
    within = set(range(len(blocks)))
    while True:
        ahead = _reached(blocks, home, within)
        if home not in ahead:
            return found
        found.append({number for number in ahead if home in _reached(blocks, number, within)})
        within = found[-1] - _heads(blocks, found[-1])
        if home not in within:
            return found


# Where a loop is come to from outside it: the first block by a call.
def _heads(blocks: tuple[Block, ...], loop: set[int]) -> set[int]:
    return {to for block in blocks if block.number not in loop for to in block.successors if to in loop} | (loop & {0})


# The blocks of the loops inside a loop.
def _inside(blocks: tuple[Block, ...], loop: set[int]) -> set[int]:
    within = loop - _heads(blocks, loop)
    return {number for number in within if number in _reached(blocks, number, within)}


def _reached(blocks: tuple[Block, ...], start: int, within: set[int]) -> set[int]:
    found: set[int] = set()
    work = list(blocks[start].successors)
    while work:
        number = work.pop()
        if number in within and number not in found:
            found.add(number)
            work += blocks[number].successors
    return found
