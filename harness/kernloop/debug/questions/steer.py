# SPDX-License-Identifier: Apache-2.0
"""Stopping a guest and letting it go on, by GDB or KGDB, with the same words and the same answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kernloop import runs
from kernloop.debug import kgdb
from kernloop.debug.gdb import client as gdbs
from kernloop.debug.questions import at_gdb, at_kgdb
from kernloop.debug.questions.told import By, tree_of
from kernloop.errors import HarnessError, UsageError
from kernloop.vm import client
from kernloop.vm.client import VM
from kernloop.vm.qemu import KGDB

__all__ = ["ACTS", "Act", "Standing", "steer"]

_STEPS = ("step", "next", "stepi", "nexti", "finish")
ACTS = (
    *("state", "interrupt", "wait", "continue", *_STEPS, "until"),
    *("break", "tbreak", "watch", "breakpoints", "delete", "modules", "command", "detach"),
)
_NEED = {"until": "a place", "break": "a place", "tbreak": "a place", "watch": "an expression", "command": "a text"}
_POLL_SECONDS = 0.1
# A breakpoint in a guest that runs: KGDB is entered, and left again; what is hit at once is told.
_AT_ONCE = 0.2


@dataclass(frozen=True)
class Act:
    """What is to be done: one of ACTS, with a place, an expression, numbers or a text in `what`; "kdb": interrupt
    by KGDB without GDB, so that `command` is a line of kdb's. `since`: wait for a stop after that number (GDB counts
    them), -1 for the next, or the one that it stands at."""

    do: str
    what: str = ""
    condition: str = ""
    count: int = 1
    timeout: float = 20.0
    since: int = -1


@dataclass(frozen=True)
class Standing:
    """What the session is in afterwards: `state` is GDB's or KGDB's word. `still`: the guest stands still. `found` is
    what was asked for, `text` what is long, `next` what to do where that is not to look or to go on."""

    by: By
    state: str
    still: bool
    reason: str = ""
    where: str = ""
    of: str = ""
    breakpoints: tuple[int, ...] = ()
    stops: int | None = None
    detail: str = ""
    watch: str = ""
    found: Mapping[str, Any] = field(default_factory=dict)
    text: str = ""
    next: str = ""


def steer(name: str, act: Act, by: str = "") -> Standing:
    """Do `act` with the VM `name`. "" for `by` is who is there already, GDB if nobody is.

    Raises UsageError for what makes no sense now, HarnessError.
    """
    if act.do not in ACTS:
        raise UsageError(f"there is no {act.do!r}", hint=" ".join(ACTS))
    if (need := _NEED.get(act.do)) and not act.what.strip():
        raise UsageError(f"{act.do} needs {need}", hint="as in scx_enable, ext.c:8110, rq->nr_running, info registers")
    if act.do in ("state", "detach"):
        return _as_it_is(client.last(name), act, by)
    vm = client.find(name)
    if (By(by) if by else _at(vm)) is By.KGDB:
        return _by_kgdb(vm, act)
    return _by_gdb(vm, act)


def _at(vm: VM) -> By:
    return By.KGDB if gdbs.find(vm) is None and _in_kgdb(vm) else By.GDB


# What needs no session, and makes none; also when session or VM are over.
def _as_it_is(vm: VM, act: Act, by: str) -> Standing:
    gdb = gdbs.find(vm) if by != By.KGDB else None
    if gdb is not None:
        return _of_gdb(gdbs.Answer(gdb.detach(), {}) if act.do == "detach" else gdb.ask("state"))
    if by == By.KGDB or (by != By.GDB and _in_kgdb(vm)):
        return _of_kgdb(vm, kgdb.end(vm) if act.do == "detach" else kgdb.state(vm))
    try:
        return _of_gdb(gdbs.Answer(gdbs.last(vm), {}))
    except UsageError:
        try:
            state = vm.info().state
        except HarnessError:
            if not vm.ended():
                raise
            state = "exited"
        still = state in ("panicked", "hung", "paused", "in-kgdb")
        return Standing(By.GDB, "off", still, detail=f"no debugger was at this VM, which is {state}")


# The port is there with --kgdb only; else nobody need be asked.
def _in_kgdb(vm: VM) -> bool:
    return (vm.run / KGDB).exists() and runs.is_live(vm.run) and kgdb.state(vm).state.here


def _by_gdb(vm: VM, act: Act) -> Standing:
    gdb = gdbs.attach(vm)
    match act.do:
        case "break" | "tbreak":
            once, ignore = act.do == "tbreak", act.count - 1
            return _of_gdb(gdb.ask("break", where=act.what, condition=act.condition, ignore=ignore, temporary=once))
        case "watch":
            return _of_gdb(gdb.ask("watch", expression=act.what))
        case "delete":
            return _of_gdb(gdb.ask("delete", numbers=_numbers(act.what)))
        case "modules":
            return _of_gdb(gdb.ask("modules", files=act.what.split() or None))
        case "command":
            return _of_gdb(gdb.ask("command", text=act.what))
        case "wait":
            now = gdb.ask("state").session
            since = act.since if act.since >= 0 else max(now.stops - (now.state == "stopped"), 0)
            return _of_gdb(gdb.ask("wait", since=since, timeout=act.timeout))
        case "continue":
            return _of_gdb(gdb.ask("continue", timeout=act.timeout))
        case "until":
            return _of_gdb(gdb.ask("until", where=act.what, timeout=act.timeout))
    if act.do in _STEPS:
        return _of_gdb(gdb.ask(act.do, count=act.count, timeout=act.timeout))
    return _of_gdb(gdb.ask(act.do))


def _of_gdb(answer: gdbs.Answer) -> Standing:
    session, found = answer.session, dict(answer.found)
    text = str(found.pop("text", ""))
    for name in ("breakpoint", "breakpoints"):
        if isinstance(value := found.get(name), dict):
            found[name] = _point(value)
        elif isinstance(value, list):
            found[name] = [_point(one) for one in value]
    frame = session.as_json()["frame"]
    return Standing(
        By.GDB,
        session.state,
        session.state == "stopped",
        str(session.reason or ""),
        at_gdb.place(frame).partition(" ")[2] if frame else "",
        "" if session.cpu is None else f"cpu {session.cpu}",
        (session.breakpoint,) if session.breakpoint else (),
        session.stops,
        session.detail or session.why,
        "",
        found,
        text,
    )


def _point(row: dict[str, Any]) -> str:
    place = f"{row['file']}:{row['line']}" if row["file"] else row["address"]
    words = [f"{row['number']} {row['where']} {place}".rstrip()]
    words += [f"if {row['condition']}"] if row["condition"] else []
    words += [f"{len(row['places'])} places"] if len(row["places"]) > 1 else []
    words += [f"ignores {row['ignore']} more"] if row["ignore"] else []
    return ", ".join((*words, f"hit {row['hits']} times"))


def _by_kgdb(vm: VM, act: Act) -> Standing:
    one: dict[str, Callable[[], kgdb.Answer]] = {
        "state": lambda: kgdb.state(vm),
        "interrupt": lambda: kgdb.enter(vm, gdb=act.what != "kdb", timeout=act.timeout or 1),
        "detach": lambda: kgdb.end(vm),
        "wait": lambda: _awaited(vm, act.timeout),
    }
    if act.do in one:
        return _of_kgdb(vm, one[act.do]())
    if act.do == "continue" or act.do in _STEPS:
        answer = kgdb.state(vm)
        if act.do == "continue" and answer.state is kgdb.State.IN_KGDB and not answer.gdb:
            # kdb has it: its word for that.
            text = kgdb.kdb(vm, "go")
            return _of_kgdb(vm, _awaited(vm, act.timeout), text=text)
        for _ in range(1 if act.do == "continue" else act.count):
            answer = kgdb.go(vm, act.do, timeout=act.timeout or _AT_ONCE)
            if answer.stop is None or answer.stop.reason != "end of step":
                break
        return _of_kgdb(vm, answer)
    if act.do in ("break", "tbreak"):
        return _broken(vm, act)
    if act.do == "breakpoints":
        return _of_kgdb(vm, kgdb.state(vm), breakpoints=[_kgdb_point(point) for point in kgdb.breakpoints(vm)])
    if act.do == "delete":
        numbers = _numbers(act.what) or [point.number for point in kgdb.breakpoints(vm)]
        for number in numbers:
            kgdb.delete(vm, number)
        return _of_kgdb(vm, kgdb.state(vm), breakpoints=[_kgdb_point(point) for point in kgdb.breakpoints(vm)])
    if act.do == "command":
        text = kgdb.kdb(vm, act.what)
        return _of_kgdb(vm, kgdb.state(vm), text=text)
    raise UsageError(f"KGDB has no {act.do}", hint=f"by='gdb' has, after detach; KGDB: {' '.join(_OF_KGDB)}")


_OF_KGDB = tuple(act for act in ACTS if act not in ("watch", "until", "modules"))


# As GDB does it: a guest that runs goes on.
def _broken(vm: VM, act: Act) -> Standing:
    if act.count != 1:
        raise UsageError("KGDB counts no hits", hint="a condition instead")
    ran = kgdb.state(vm).stop is None
    if ran:
        kgdb.enter(vm)
    try:
        point = kgdb.set_break(vm, act.what, condition=act.condition, temporary=act.do == "tbreak")
    finally:
        if ran:
            kgdb.go(vm, "continue", timeout=_AT_ONCE)
    return _of_kgdb(vm, kgdb.state(vm), breakpoint=_kgdb_point(point))


# KGDB's supervisor tells nobody of a stop: it is asked.
def _awaited(vm: VM, seconds: float) -> kgdb.Answer:
    deadline = time.monotonic() + seconds
    while (answer := kgdb.state(vm)).state is kgdb.State.RUNNING and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    return answer


def _of_kgdb(vm: VM, answer: kgdb.Answer, text: str = "", **found: Any) -> Standing:
    stop, still = answer.stop, answer.still
    if stop is None:
        return Standing(
            By.KGDB,
            answer.state,
            still,
            detail=answer.why,
            watch=answer.watch,
            found=found,
            text=text,
            next=answer.next if still or answer.state is kgdb.State.LOST else "",
        )
    where = at_kgdb.place(stop.frame, tree_of(vm.run)).partition(" ")[2] if stop.frame else ""
    return Standing(
        By.KGDB,
        answer.state,
        still,
        stop.reason,
        where,
        at_kgdb.called(stop.thread),
        stop.breakpoints,
        None,
        answer.why,
        answer.watch,
        found,
        text,
    )


def _kgdb_point(point: kgdb.Breakpoint) -> str:
    condition = f", if {point.condition}" if point.condition else ""
    return f"{point.number} {point.where}{condition}, hit {point.hits} times"


def _numbers(text: str) -> list[int]:
    words = text.replace(",", " ").split()
    if not all(word.isdecimal() for word in words):
        raise UsageError(f"{text!r} is no number of a breakpoint", hint="breakpoints lists them; none: all")
    return [int(word) for word in words]
