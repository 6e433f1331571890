# SPDX-License-Identifier: Apache-2.0
"""One scheduler on many machines and kernels: which cells there are, how many at a time, how long it may take, and what
all of it comes to. Nothing is started here.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kernloop.errors import UsageError
from kernloop.verdict import Verdict, exit_code, worst
from kernloop.vm.topology import Topology, arranged, memory_for

__all__ = ["GAUNTLET", "SCHEMA", "Cell", "Figure", "Result", "cells", "conclusion", "decisive", "default_jobs",
           "estimate", "one_of_each", "seconds_for", "told"]  # fmt: skip

SCHEMA = "kernloop.verify-matrix/1"
# What --gauntlet tries: what the smallest machines have that others have not.
GAUNTLET = ("up", "uma", "smt", "llc2", "numa2", "numa4")
# Where --gauntlet runs the tests of a claim: weights where tasks have to share a CPU, groups across CPUs and nodes,
# a CPU that goes as a sibling, as one of an LLC, as one of a node.
_MACHINES = {
    "weights": ("up", "uma"),
    "cgroups": ("uma", "numa2"),
    "partial": ("uma", "smt"),
    "hotplug": ("smt", "llc2", "numa2"),
}
# QEMU's own, beside the guest's memory.
_QEMU_MIB = 300
# CPU seconds on the machine that this was written on, under TCG: a boot, and the default suite from a snapshot.
_BOOT, _BOOT_A_CPU = 5.0, 1.5
_SUITE, _SUITE_A_CPU = 2.0, 6.0
# The suite's load does not grow beyond so many CPUs (guest/suite.h).
_LOADED_CPUS = 16


@dataclass(frozen=True)
class Cell:
    """A topology, a kernel, and which of the claims are tested there; None for whatever the scheduler does."""

    topology: str
    kernel: str
    claims: tuple[str, ...] | None = None

    @property
    def name(self) -> str:
        return " ".join([self.topology, self.kernel, *(self.claims or ())])

    @property
    def machine(self) -> Topology:
        return arranged(self.topology)


@dataclass(frozen=True)
class Figure:
    """What a test measured, and the limit it was judged by."""

    test: str
    figure: float
    unit: str
    limit: float

    def __str__(self) -> str:
        return f"{self.test} {self.figure:.4g} {self.unit} (limit {self.limit:.4g})"


@dataclass(frozen=True)
class Result:
    """What became of a cell; `figure` is the decisive one, `run` its own run directory."""

    cell: Cell
    verdict: Verdict
    summary: str
    next: str
    release: str
    figure: Figure | None
    seconds: float
    run: Path | None

    @property
    def exit_code(self) -> int:
        return exit_code(self.verdict)

    @property
    def ours(self) -> bool:
        """Whether it says nothing about the scheduler."""
        return self.exit_code == 125


def cells(topologies: Sequence[str], kernels: Sequence[str], claims: Sequence[str] | None = None) -> tuple[Cell, ...]:
    """All of them, kernel by kernel; with `claims`, each on the machines where its tests show something.

    Raises UsageError for a topology that is none, or one that is given twice.
    """
    for what, words in (("topology", topologies), ("kernel", kernels)):
        twice = next((word for at, word in enumerate(words) if word in words[:at]), None)
        if twice is not None:
            raise UsageError(f"the {what} {twice!r} is given twice", hint="once is enough: every run is the same")
    for word in topologies:
        arranged(word)
    return tuple(Cell(topology, kernel, _tested(topology, claims)) for kernel in kernels for topology in topologies)


def one_of_each(refs: Sequence[str]) -> list[str]:
    """Of Debian's kernels, oldest first, the newest of each series: debian:7.2.12 is no other kernel than 7.2.13."""
    newest = {ref.rpartition(".")[0]: ref for ref in refs if ref.startswith("debian:") and ref.count(".") == 2}
    return list(newest.values())


