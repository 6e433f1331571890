# SPDX-License-Identifier: Apache-2.0
"""What is found in a kernel's memory, as JSON has it: for the command line, MCP and sessions alike."""

from __future__ import annotations

from typing import Any

from drgn import Program

from kernloop.debug.ask import Answer
from kernloop.debug.helpers.spins import spins
from kernloop.debug.helpers.waits import waits
from kernloop.debug.orc import Stack
from kernloop.debug.stacks import Stacks
from kernloop.debug.target import Target, about
from kernloop.debug.whyhung import Investigation

__all__ = ["answer", "hung", "locks", "target"]

_MOST_TASKS = 12
_CALLS = 8


def target(one: Target) -> dict[str, Any]:
    """`still`: the guest stood still while it was read; `held`: for us."""
    return {
        "subject": one.name,
        "release": one.release,
        "build_id": one.build_id,
        "state": one.state,
        "held": one.held,
        "still": one.still,
        "types": "dwarf" if one.vmlinux else "btf",
    }


def answer(prog: Program, one: Answer) -> dict[str, Any]:
    """Of an expression or a script; `text` is for people."""
    value = {"type": one.type, "value": one.value, "next": one.next, "count": one.count, "output": one.output}
    return {**target(about(prog)), **value, "text": one.text}


def hung(found: Investigation) -> dict[str, Any]:
    return {
        "summary": found.summary,
        **target(found.target),
        "findings": [
            {
                "kind": one.kind,
                "text": one.text,
                "sure": one.sure,
                "lock": one.lock or None,
                "holder": one.holder or None,
                "waiters": list(one.waiters[:_MOST_TASKS]),
                "evidence": list(one.evidence),
            }
            for one in found.findings
        ],
        "cpus": [
            {
                "cpu": one.cpu,
                "current": str(one.current),
                "idle": one.idle,
                "user": one.user,
                "interrupts": one.interrupts,
                "runnable": one.runnable,
                "clock_behind": round(one.behind, 3),
                "stack": _calls(one.stack),
                "stack_whole": one.stack.whole,
            }
            for one in found.cpus
        ],
        "waits": [
            {
                "task": str(one.who),
                "state": one.state,
                "function": one.function,
                "for": str(one.lock) if one.lock else one.what or None,
                "stack": _calls(one.stack),
                "stack_whole": one.stack.whole,
            }
            for one in found.waits[:_MOST_TASKS]
        ],
        "tasks": found.tasks,
        "seconds": found.seconds,
    }


def locks(prog: Program) -> dict[str, Any]:
    """Locks that tasks sleep for, and those that CPUs spin for."""
    stacks = Stacks(prog)
    found, spinning = waits(prog, stacks), spins(prog, stacks)
    known = {wait.lock.address: wait.lock for wait in found if wait.lock}
    rows = [
        {
            "kind": lock.kind,
            "name": lock.name,
            "address": f"{lock.address:#x}",
            "holder": str(lock.holder) if lock.holder else None,
            "sure": lock.surely,
            "free": lock.free,
            "detail": lock.detail,
            "waiters": [str(one) for one in lock.waiters],
        }
        for lock in known.values()
    ]
    spin_rows = [
        {
            "name": one.name,
            "address": f"{one.address:#x}" if one.address else None,
            "cpu": one.cpu,
            "waiter": str(one.who),
            "function": one.function,
            "holders": [{"who": str(each.who), "cpu": each.cpu, "why": each.why} for each in one.holders],
        }
        for one in spinning
    ]
    return {**target(about(prog)), "locks": rows, "spinlocks": spin_rows}


def _calls(stack: Stack) -> list[str]:
    return [str(call) for call in stack.calls[:_CALLS]]
