# SPDX-License-Identifier: Apache-2.0
"""Compiled modules are kept in the cache where the environment forbids to write them beside the sources."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support import ROOT, kernloop, python_env


def test_the_second_call_finds_what_the_first_one_compiled(tmp_path: Path) -> None:
    # Sources of its own: beside ours other tests' processes write at the same time.
    sources = shutil.copytree(ROOT / "harness", tmp_path / "harness", ignore=shutil.ignore_patterns("__pycache__"))
    assert kernloop("runs", "list", PYTHONDONTWRITEBYTECODE="1", PYTHONPATH=str(sources)).status == 0
    kept = {path.name.partition(".")[0] for path in (tmp_path / "cache/kernloop/bytecode").rglob("*.pyc")}
    assert "runs" in kept
    assert not list(sources.rglob("*.pyc"))


@pytest.mark.parametrize("value", ["", "1"])
def test_children_of_ours_are_told_where_only_if_they_must_be(value: str, tmp_path: Path) -> None:
    script = "import json; from kernloop.host import bytecode; print(json.dumps(bytecode.environment()))"
    done = subprocess.run(
        [sys.executable, "-c", script], env=python_env(PYTHONDONTWRITEBYTECODE=value), capture_output=True, check=True
    )
    told = json.loads(done.stdout)
    kept = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(tmp_path / "cache/kernloop/bytecode")}
    assert told == (kept if value else {})
