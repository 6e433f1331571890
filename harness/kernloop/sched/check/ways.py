# SPDX-License-Identifier: Apache-2.0
"""Where on the way to an exit it was decided that the task is lost."""

from __future__ import annotations

from kernloop.sched.check import calls
from kernloop.sched.check.scene import Scene
from kernloop.sched.check.trace import Event, Trace
from kernloop.sched.obj.model import Line, Program

__all__ = ["fork_of_loss", "holds_insert"]

_KEEP = frozenset(["insert", "insert_vtime", "push", "update"])


def holds_insert(scene: Scene, trace: Trace) -> bool:
    """Whether any way of `trace` inserts the task or gives it to others."""
    return any(event.prop.inserts or event.prop.handed or event.prop.pushed for event in trace.events) or bool(
        trace.of("insert", "insert_vtime", "push")
    )


def fork_of_loss(scene: Scene, event: Event) -> Line | None:
    """The line of the branch behind which no insert can be come to any more, on the way to the exit `event`."""
    steps = []
    path = event.path
    while path is not None:
        steps.append(path)
        path = path.before
    found: tuple[Program, int] | None = None
    for step in reversed(steps):
        program = scene.walker.program(step.site)
        index = step.site & 0xFFFFF
        reach = _reach(scene, program)
        here = program.block_of[index]
        there = program.block_of[step.to]
        if here in reach and there not in reach:
            found = program, index
            break
    if found is None and steps:
        last = steps[0]
        found = scene.walker.program(last.site), last.site & 0xFFFFF
    if found is None:
        return scene.places.first(event.program)
    return scene.places.outermost(*found)


# Blocks from which an insert can be come to.
def _reach(scene: Scene, program: Program) -> set[int]:
    keep = {
        block.number
        for block in program.blocks
        if any(_keeps(scene, program, index, 0) for index in range(block.start, block.end))
    }
    changed = True
    while changed:
        changed = False
        for block in program.blocks:
            if block.number not in keep and any(number in keep for number in block.successors):
                keep.add(block.number)
                changed = True
    return keep


def _keeps(scene: Scene, program: Program, index: int, depth: int) -> bool:
    call = program.insns[index].call
    if call is None:
        return False
    if call.kind == "subprog":
        called = scene.obj.programs.get(call.name)
        return (
            called is not None
            and depth < 8
            and any(_keeps(scene, called, at, depth + 1) for at in range(len(called.insns)))
        )
    name = calls.base_name(call.name)
    return calls.ROLE.get(name, name) in _KEEP
