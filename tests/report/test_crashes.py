# SPDX-License-Identifier: Apache-2.0
"""Crashes that were made in guests of ours, recorded: kind and guilty function of each, and nothing before it."""

from __future__ import annotations

import re

import pytest

import crashing
from kernloop.report.crash import most_severe
from kernloop.report.engine import parse_console

ROWS = {row.name: row for row in crashing.rows()}
LOGS = sorted(crashing.LOGS.glob("crash-*.log"))


def row_of(name: str) -> crashing.Row:
    found = re.fullmatch(r"crash-(.+?)-\d+\.\d+\.\d+(?:-debian)?", name)
    assert found, name
    return ROWS[found[1]]


@pytest.mark.parametrize("name", [path.stem for path in LOGS])
def test_a_crash_made_in_a_guest_has_its_kind_and_function(name: str) -> None:
    row = row_of(name)
    crashes = parse_console((crashing.LOGS / f"{name}.log").read_text().split("\n"))
    assert crashes, "nothing was reported"
    worst = most_severe(crashes)
    assert worst is not None
    assert row.fits(crashes[0]), (crashes[0].kind, crashes[0].function, crashes[0].title)
    assert row.fits(worst), (worst.kind, worst.function, worst.title)


def test_what_kernels_and_programs_say_when_all_is_well_is_no_report() -> None:
    said = crashing.harmless()
    for prefix in ("[    7.104200] ", "[   12.000001][    T1] ", ""):
        found = {line: crash.title for line in said for crash in parse_console(["[    0.1] x", prefix + line])}
        assert not found
    assert not parse_console([f"[    7.1] {line}" for line in said])
