# SPDX-License-Identifier: Apache-2.0
"""The debug dump that the kernel takes when it throws a sched_ext scheduler out.

Written by `scx_dump_state()` (kernel/sched/ext/ext.c in 7.3, kernel/sched/ext.c before); fields come and go between
versions, so values are found by key, `a/b=1/2` standing for `a=1 b=2`, never by position. What ops.dump*() of the
scheduler wrote stands between the kernel's lines, behind an empty one, and is kept as text only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise

from .frames import parse_frame
from .lines import split_lines
from .scx import match_message

__all__ = ["Dump", "DumpCpu", "DumpTask", "explain_placement", "guilty_task", "parse_dump"]

_TRIGGER = re.compile(
    r"^(?P<comm>.+)\[(?P<pid>-?\d+)\] triggered exit kind (?P<kind>\d+)(?: on CPU (?P<cpu>\d+))?:?\s*$"
)
_REASON = re.compile(r"^  (?P<reason>[^(]+?)(?: \((?P<message>.*)\))?$", re.DOTALL)
_CPU = re.compile(r"^CPU (?P<cpu>\d+)\s*:")
_CURR = re.compile(r"\bcurr=(?P<comm>.+)\[(?P<pid>-?\d+)\](?: class=(?P<cls>\S+))?")
_TASK = re.compile(r"^ (?P<curr>[* ])(?P<state>\S) (?P<comm>.+)\[(?P<pid>-?\d+)\](?: \S+)? (?P<ms>[+-]\d+)ms\s*$")
_FIELD = re.compile(r"(?<![\w/])(?P<keys>[A-Za-z_]\w*(?:/[A-Za-z_]\w*)*)=(?P<values>\S+)")
_EVENT = re.compile(r"^\s*(?P<name>SCX_EV_\w+):\s+(?P<count>-?\d+)\s*$")
_TRUNCATED = "~~~~ TRUNCATED ~~~~"

# enum scx_dsq_id_flags and scx_ops_state (include/linux/sched/ext.h, kernel/sched/ext/).
_BUILTIN = 1 << 63
_LOCAL_ON = 1 << 62
_DSQ_NAMES = {1: "global DSQ", 2: "local DSQ", 3: "bypass DSQ", 4: "reject DSQ", 5: "rescue DSQ"}
_QUEUEING, _QUEUED, _DISPATCHING = 1, 2, 3


@dataclass(frozen=True)
class DumpTask:
    """A runnable task; `runnable_ms` is as printed, negative for a task that has been waiting so long."""

    comm: str
    pid: int
    cpu: int | None
    curr: bool
    runnable_ms: int
    state: str
    flags: int | None
    dsq_id: int | None
    ops_state: int | None
    stack: tuple[str, ...]
    cpus: str
    text: str


@dataclass(frozen=True)
class DumpCpu:
    """A CPU with something to say; idle ones are left out by the kernel."""

    cpu: int
    nr_run: int | None
    flags: int | None
    curr_comm: str
    curr_pid: int | None
    curr_class: str
    fields: tuple[tuple[str, str], ...]
    text: str


@dataclass(frozen=True)
class Dump:
    """`truncated` says that the kernel's buffer was too small (ops.exit_dump_len): tasks are missing."""

    trigger_comm: str
    trigger_pid: int | None
    kind: int | None
    reason: str
    message: str
    backtrace: tuple[str, ...]
    cpus: tuple[DumpCpu, ...]
    tasks: tuple[DumpTask, ...]
    events: tuple[tuple[str, int], ...]
    truncated: bool


def parse_dump(text: str) -> Dump:
    """Read a dump; what is missing stays empty, and nothing in it raises."""
    lines = split_lines(text)
    start = next((n for n, line in enumerate(lines) if _TRIGGER.match(line)), None)
    trigger = _TRIGGER.match(lines[start]) if start is not None else None
    reason = message = ""
    if start is not None:
        end = next((n for n in range(start + 1, len(lines)) if not lines[n].strip()), len(lines))
        if why := _REASON.match("\n".join(lines[start + 1 : end])):
            reason, message = why["reason"], why["message"] or ""
    cpus, tasks = _blocks(lines)
    return Dump(
        trigger["comm"] if trigger else "",
        int(trigger["pid"]) if trigger else None,
        int(trigger["kind"]) if trigger else None,
        reason,
        message,
        _backtrace(lines),
        cpus,
        tasks,
        tuple((event["name"], int(event["count"])) for line in lines if (event := _EVENT.match(line))),
        _TRUNCATED in text,
    )


def guilty_task(message: str, dump: Dump) -> DumpTask | None:
    """The task that a stall message names; for a watchdog that did not run, the kworker that has waited longest."""
    known = match_message(message)
    if known is None:
        return None
    if known.id == "watchdog":
        workers = [task for task in dump.tasks if task.comm.startswith("kworker/") and not task.curr]
        return min(workers, key=lambda task: task.runnable_ms, default=None)
    pid = known.group("pid")
    if known.id != "stall":
        return None
    return next((task for task in dump.tasks if str(task.pid) == pid), None)


