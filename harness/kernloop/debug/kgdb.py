# SPDX-License-Identifier: Apache-2.0
"""The kernel's own debugger in a VM (`vm start --kgdb`), by GDB in a tmux that its supervisor owns.

>>> stop = enter(vm).stop                              # doctest: +SKIP
>>> set_break(vm, "kernel_clone")                      # doctest: +SKIP
>>> go(vm, "continue", timeout=20).stop.frame.function # doctest: +SKIP
'kernel_clone'

Nothing here holds the session: another process goes on with it. It ends by `end`, or with the VM.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kernloop.errors import HarnessError, UsageError
from kernloop.vm.client import VM
from kernloop.vm.kgdb import State

__all__ = [
    "STEPS",
    "Answer",
    "Breakpoint",
    "Frame",
    "State",
    "Stop",
    "Thread",
    "Value",
    "backtrace",
    "breakpoints",
    "delete",
    "end",
    "enter",
    "evaluate",
    "go",
    "kdb",
    "local_variables",
    "set_break",
    "state",
    "threads",
]

# How to go on: what GDB calls it.
STEPS = ("step", "next", "stepi", "nexti", "finish", "continue")
_SECONDS = 30.0


@dataclass(frozen=True)
class Frame:
    """A call; `file` and `line` are None where the kernel has no line for it."""

    level: int
    function: str | None
    file: str | None
    line: int | None
    pc: str
    inlined: bool


@dataclass(frozen=True)
class Thread:
    """A task by its `pid`, or what a `cpu` was at; `thread` is GDB's number for it."""

    thread: int
    pid: int | None
    cpu: int | None
    name: str
    frames: tuple[Frame, ...] = ()


@dataclass(frozen=True)
class Stop:
    """Why the guest stands: `breakpoint` with their numbers, `end of step`, `connected`, or a signal: SIGTRAP for
    SysRq g, an oops' own for an oops."""

    reason: str
    breakpoints: tuple[int, ...]
    thread: Thread
    frame: Frame | None


@dataclass(frozen=True)
class Breakpoint:
    number: int
    where: str
    condition: str
    temporary: bool
    hits: int
    enabled: bool


@dataclass(frozen=True)
class Value:
    """`value` as GDB prints it, None with `why` when it cannot; `cut` is its whole length when it is longer."""

    name: str
    type: str
    value: str | None
    why: str = ""
    cut: int = 0


@dataclass(frozen=True)
class Answer:
    """What every command tells: `state`, `why` it is lost or dead, what to do `next`, whether the guest stands `still`,
    `stop` while it does in its debugger, `watch`, with which a person looks on, and GDB's version, both "" where GDB is
    not there."""

    state: State
    why: str
    next: str
    still: bool
    stop: Stop | None
    watch: str
    gdb: str
    result: Mapping[str, Any]


def state(vm: VM) -> Answer:
    """Whether the guest runs, stands in its debugger, is dead or has ended, or GDB is lost. Asks nobody: it is at hand
    at any time."""
    try:
        return _do(vm, "state")
    except UsageError:
        raise
    except HarnessError:
        if not vm.ended():
            raise
    return Answer(State.EXITED, "the VM has ended", f"kernloop runs show {vm.run.name}", False, None, "", "", {})


def enter(vm: VM, *, gdb: bool = True, timeout: float = _SECONDS) -> Answer:
    """Bring the kernel into KGDB by SysRq g, and GDB to it; one that is there already by an oops is kept as it is.

    Without `gdb` its own shell has it, for which no vmlinux is needed: `kdb` asks that.
    """
    return _do(vm, "enter", timeout=timeout, gdb=gdb)


def end(vm: VM, *, timeout: float = _SECONDS) -> Answer:
    """Take the breakpoints out, let the guest go on, end GDB."""
    return _do(vm, "end", timeout=timeout)


