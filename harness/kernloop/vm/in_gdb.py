# SPDX-License-Identifier: Apache-2.0
"""Runs inside GDB, by its own Python: does what the VM's supervisor asks by a socket, and shows it in the terminal.

Requests come as JSON, one a line: `id`, `do` and its words. Answers carry the `id` and `result` or `error`; `event` is
told unasked when the guest stops or goes on. All of GDB is used from its main thread only; what comes by the socket is
handed over to that. Nothing of kernloop is imported: it is another Python.
"""

from __future__ import annotations

import json
import os
import re
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import gdb
import gdb.unwinder

_LINK = "kgdb-link"
_PORT = "kgdb"
_DEEP = 256
_MOST_TEXT = 4000
# As KGDB names the CPUs: shadow_pid() and getthread() in kernel/debug/gdbstub.c.
_SHADOW = re.compile(r"shadowCPU(\d+)")
# PID_MAX_LIMIT of include/linux/threads.h.
_MOST_PIDS = 4 << 20
# Where each task is that sleeps: what called these says more.
_SLEEPING = re.compile(r"context_switch|_*schedule\w*|(io|preempt)_schedule\w*")
_ON_THE_WAY = 8
# Addresses of the kernel are the upper half.
_KERNEL = 1 << 63


class _Asleep(gdb.unwinder.Unwinder):  # type: ignore[misc]
    """A task that does not run: KGDB tells its stack pointer, and 0 for where it is (sleeping_thread_to_gdb_regs() in
    arch/x86/kernel/kgdb.c). What __switch_to_asm() has pushed is there: struct inactive_task_frame."""

    def __init__(self) -> None:
        super().__init__("kernloop-asleep")

    def __call__(self, frame: Any) -> Any:
        if int(frame.read_register("rip")) != 0:
            return None
        pointer = int(frame.read_register("rsp"))
        try:
            kind, long = gdb.lookup_type("struct inactive_task_frame"), gdb.lookup_type("long")
            # In one packet: each takes its time.
            saved = gdb.Value(bytes(gdb.selected_inferior().read_memory(pointer, kind.sizeof)), kind)
            told = frame.create_unwind_info(_Id(gdb.Value(pointer), gdb.Value(0)))
            for register, member in (*_SAVED, ("rip", "ret_addr")):
                told.add_saved_register(register, saved[member].cast(long))
            told.add_saved_register("rsp", gdb.Value(pointer + kind.sizeof).cast(long))
        except gdb.error:
            return None
        return told


_SAVED = (("r15", "r15"), ("r14", "r14"), ("r13", "r13"), ("r12", "r12"), ("rbx", "bx"), ("rbp", "bp"))


class _Id:
    def __init__(self, sp: Any, pc: Any) -> None:
        self.sp = sp
        self.pc = pc


