# SPDX-License-Identifier: Apache-2.0
"""Matrices of topologies and kernels: their cells, how many at a time, and what the whole comes to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kernloop.errors import UsageError
from kernloop.sched.matrix import Cell, Figure, Result, cells, conclusion, decisive, default_jobs, estimate, one_of_each
from kernloop.verdict import Verdict, exit_code


def result(verdict: str, name: str = "uma", summary: str = "5 tests") -> Result:
    return Result(Cell(name, "debian:7.3"), Verdict(verdict), summary, "", "7.3.4", None, 9.0, Path("/runs/x"))


def test_the_cells_of_one_kernel_stand_together() -> None:
    found = cells(["uma", "2x4x2"], ["debian:6.18", "debian:newest"])
    assert [cell.name for cell in found] == [
        "uma debian:6.18",
        "2x4x2 debian:6.18",
        "uma debian:newest",
        "2x4x2 debian:newest",
    ]


def test_claims_are_tested_on_the_machines_that_show_something_of_them() -> None:
    found = cells(["up", "uma", "smt", "2x4x2"], ["a"], ["weights", "hotplug"])
    assert [cell.claims for cell in found] == [("weights",), ("weights",), ("hotplug",), ("weights", "hotplug")]
    assert cells(["up"], ["a"])[0].claims is None


def test_a_gauntlet_takes_the_newest_kernel_of_each_series_of_debians() -> None:
    known = ["debian:6.12.90", "debian:7.2.12", "debian:7.2.13", "tree:/x/linux-7.3.1", "path:/boot/a.b.c"]
    assert one_of_each(known) == ["debian:6.12.90", "debian:7.2.13"]


@pytest.mark.parametrize("topologies", [["uma", "uma"], ["uma", "4x"]])
def test_a_topology_given_twice_or_misspelt_is_refused(topologies: list[str]) -> None:
    with pytest.raises(UsageError):
        cells(topologies, ["debian:newest"])


def test_a_guest_in_virtual_time_is_one_thread_of_the_host_and_in_real_time_as_many_as_its_vcpus() -> None:
    todo = cells(["uma", "smt"], ["a", "b", "c", "d"])
    assert default_jobs(todo, real_time=False, cpus=6, free_mib=100_000) == 6
    assert default_jobs(todo, real_time=False, cpus=64, free_mib=100_000) == 8
    assert default_jobs(todo, real_time=True, cpus=16, free_mib=100_000) == 4
    assert default_jobs(todo, real_time=False, cpus=6, free_mib=2000) == 2
    assert default_jobs(todo, real_time=True, cpus=2, free_mib=10) == 1


def test_more_at_a_time_take_less_time_and_never_less_than_the_longest() -> None:
    todo = cells(["uma", "big"], ["a"])
    assert estimate(todo, 1) > estimate(todo, 2) == estimate(todo[1:], 2)


@pytest.mark.parametrize(
    ("verdicts", "verdict", "code"),
    [
        (["pass", "pass"], "pass", 0),
        (["pass", "infra"], "infra", 125),
        (["infra", "test-failed", "pass"], "test-failed", 1),
        (["test-failed", "ejected", "unknown"], "ejected", 1),
        (["pass", "unknown"], "unknown", 125),
    ],
)
def test_what_one_cell_proves_against_the_scheduler_stands_whatever_we_failed_to_run(
    verdicts: list[str], verdict: str, code: int
) -> None:
    found, summary, _ = conclusion([result(word) for word in verdicts])
    assert (found, exit_code(found)) == (verdict, code)
    assert summary.startswith(f"{verdicts.count('pass')} of {len(verdicts)} pass")


def test_the_summary_names_the_worst_cell_and_counts_those_that_were_not_judged() -> None:
    found = [result("pass"), result("ejected", "numa4", "runnable task stall"), result("infra")]
    _, summary, step = conclusion(found, interrupted="interrupted")
    assert summary == ("interrupted: 1 of 3 pass; 1 fail: numa4 debian:7.3: runnable task stall; 1 not judged")
    assert step == "kernloop runs show x"


def figure(name: str, ok: bool, figure: float, limit: float) -> dict[str, Any]:
    return {"name": name, "ok": ok, "result": "pass" if ok else "fail", "figure": figure, "limit": limit, "unit": "ms"}


def test_the_decisive_figure_is_the_failed_one_or_the_nearest_to_its_limit() -> None:
    far, near, bad = figure("a", True, 1, 100), figure("b", True, 120, 100), figure("c", False, 101, 100)
    assert decisive({"verdict": "pass", "tests": [far, near]}) == Figure("b", 120, "ms", 100)
    assert decisive({"verdict": "test-failed", "tests": [far, bad, near]}) == Figure("c", 101, "ms", 100)
    # Passed tests do not tell why the kernel threw it out.
    assert decisive({"verdict": "ejected", "tests": [far]}) is None
    assert decisive({"verdict": "build-failed"}) is None