def go(vm: VM, how: str, *, timeout: float = _SECONDS) -> Answer:
    """Go on by one of STEPS, and wait for the next stop; state `running` when there was none in time."""
    if how not in STEPS:
        raise UsageError(f"KGDB cannot {how!r}", hint=" ".join(STEPS))
    return _do(vm, how, timeout=timeout)


def threads(vm: VM, *, timeout: float = 4 * _SECONDS) -> tuple[Thread, ...]:
    """The CPUs with what they are at, and all tasks, each with the call that it waits in."""
    return tuple(_thread(row) for row in _do(vm, "threads", timeout=timeout).result["threads"])


def backtrace(vm: VM, thread: str = "", *, limit: int = 16, timeout: float = 4 * _SECONDS) -> tuple[Thread, ...]:
    """The calls of the thread that stopped, of `thread` by GDB's number, of all `cpus`, or of `all`."""
    found = _do(vm, "backtrace", timeout=timeout, thread=thread, limit=limit).result["threads"]
    return tuple(_thread(row) for row in found)


def set_break(
    vm: VM, where: str, *, condition: str = "", temporary: bool = False, timeout: float = _SECONDS
) -> Breakpoint:
    """A software breakpoint: KGDB writes an int3 into the kernel when the guest goes on."""
    return Breakpoint(**_do(vm, "break", timeout=timeout, where=where, condition=condition, temporary=temporary).result)


def breakpoints(vm: VM) -> tuple[Breakpoint, ...]:
    return tuple(Breakpoint(**row) for row in _do(vm, "breakpoints").result["breakpoints"])


def delete(vm: VM, number: int) -> tuple[Breakpoint, ...]:
    """Take breakpoint `number` away; those that are left."""
    return tuple(Breakpoint(**row) for row in _do(vm, "delete", number=number).result["breakpoints"])


def evaluate(
    vm: VM, expression: str, *, frame: int = 0, thread: str = "", depth: int = 3, timeout: float = _SECONDS
) -> Value:
    """A C expression in a frame, structs to `depth`."""
    words = {"expression": expression, "frame": frame, "thread": thread, "depth": depth}
    return Value(**_do(vm, "evaluate", timeout=timeout, **words).result)


def local_variables(
    vm: VM, *, frame: int = 0, thread: str = "", depth: int = 1, timeout: float = _SECONDS
) -> tuple[Value, ...]:
    """Arguments and locals of a frame, innermost block first."""
    found = _do(vm, "locals", timeout=timeout, frame=frame, thread=thread, depth=depth).result
    return tuple(Value(**row) for row in found["locals"])


def kdb(vm: VM, command: str, *, timeout: float = _SECONDS) -> str:
    """What the kernel's own shell says to `command` (ps, lsmod, dmesg, bt, help).

    GDB passes it on, if it is there. If not, kdb has the kernel, and also `bp`, `go` and `ss` do what they say: go's
    answer is "" when the guest goes on.
    """
    return str(_do(vm, "monitor", timeout=timeout, command=command).result["text"])


def _do(vm: VM, what: str, *, timeout: float = _SECONDS, **words: Any) -> Answer:
    if not timeout > 0:
        raise UsageError(f"a time-out of {timeout:g} s leaves no time", hint="give seconds")
    told = vm.kgdb(what, timeout=timeout, **words)
    return Answer(
        State(told["state"]),
        told["why"],
        told["next"],
        told["still"],
        _stop(told["stop"]) if told["stop"] else None,
        told["watch"],
        told["gdb"],
        told["result"],
    )


def _stop(row: dict[str, Any]) -> Stop:
    return Stop(
        row["reason"],
        tuple(row["breakpoints"]),
        _thread(row["thread"]),
        Frame(**row["frame"]) if row["frame"] else None,
    )


def _thread(row: dict[str, Any]) -> Thread:
    frames = row["frames"] if "frames" in row else [row["frame"]] if row.get("frame") else []
    return Thread(row["thread"], row["pid"], row["cpu"], row["name"], tuple(Frame(**frame) for frame in frames))
