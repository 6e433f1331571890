# SPDX-License-Identifier: Apache-2.0
"""What a GDB session can be in: each answer has one of these."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

__all__ = ["Frame", "Reason", "Session", "State", "told"]


def told(value: Session | Frame) -> dict[str, Any]:
    """The parts of `value` for JSON."""
    found = asdict(value)
    frame = found if isinstance(value, Frame) else found["frame"]
    if frame:
        frame["address"] = hex(frame["address"])
    return found


class State(StrEnum):
    """`exited`: the VM has ended. `detached`: a client has ended the session. `lost`: something else has, which `why`
    says; the VM lives on."""

    RUNNING = "running"
    STOPPED = "stopped"
    EXITED = "exited"
    DETACHED = "detached"
    LOST = "lost"

    @property
    def over(self) -> bool:
        """Whether the session is."""
        return self in (State.EXITED, State.DETACHED, State.LOST)


class Reason(StrEnum):
    """Why a guest is stopped. `watchdog`: QEMU's has found no task running for long. `panic`: the kernel's end."""

    BREAKPOINT = "breakpoint"
    WATCHPOINT = "watchpoint"
    STEP = "step"
    FINISHED = "finished"
    LOCATION = "location"
    INTERRUPTED = "interrupted"
    WATCHDOG = "watchdog"
    PANIC = "panic"
    SIGNAL = "signal"


@dataclass(frozen=True)
class Frame:
    """One call of a backtrace; `file` and `line` where there is debugging information, `args` as GDB writes them."""

    level: int
    address: int
    function: str
    file: str = ""
    line: int = 0
    args: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Session:
    """What the session is in. `stops` counts: a client that has seen one waits for the next. `cpu` is the vCPU that
    stopped, `breakpoint` the number of what was hit, `detail` more of it (a watchpoint's old and new value)."""

    state: State
    reason: Reason | None = None
    stops: int = 0
    cpu: int | None = None
    breakpoint: int | None = None
    frame: Frame | None = None
    detail: str = ""
    why: str = ""

    def as_json(self) -> dict[str, Any]:
        """As JSON has it: an address in hex, for not all readers have numbers of 64 bits."""
        return told(self)

    @classmethod
    def of_json(cls, value: dict[str, Any]) -> Session:
        """What `as_json` gave, after a trip through JSON."""
        found = cls(**{**value, "state": State(value["state"]), "frame": None})
        if value["frame"]:
            frame = value["frame"]
            args = tuple((name, text) for name, text in frame["args"])
            found = replace(found, frame=Frame(**{**frame, "address": int(frame["address"], 16), "args": args}))
        return replace(found, reason=Reason(value["reason"]) if value["reason"] else None)
