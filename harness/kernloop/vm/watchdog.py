# SPDX-License-Identifier: Apache-2.0
"""QEMU's watchdog heard: a guest in which no task has run for long is stopped, and found to hang or to be well.

The device counts the guest's clock, which stands still while the guest is stopped by its user or a debugger, or lies
in a snapshot. It runs on while the host does not let QEMU run. So a guest is let go on before it is believed dead: one
that lives answers, and starts the device anew.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kernloop.vm.machine import Machine

__all__ = ["lives", "seconds"]

# BARKS_S of guest/watchdog.c, and what its init reads.
_SECONDS = 30
_WORD = "kernloop_watchdog="

# A guest that has used so much CPU time and not answered has had its chance; one that sleeps uses none.
_CPU_SECONDS = 5.0
_ASLEEP_SECONDS = 20.0
_POLL_SECONDS = 0.2


async def lives(machine: Machine, kept: Callable[[], bool]) -> bool | None:
    """Let a guest that the watchdog has stopped go on, and say whether its agent answers; None where it could not, for
    somebody has `kept` it. Raises HarnessError.
    """
    answer = machine.ask_for_life()
    await machine.qmp("cont")
    used, slept = _cpu_seconds(machine.pid), 0.0
    while not answer.done() and not machine.ended.done():
        signs: set[asyncio.Future[Any]] = {answer, machine.ended}
        await asyncio.wait(signs, timeout=_POLL_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        # A guest whose vCPUs are halted uses little; a QEMU that a signal or a debugger has stopped has no say.
        if kept():
            return None
        slept += 0 if machine.stopped else _POLL_SECONDS
        busy = _cpu_seconds(machine.pid) - used
        if busy > _CPU_SECONDS or (slept > _ASLEEP_SECONDS and busy < slept / 10 and await _all_dead(machine)):
            break
    return answer.done() or machine.ended.done()


def seconds(words: Sequence[str]) -> int:
    """After how many seconds without a task the watchdog barks in a guest whose kernel has these `words`."""
    given = [word.removeprefix(_WORD) for word in words if word.startswith(_WORD)]
    return int(given[-1]) if given and given[-1].isdigit() else _SECONDS


# Nothing wakes a CPU that is halted with its interrupts off.
async def _all_dead(machine: Machine) -> bool:
    text = str(await machine.qmp("human-monitor-command", {"command-line": "info registers -a"}))
    return "HLT=0" not in text and not any(int(flags[:8], 16) & 1 << 9 for flags in text.split("RFL=")[1:])


def _cpu_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