def default_jobs(todo: Sequence[Cell], *, real_time: bool, cpus: int | None = None, free_mib: int | None = None) -> int:
    """How many guests at a time: as many as the host has CPUs and memory for.

    Under TCG a guest is one thread, however many vCPUs it has. In real time each vCPU wants a CPU of the host.
    """
    cpus = cpus or len(os.sched_getaffinity(0))
    free_mib = _available_mib() if free_mib is None else free_mib
    widest = max(cell.machine.cpus for cell in todo)
    at_a_time = cpus // widest if real_time else cpus
    return max(1, min(len(todo), at_a_time, free_mib // (memory_for(widest) + _QEMU_MIB)))


def seconds_for(cpus: int, *, own_loader: bool = False) -> float:
    """The real time that a guest with so many vCPUs may take, if nobody says otherwise.

    Loaders of their own come with large schedulers: the kernel verifies scx_lavd's programs for a minute, at each load.
    """
    return (900.0 if own_loader else 300.0) + 15.0 * max(0, cpus - 4)


def estimate(todo: Sequence[Cell], jobs: int, *, share: float = 1.0) -> float:
    """About how many seconds all cells take where nothing else runs; `share` of the default suite is run."""
    one = [
        _BOOT + _BOOT_A_CPU * cpus + share * (_SUITE + _SUITE_A_CPU * min(cpus, _LOADED_CPUS))
        for cpus in (cell.machine.cpus for cell in todo)
    ]
    return max(sum(one) / jobs, max(one))


def decisive(value: dict[str, Any]) -> Figure | None:
    """Of the object of a verify: the first test that failed or did not decide, else the figure nearest to its limit."""
    tests = [test for test in value.get("tests") or () if test["result"] != "skipped" and test["unit"]]
    bad = [test for word in ("fail", "inconclusive") for test in tests if test["result"] == word]
    if not tests or (value["verdict"] != Verdict.PASS and not bad):
        return None
    test = bad[0] if bad else max(tests, key=_nearness)
    return Figure(test["name"], test["figure"], test["unit"], test["limit"])


def conclusion(results: Sequence[Result], *, interrupted: str = "") -> tuple[Verdict, str, str]:
    """Verdict, summary and next step of the whole. What a cell proves against the scheduler stands, whatever became of
    the others; `interrupted` says why some were not run."""
    at_fault = [one for one in results if one.exit_code == 1]
    not_judged = [one for one in results if one.ours]
    total = len(results)
    count = f"{sum(one.verdict is Verdict.PASS for one in results)} of {total} pass"
    if at_fault:
        verdict = worst(one.verdict for one in at_fault)
        first = next(one for one in at_fault if one.verdict is verdict)
        summary = f"{count}; {len(at_fault)} fail: {first.cell.name}: {first.summary}"
        step = first.next or (f"kernloop runs show {first.run.name}" if first.run else "")
    elif not_judged:
        verdict = worst(one.verdict for one in not_judged)
        first = next(one for one in not_judged if one.verdict is verdict)
        summary, step = f"{count}; {first.cell.name}: {first.summary}", first.next
    else:
        verdict, summary, step = worst(one.verdict for one in results), count, ""
    if at_fault and not_judged:
        summary += f"; {len(not_judged)} not judged"
    return verdict, f"{interrupted}: {summary}" if interrupted else summary, step


def told(seconds: float) -> str:
    """A time of that length, in words."""
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


# A machine that is none of ours has all of them tested.
def _tested(topology: str, claims: Sequence[str] | None) -> tuple[str, ...] | None:
    if claims is None:
        return None
    return tuple(claim for claim in claims if topology not in GAUNTLET or topology in _MACHINES.get(claim, GAUNTLET))


# 1 is at the limit. Whether a figure may not be more or not be less than its limit is seen by one that passed.
def _nearness(test: dict[str, Any]) -> float:
    figure, limit = float(test["figure"]), float(test["limit"])
    if figure <= 0 or limit <= 0:
        return 0.0
    return figure / limit if figure <= limit else limit / figure


def _available_mib() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) // 1024
    return 1 << 20
