# SPDX-License-Identifier: Apache-2.0
"""Compiled modules are kept in the cache where the environment forbids to write them beside the sources."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from support import ROOT, kernloop, python_env


def beside_the_sources() -> set[Path]:
    return set((ROOT / "harness").rglob("*.pyc"))


def test_the_second_call_finds_what_the_first_one_compiled(tmp_path: Path) -> None:
    before = beside_the_sources()
    assert kernloop("runs", "list", PYTHONDONTWRITEBYTECODE="1").status == 0
    kept = {path.name.partition(".")[0] for path in (tmp_path / "cache/kernloop/bytecode").rglob("*.pyc")}
    assert "runs" in kept
    assert beside_the_sources() == before


@pytest.mark.parametrize("value", ["", "1"])
def test_children_of_ours_are_told_where_only_if_they_must_be(value: str, tmp_path: Path) -> None:
    script = "import json; from kernloop.host import bytecode; print(json.dumps(bytecode.environment()))"
    done = subprocess.run(
        [sys.executable, "-c", script], env=python_env(PYTHONDONTWRITEBYTECODE=value), capture_output=True, check=True
    )
    told = json.loads(done.stdout)
    kept = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(tmp_path / "cache/kernloop/bytecode")}
    assert told == (kept if value else {})
