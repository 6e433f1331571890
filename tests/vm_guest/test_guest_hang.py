# SPDX-License-Identifier: Apache-2.0
"""Guests that hang on purpose: the verdict names the function and the task."""

from __future__ import annotations

from typing import Any

import pytest

import trees
from support import kernloop

pytestmark = pytest.mark.vm


def hung(name: str) -> dict[str, Any]:
    script = f"echo {name} > /sys/kernel/debug/provoke-crash/DIRECT"
    kernel = trees.kernel().ref
    done = kernloop("run", "--kernel", kernel, "--cpus", "2", "--timeout", "4", "--json", "--", "sh", "-c", script)
    assert done.status == 124, done
    return done.json


def test_a_cpu_that_spins_is_named_with_its_task() -> None:
    verdict = hung("SOFTLOCKUP")
    assert (verdict["verdict"], verdict["function"]) == ("hang", "lkdtm_SOFTLOCKUP")
    assert "does not leave lkdtm_SOFTLOCKUP (sh, pid" in verdict["summary"]
    found = kernloop("report", "last", "--json").json["hang"]
    assert (found["function"], found["comm"]) == ("lkdtm_SOFTLOCKUP", "sh")


def test_a_cpu_that_answers_nothing_is_named_by_its_registers() -> None:
    verdict = hung("HARDLOCKUP")
    assert (verdict["verdict"], verdict["function"]) == ("hang", "lkdtm_HARDLOCKUP")
    assert "with interrupts off" in verdict["summary"]


def test_a_task_that_waits_for_ever_is_named() -> None:
    verdict = hung("HUNG_TASK")
    assert (verdict["verdict"], verdict["function"]) == ("hang", "lkdtm_HUNG_TASK")
    assert "waits in lkdtm_HUNG_TASK" in verdict["summary"]
