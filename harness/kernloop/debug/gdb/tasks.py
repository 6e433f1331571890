# SPDX-License-Identifier: Apache-2.0
"""The kernel's tasks beside GDB's threads, which are the vCPUs: read by drgn, from the same memory."""

from __future__ import annotations

from typing import Any

from kernloop.errors import UsageError
from kernloop.vm.client import VM

__all__ = ["listed"]

# Addresses of the kernel are the upper half.
_KERNEL = 1 << 63


def listed(vm: VM, *, pid: int, limit: int) -> dict[str, Any]:
    """`limit` tasks with pid, name, state, CPU, and whether they are on it; of one, `pid`, its stack as well.

    Raises UsageError for a task that is not there, HarnessError.
    """
    # drgn takes 0.1 s to import, and this is not asked for in each session.
    from drgn.helpers.linux.pid import find_task, for_each_task
    from drgn.helpers.linux.sched import task_cpu, task_on_cpu, task_state_to_char

    from kernloop.debug.code import code_of
    from kernloop.debug.stacks import Stacks
    from kernloop.debug.target import open_live

    with open_live(vm) as prog:

        def row(task: Any) -> dict[str, Any]:
            return {
                "pid": task.pid.value_(),
                "comm": task.comm.string_().decode(errors="replace"),
                "state": task_state_to_char(task),
                "cpu": task_cpu(task),
                "on_cpu": bool(task_on_cpu(task)),
                "address": hex(task.value_()),
            }

        if not pid:
            rows: list[dict[str, Any]] = []
            more = False
            for task in for_each_task(prog):
                if len(rows) == limit:
                    more = True
                    break
                rows.append(row(task))
            return {"tasks": rows, "more": more}
        task = find_task(prog, pid)
        if not task:
            raise UsageError(f"there is no task {pid}", hint="tasks lists them")
        found = row(task)
        if found["on_cpu"]:
            return {**found, "frames": [], "why": f"it runs on CPU {found['cpu']}: backtrace has its stack"}
        frames = [frame for frame in _with_lines(prog, task) if int(frame["address"], 16) >= _KERNEL]
        if frames:
            for frame in frames:
                frame["function"] = frame["function"] or code_of(prog).name(int(frame["address"], 16))[0]
            return {**found, "frames": frames[:limit]}
        # Without debugging information: by the kernel's own tables.
        stack = Stacks(prog).of(task)
        frames = [
            {"level": level, "address": hex(call.ip), "function": call.name, "file": "", "line": 0}
            for level, call in enumerate(stack.calls)
        ]
        return {**found, "frames": frames[:limit], **({} if stack.whole else {"why": stack.why})}


def _with_lines(prog: Any, task: Any) -> list[dict[str, Any]]:
    from kernloop.debug.target import about

    if about(prog).vmlinux is None:
        return []
    return [
        {"level": level, "address": hex(frame.pc), "function": frame.name or "", **_source(frame)}
        for level, frame in enumerate(prog.stack_trace(task))
    ]


def _source(frame: Any) -> dict[str, Any]:
    try:
        file, line, _ = frame.source()
    except LookupError:
        return {"file": "", "line": 0}
    return {"file": file, "line": line}