class _Link:
    """The socket to the supervisor: GDB has no business without it, and ends when it is closed."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(_LINK)
        self._lock = threading.Lock()

    def tell(self, message: dict[str, Any]) -> None:
        try:
            with self._lock:
                self._socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            pass  # the reader sees it as well

    def read(self, on_request: Callable[[dict[str, Any]], None]) -> None:
        with self._socket.makefile("rb") as lines:
            for line in lines:
                on_request(json.loads(line))
        os._exit(0)


def connect() -> dict[str, Any]:
    gdb.execute(f"target remote ./{_PORT}", to_string=True)
    return _stopped("connected")


def where() -> dict[str, Any]:
    return _stopped("")


def threads() -> dict[str, Any]:
    return {"threads": [_thread(one, with_frame=True) for one in _listed()]}


def backtrace(thread: str, limit: int) -> dict[str, Any]:
    if thread not in ("all", "cpus"):
        with _in_thread(thread):
            return {"threads": [{**_thread(_current(), with_frame=False), "frames": _frames(limit)}]}
    found = []
    for one in _listed():
        row = _thread(one, with_frame=False)
        if thread == "cpus" and row["cpu"] is None:
            continue
        with _in_thread(str(one[0])):
            found.append({**row, "frames": _frames(limit)})
    return {"threads": found}


def go(how: str) -> dict[str, Any]:
    gdb.execute(f"{how} &", to_string=True)
    return {}


def set_break(where: str, condition: str, temporary: bool) -> dict[str, Any]:
    point = gdb.Breakpoint(where, temporary=temporary)
    try:
        if point.pending:
            raise gdb.GdbError(f"{where} is not defined in this kernel")
        if condition:
            point.condition = condition
    except (gdb.error, gdb.GdbError):
        point.delete()
        raise
    return _point(point)


def breakpoints() -> dict[str, Any]:
    return {"breakpoints": [_point(one) for one in gdb.breakpoints() if one.is_valid()]}


def delete(number: int) -> dict[str, Any]:
    found = [one for one in gdb.breakpoints() if one.number == number]
    if not found:
        raise gdb.GdbError(f"there is no breakpoint {number}")
    found[0].delete()
    return breakpoints()


def evaluate(expression: str, frame: int, thread: str, depth: int) -> dict[str, Any]:
    with _in_thread(thread):
        _select(frame)
        return _value(expression, gdb.parse_and_eval(expression), depth)


def local_variables(frame: int, thread: str, depth: int) -> dict[str, Any]:
    with _in_thread(thread):
        chosen = _select(frame)
        try:
            block = chosen.block()
        except RuntimeError:
            raise gdb.GdbError(f"no locals are known in {chosen.name() or 'this frame'}") from None
        found: dict[str, dict[str, Any]] = {}
        while block is not None and block.is_static is False and block.is_global is False:
            for symbol in block:
                if (symbol.is_variable or symbol.is_argument) and symbol.name not in found:
                    found[symbol.name] = _variable(symbol, chosen, depth)
            if block.function is not None:
                break
            block = block.superblock
        return {"function": chosen.name(), "locals": list(found.values())}


def monitor(command: str) -> dict[str, Any]:
    return {"text": gdb.execute(f"monitor {command}", to_string=True)}


def leave() -> dict[str, Any]:
    gdb.execute("delete", to_string=True)
    gdb.execute("detach", to_string=True)
    return {}


_DOES: dict[str, Callable[..., dict[str, Any]]] = {
    "connect": connect,
    "where": where,
    "threads": threads,
    "backtrace": backtrace,
    "go": go,
    "break": set_break,
    "breakpoints": breakpoints,
    "delete": delete,
    "evaluate": evaluate,
    "locals": local_variables,
    "monitor": monitor,
    "leave": leave,
}


# GDB's threads, as they were listed last.
_known: list[Any] = []


# GDB's own number, KGDB's pid, name. `info threads` would read a frame of each.
def _listed() -> list[tuple[int, int, str]]:
    _known[:] = gdb.selected_inferior().threads()
    found = [_about(one) for one in _known]
    # CPUs first: as pids they are the largest.
    return sorted(found, key=lambda one: (not _SHADOW.fullmatch(one[2]), one[1] if one[1] < _MOST_PIDS else -one[1]))


def _current() -> tuple[int, int, str]:
    chosen = gdb.selected_thread()
    return _about(chosen) if chosen else (0, 0, "")


def _about(thread: Any) -> tuple[int, int, str]:
    pid = thread.ptid[1]
    told = gdb.selected_inferior().connection.send_packet(f"qThreadExtraInfo,{pid:x}") or b""
    try:
        name = bytes.fromhex(told.decode()).decode(errors="replace")
    except ValueError:
        name = ""
    return thread.num, pid, name.rstrip("\0")


def _thread(one: tuple[int, int, str], *, with_frame: bool) -> dict[str, Any]:
    number, pid, name = one
    shadow = _SHADOW.fullmatch(name)
    row: dict[str, Any] = {
        "thread": number,
        "pid": None if shadow else pid,
        "cpu": int(shadow[1]) if shadow else None,
        "name": name,
    }
    if with_frame:
        with _in_thread(str(number)):
            calls = _frames(_ON_THE_WAY if row["cpu"] is None else 1)
            row["frame"] = next((one for one in calls if not _SLEEPING.fullmatch(one["function"] or "")), None)
    return row


class _in_thread:
    """The thread by GDB's number, "" for the selected one; the one before is selected again afterwards."""

    def __init__(self, number: str) -> None:
        self._number = number
        self._before = gdb.selected_thread()

    def __enter__(self) -> None:
        if not self._number:
            return
        # To ask for them again at each would take most of the time.
        if not any(str(one.num) == self._number and one.is_valid() for one in _known):
            _known[:] = gdb.selected_inferior().threads()
        found = [one for one in _known if str(one.num) == self._number]
        if not found:
            raise gdb.GdbError(f"there is no thread {self._number}")
        found[0].switch()

    def __exit__(self, *_: object) -> None:
        if self._number and self._before and self._before.is_valid():
            self._before.switch()


