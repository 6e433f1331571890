# SPDX-License-Identifier: Apache-2.0
"""The questions: calls, values, tasks, variables. `by` names a debugger; "" takes the one that keeps the guest still.

>>> backtrace("a", "cpus").rows                        # doctest: +SKIP
({'of': 'cpu 0: idle', 'frames': ['#0 pv_native_safe_halt+0xf', ...]}, ...)
"""

from __future__ import annotations

import re
from dataclasses import replace

from kernloop.debug.questions import at_drgn, at_gdb, at_kgdb
from kernloop.debug.questions.told import By, Of, Told, asked_of, chosen
from kernloop.errors import UsageError
from kernloop.vm.client import VM

__all__ = ["backtrace", "local_variables", "read", "tasks"]

_SECONDS = 120.0
_MOST_MEMORY = 1 << 16
# Of tasks: so many with what they sleep in.
_ROWS = 80


def backtrace(subject: str, of: str = "", by: str = "") -> Told:
    """The calls of `of`: "" for what stopped, or all CPUs where nothing did; cpus, cpu N, a pid."""
    debugger, what = chosen(subject, by)
    wanted = asked_of(of)
    if debugger is By.GDB and wanted.pid is None and isinstance(what, VM):
        return at_gdb.backtrace(what, wanted)
    if debugger is By.KGDB and isinstance(what, VM):
        return at_kgdb.backtrace(what, wanted)
    return at_drgn.ask(what, "backtrace", _SECONDS, of=of)


def read(
    subject: str,
    what: str,
    of: str = "",
    frame: int = 0,
    depth: int = 1,
    size: int = 0,
    by: str = "",
    skip: int = 0,
) -> Told:
    """The value of an expression: C for GDB and KGDB, in frame `frame` of `of`; Python and C's arrows for drgn. With
    `size` it is an address, of which so many bytes are read."""
    debugger, subject_ = chosen(subject, by)
    if not 0 <= size <= _MOST_MEMORY:
        raise UsageError(f"{size} bytes", hint=f"1 to {_MOST_MEMORY}")
    wanted = asked_of(of)
    if debugger is By.GDB and isinstance(subject_, VM):
        return at_gdb.read(subject_, what, wanted, frame, depth, size)
    if debugger is By.KGDB and isinstance(subject_, VM):
        if not size:
            return at_kgdb.read(subject_, what, wanted, frame, depth)
        what = hex(at_kgdb.address(subject_, what, wanted, frame))
    elif wanted != Of():
        raise UsageError("drgn reads memory, not in a frame", hint="locals has a task's variables")
    return at_drgn.ask(subject_, "read", _SECONDS, what=what, depth=depth, size=size, skip=skip)


def tasks(subject: str, like: str = "", by: str = "", skip: int = 0) -> Told:
    """All tasks whose row fits the regular expression `like`, those first that wait."""
    try:
        re.compile(like)
    except re.error as error:
        raise UsageError(f"{like!r} is no regular expression: {error}", hint="as in kworker, ' D ', ^1 ") from None
    debugger, what = chosen(subject, by)
    # KGDB takes packets over a serial port for each task; drgn has them at once, from the same memory.
    if debugger is By.KGDB and by and isinstance(what, VM):
        return at_kgdb.tasks(what, like)
    found = at_drgn.ask(what, "tasks", _SECONDS, like=like, skip=skip, most=_ROWS)
    note = "GDB's threads are CPUs: drgn has read the tasks" if by == By.GDB else ""
    return replace(found, head={**found.head, "note": note})


def local_variables(subject: str, of: str = "", frame: int = 0, by: str = "") -> Told:
    """Arguments and variables of a call."""
    debugger, what = chosen(subject, by)
    wanted = asked_of(of)
    if wanted.every:
        raise UsageError("the locals of one call", hint="of='cpu 0', frame=2")
    if debugger is By.GDB and wanted.pid is None and isinstance(what, VM):
        return at_gdb.local_variables(what, wanted, frame)
    if debugger is By.KGDB and isinstance(what, VM):
        return at_kgdb.local_variables(what, wanted, frame)
    return at_drgn.ask(what, "locals", _SECONDS, of=of, frame=frame)
