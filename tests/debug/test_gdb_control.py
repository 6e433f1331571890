# SPDX-License-Identifier: Apache-2.0
"""What GDB says of the guest, and when it says it: an answer is not before what it tells."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path

import pytest

from kernloop.debug.gdb.control import Control
from kernloop.debug.gdb.process import started
from kernloop.debug.gdb.state import Reason, State

# GDB as it speaks when the host gives it no CPU between two lines; a step ends by itself.
SLOW = """#!/usr/bin/env python3
import re, sys, time
for line in sys.stdin:
    token, command = re.match(r"(\\d+)-(\\S+)", line).groups()
    answer = {"exec-continue": "^running", "exec-step": "^running"}.get(command, "^done")
    print(token + answer, flush=True)
    time.sleep(0.3)
    if answer == "^running":
        print('*running,thread-id="all"', flush=True)
    if command == "exec-step":
        print('*stopped,reason="end-stepping-range",thread-id="1",stopped-threads="all"', flush=True)
    if command == "exec-interrupt":
        print('*stopped,signal-name="SIGINT",thread-id="1",stopped-threads="all"', flush=True)
"""


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    program = tmp_path / "gdb"
    program.write_text(SLOW)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return program


def test_a_guest_that_was_told_to_go_on_is_told_as_running_and_can_be_interrupted(slow: Path) -> None:
    async def talk() -> tuple[State, Reason | None]:
        async with started(slow, slow.parent) as gdb:
            control = Control(gdb)
            await control.go_on(0)
            told = control.session.state
            await control.interrupt()
            return told, control.session.reason

    assert asyncio.run(talk()) == (State.RUNNING, Reason.INTERRUPTED)


def test_a_step_that_nobody_waits_for_is_not_told_as_the_stop_before_it(slow: Path) -> None:
    async def talk() -> tuple[State, int, int]:
        async with started(slow, slow.parent) as gdb:
            control = Control(gdb)
            await control.step("step", 0, 1, "")
            told, stops = control.session.state, control.session.stops
            await control.wait(0, 10)
            return told, stops, control.session.stops

    told, stops, later = asyncio.run(talk())
    assert (told, stops) in ((State.RUNNING, 0), (State.STOPPED, 1))
    assert later == 1