def explain_placement(task: DumpTask) -> str:
    """Where the task was when the dump was taken, and what that says of the scheduler."""
    who = f"{task.comm}[{task.pid}]"
    if task.curr:
        return f"{who} was running on CPU {task.cpu}: it was not waiting any more when the dump was taken"
    if task.dsq_id is not None and task.dsq_id & _BUILTIN:
        where = _builtin_name(task.dsq_id)
        return f"{who} waits on the kernel's {where}: CPU {task.cpu} is stuck, taken by a higher class, or never woken"
    if task.dsq_id is not None:
        return (
            f"{who} waits on the scheduler's own DSQ {task.dsq_id:#x}: its CPUs never consume it, or serve others first"
        )
    if task.ops_state == _QUEUED:
        return (
            f"{who} was given to ops.enqueue and is in no DSQ: the BPF side lost it or never hands it out in dispatch"
        )
    if task.ops_state in (_QUEUEING, _DISPATCHING):
        phase = "ops.enqueue" if task.ops_state == _QUEUEING else "dispatch"
        return f"{who} was in the midst of {phase} when the dump was taken"
    return f"{who} is in no DSQ and not with the BPF scheduler: the dump does not say who has it"


def _builtin_name(dsq_id: int) -> str:
    if dsq_id & _LOCAL_ON:
        return f"local DSQ of CPU {dsq_id & 0xFFFF_FFFF}"
    return _DSQ_NAMES.get(dsq_id & ~_BUILTIN, f"built-in DSQ {dsq_id:#x}")


# The CPU and task blocks: each runs from its header to the next one's.
def _blocks(lines: list[str]) -> tuple[tuple[DumpCpu, ...], tuple[DumpTask, ...]]:
    heads = [n for n, line in enumerate(lines) if _CPU.match(line) or _TASK.match(line)]
    stop = next((n for n, line in enumerate(lines) if line.strip() in ("Event counters", _TRUNCATED)), len(lines))
    cpus: list[DumpCpu] = []
    tasks: list[DumpTask] = []
    heads = [n for n in heads if n < stop]
    for head, end in pairwise([*heads, stop]):
        block = lines[head:end]
        if cpu := _CPU.match(block[0]):
            cpus.append(_cpu(int(cpu["cpu"]), block))
        elif task := _TASK.match(block[0]):
            tasks.append(_task(task, cpus[-1].cpu if cpus else None, block))
    return tuple(cpus), tuple(tasks)


def _cpu(number: int, block: list[str]) -> DumpCpu:
    fields = _fields(block)
    curr = next((match for line in block if (match := _CURR.search(line))), None)
    return DumpCpu(
        number,
        _integer(fields, "nr_run"),
        _integer(fields, "flags"),
        curr["comm"] if curr else "",
        int(curr["pid"]) if curr else None,
        (curr["cls"] or "") if curr else "",
        fields,
        "\n".join(block).rstrip(),
    )


def _task(head: re.Match[str], cpu: int | None, block: list[str]) -> DumpTask:
    fields = _fields(block[1:])
    return DumpTask(
        head["comm"],
        int(head["pid"]),
        cpu,
        head["curr"] == "*",
        int(head["ms"]),
        head["state"],
        _integer(fields, "flags"),
        _integer(fields, "dsq_id"),
        _integer(fields, "ops_state"),
        tuple(line.strip() for line in block[1:] if line.startswith("    ") and parse_frame(line)),
        next((value for key, value in fields if key == "cpus"), ""),
        "\n".join(block).rstrip(),
    )


# The kernel's own fields: those before the first empty line, behind which the scheduler's ops.dump_*() text starts.
def _fields(block: list[str]) -> tuple[tuple[str, str], ...]:
    pairs: list[tuple[str, str]] = []
    for line in block:
        if not line.strip():
            break
        for match in _FIELD.finditer(line):
            keys, values = match["keys"].split("/"), match["values"].split("/")
            pairs += zip(keys, values, strict=False) if len(keys) > 1 else [(match["keys"], match["values"])]
    return tuple(pairs)


def _backtrace(lines: list[str]) -> tuple[str, ...]:
    start = next((n for n, line in enumerate(lines) if line.strip() == "Backtrace:"), None)
    if start is None:
        return ()
    end = next((n for n in range(start + 1, len(lines)) if not parse_frame(lines[n])), len(lines))
    return tuple(line.strip() for line in lines[start + 1 : end])


def _integer(fields: tuple[tuple[str, str], ...], key: str) -> int | None:
    text = next((value for name, value in fields if name == key), "")
    return int(text, 0) if re.fullmatch(r"-?(?:0x[0-9a-f]+|[1-9]\d*|0)", text) else None