# Of a task that sleeps the first frame is not one; what called the kernel is not the kernel's.
def _walk() -> Iterator[Any]:
    frame = gdb.newest_frame()
    while frame is not None:
        if frame.pc() >= _KERNEL:
            yield frame
        elif frame.pc() != 0:
            return
        try:
            frame = frame.older()
        except gdb.error:
            return


def _frames(limit: int) -> list[dict[str, Any]]:
    found = []
    for level, frame in enumerate(_walk()):
        if level == limit:
            break
        found.append(_frame(level, frame))
    return found


def _frame(level: int, frame: Any) -> dict[str, Any]:
    line = frame.find_sal()
    file = line.symtab.fullname() if line.symtab else None
    return {
        "level": level,
        "function": frame.name(),
        "file": file,
        "line": line.line if line.symtab else None,
        "pc": f"{frame.pc():#x}",
        "inlined": frame.type() == gdb.INLINE_FRAME,
    }


def _select(level: int) -> Any:
    for number, frame in enumerate(_walk()):
        if number == level:
            frame.select()
            return frame
        if number > _DEEP:
            break
    raise gdb.GdbError(f"there is no frame {level}")


def _variable(symbol: Any, frame: Any, depth: int) -> dict[str, Any]:
    try:
        value = symbol.value(frame)
        return _value(symbol.name, value, depth)
    except gdb.error as error:
        return {"name": symbol.name, "type": str(symbol.type), "value": None, "why": str(error)}


def _value(name: str, value: Any, depth: int) -> dict[str, Any]:
    row = {"name": name, "type": str(value.type)}
    if value.is_optimized_out:
        return {**row, "value": None, "why": "optimized out"}
    text = value.format_string(max_depth=depth, max_elements=32, repeat_threshold=4)
    return {**row, "value": text[:_MOST_TEXT], **({"cut": len(text)} if len(text) > _MOST_TEXT else {})}


def _point(point: Any) -> dict[str, Any]:
    return {
        "number": point.number,
        "where": point.location,
        "condition": point.condition or "",
        "temporary": point.temporary,
        "hits": point.hit_count,
        "enabled": point.enabled,
    }


def _stopped(reason: str, points: tuple[int, ...] = ()) -> dict[str, Any]:
    return {
        "reason": reason,
        "breakpoints": list(points),
        "thread": _thread(_current(), with_frame=False),
        "frame": next(iter(_frames(1)), None),
    }


def _on_stop(event: Any) -> None:
    _known.clear()
    if isinstance(event, gdb.BreakpointEvent):
        link.tell({"event": "stopped", **_stopped("breakpoint", tuple(one.number for one in event.breakpoints))})
    elif isinstance(event, gdb.SignalEvent):
        link.tell({"event": "stopped", **_stopped(event.stop_signal)})
    else:
        link.tell({"event": "stopped", **_stopped("end of step")})


def _do(request: dict[str, Any]) -> None:
    number, name = request.pop("id"), request.pop("do")
    gdb.write(f"\nkernloop: {name} {' '.join(str(word) for word in request.values())}\n")
    try:
        result = _DOES[name](**request)
    except (gdb.error, gdb.GdbError, KeyboardInterrupt, RuntimeError, ValueError, TypeError, LookupError) as error:
        gdb.write(f"{error}\n")
        link.tell({"id": number, "error": str(error)})
        return
    gdb.write(json.dumps(result, indent=1)[:_MOST_TEXT] + "\n(gdb) ")
    gdb.flush()
    link.tell({"id": number, "result": result})


for _setting in (
    "pagination off",
    "confirm off",
    "height 0",
    "width 0",
    # A function of the kernel that is called from here could not end: all else stands.
    "may-call-functions off",
    # KGDB polls a serial port: many threads take their time.
    "remotetimeout 10",
    # As many bytes at once as a packet takes: KGDB knows no larger ones.
    "dcache line-size 128",
    "history save off",
):
    gdb.execute(f"set {_setting}")
gdb.unwinder.register_unwinder(None, _Asleep(), replace=True)
link = _Link()
gdb.events.stop.connect(_on_stop)
gdb.events.cont.connect(lambda _: link.tell({"event": "running"}))
threading.Thread(target=link.read, args=(lambda request: gdb.post_event(lambda: _do(request)),), daemon=True).start()
link.tell({"event": "ready", "version": gdb.VERSION})
