# SPDX-License-Identifier: Apache-2.0
"""Virtual time: the same scheduler and seed give the same console bit for bit, whatever the machine does meanwhile."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from support import SCHEDULERS, alive, events_of, kernloop, start, the_run, until

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


def test_a_replay_that_the_host_gives_too_little_time_says_so_and_not_that_it_is_another() -> None:
    first = kernloop("run", "--seed", "1", "--json", "--", "sh", "-c", "while :; do :; done & sleep 30; kill $!").json
    assert first["verdict"] == "pass"
    spec = Path(first["run"]) / "spec.json"
    spec.write_text(json.dumps({**json.loads(spec.read_text()), "timeout": 1}))
    done = kernloop("replay", Path(first["run"]).name, "--json")
    assert (done.status, done.json["verdict"]) == (125, "inconclusive")
    assert "1 s of real time were over" in done.json["summary"]


def reached(run: Path, stage: str) -> bool:
    return stage in [entry["event"] for entry in events_of(run)]


def test_a_kernloop_that_stands_still_for_a_while_does_not_reach_the_guest() -> None:
    words = ("verify", "--json", "--tests", "idle,saturation", SCHEDULERS / "fifo.bpf.c")
    stopped = start(*words)
    run = until(the_run, 60, "a run directory")
    assert run is not None
    for stage in ("qemu-started", "guest-up"):
        until(partial(reached, run, stage), 90, stage)
        stopped.send_signal(signal.SIGSTOP)
        time.sleep(3)  # nothing is waited for: so long nobody reads what the guest says
        stopped.send_signal(signal.SIGCONT)
    out, _ = stopped.communicate(timeout=300)
    assert same(json.loads(out), kernloop(*words, seconds=300).json)


@pytest.mark.parametrize("size", [400_000, 900_000], ids=["it all fits into the pipe", "the guest has to wait"])
def test_a_kernloop_that_looks_again_only_when_all_is_said_has_all_of_it(size: int) -> None:
    stopped = start("run", "--seed", "1", "--json", "--", "head", "-c", str(size), "/dev/zero")
    run = until(the_run, 60, "a run directory")
    assert run is not None
    until(partial(reached, run, "guest-up"), 90, "the guest")
    stopped.send_signal(signal.SIGSTOP)
    qemus = [entry["pid"] for entry in events_of(run) if entry["event"] == "qemu-started"]
    if size < 500_000:
        until(lambda: not alive(qemus[-1]), 60, "the end of QEMU")
    else:
        time.sleep(5)  # more than the command takes
        assert alive(qemus[-1])
    stopped.send_signal(signal.SIGCONT)
    out, _ = stopped.communicate(timeout=60)
    assert json.loads(out)["verdict"] == "pass"
    assert (run / "stdout").stat().st_size == size
