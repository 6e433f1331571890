# SPDX-License-Identifier: Apache-2.0
"""`kernloop verify --repeat`: in virtual time every run is the same, whatever the host does; in real time all count.

With KERNLOOP_LONG_TESTS all examples are run five times, twice of them on a host with more to do than CPUs.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from support import SCHEDULERS, kernloop

pytestmark = pytest.mark.vm

LONG = pytest.mark.skipif("KERNLOOP_LONG_TESTS" not in os.environ, reason="KERNLOOP_LONG_TESTS is not set")

with (SCHEDULERS / "expected.toml").open("rb") as _file:
    EXPECTED: list[dict[str, Any]] = tomllib.load(_file)["scheduler"]


@contextmanager
def a_loaded_host() -> Iterator[None]:
    """Twice as many hogs as CPUs."""
    hogs = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * len(os.sched_getaffinity(0)))
    ]
    try:
        yield
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()


def compared(scheduler: str, *words: str, times: int) -> dict[str, Any]:
    done = kernloop("verify", SCHEDULERS / scheduler, *words, "--repeat", str(times), "--json", seconds=900)
    value = done.json
    assert value["verdict"] != "inconclusive", value["summary"]
    if value["verdict"] != "build-failed":
        assert (value["repeated"], value["summary"].endswith("all the same byte by byte")) == (times, True)
    return value


@pytest.mark.parametrize("scheduler", ["fifo.bpf.c", "broken/uncreated_dsq.bpf.c"])
def test_three_runs_are_the_same(scheduler: str) -> None:
    compared(scheduler, "--tests", "idle", times=3)


@LONG
@pytest.mark.slow
@pytest.mark.parametrize("path", [entry["path"] for entry in EXPECTED])
def test_verdict_figures_and_console_are_equal_over_five_runs_with_the_host_idle_and_loaded(path: str) -> None:
    value = compared(path, times=3)
    if value["verdict"] == "build-failed":
        return
    with a_loaded_host():
        for _ in range(2):
            again = kernloop("replay", Path(value["run"]).name, "--json", seconds=900)
            assert (again.status, again.json["verdict"]) == (0, "pass"), again.json["summary"]
            assert again.json["console_sha256"] == value["console_sha256"]


@LONG
@pytest.mark.slow
def test_a_watchdog_of_half_a_minute_costs_seconds() -> None:
    words = ("--tests", "saturation", "--watchdog", "30", "--json")
    value = kernloop("verify", SCHEDULERS / "broken/greedy_priority.bpf.c", *words, seconds=300).json
    assert value["verdict"] == "ejected"
    waited = float(value["exit"]["message"].rpartition(" ")[2].removesuffix("s"))
    assert 30 <= waited <= 46
    assert value["tests"][-1]["seconds"] > 30


@LONG
@pytest.mark.slow
@pytest.mark.parametrize(("scheduler", "verdict"), [("fifo.bpf.c", "pass"), ("broken/lost_task.bpf.c", "ejected")])
def test_real_time_has_the_same_verdict_and_says_how_long_the_host_kept_the_guest_waiting(
    scheduler: str, verdict: str
) -> None:
    words = ("--time", "real", "--repeat", "2", "--tests", "idle,saturation", "--json")
    value = kernloop("verify", SCHEDULERS / scheduler, *words, seconds=600).json
    assert value["verdict"] == verdict, value["summary"]
    assert value["recipe"] == {}
    runs = value["repetitions"]
    assert len(runs) == (2 if verdict == "pass" else 1)
    assert all(one["run_seconds"] > 0.5 and one["wait_seconds"] >= 0 for one in runs)
    assert all((Path(value["run"]) / one["folder"] / "console.log").stat().st_size for one in runs)
