# SPDX-License-Identifier: Apache-2.0
"""Virtual time: the same scheduler and seed give the same console bit for bit, whatever the machine does meanwhile."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from support import SCHEDULERS, kernloop

pytestmark = [pytest.mark.vm, pytest.mark.slow]


def verify(name: str, *words: str) -> dict[str, Any]:
    return kernloop("verify", "--json", SCHEDULERS / name, *words, seconds=300).json


@contextmanager
def busy(loops: int) -> Iterator[None]:
    """`loops` processes that use all the CPU time they get."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(loops)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(one[key] == other[key] for key in ("console_sha256", "verdict", "tests", "counters", "exit"))


def test_the_same_scheduler_twice_gives_the_same_console_also_on_a_busy_machine() -> None:
    first = verify("fifo.bpf.c")
    assert first["verdict"] == "pass"
    assert same(first, verify("fifo.bpf.c"))
    with busy(2):
        loaded = verify("fifo.bpf.c")
    assert same(first, loaded)


def test_an_ejection_comes_at_the_same_moment_each_time() -> None:
    first = verify("broken/lost_task.bpf.c")
    assert first["verdict"] == "ejected"
    with busy(2):
        assert same(first, verify("broken/lost_task.bpf.c"))


def test_another_seed_is_another_console_and_again_the_same_each_time() -> None:
    first = verify("fifo.bpf.c", "--tests", "idle")
    second = verify("fifo.bpf.c", "--tests", "idle", "--seed", "2")
    assert first["console_sha256"] != second["console_sha256"]
    assert same(second, verify("fifo.bpf.c", "--tests", "idle", "--seed", "2"))
    assert (first["seed"], second["seed"]) == (1, 2)
