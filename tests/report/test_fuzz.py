# SPDX-License-Identifier: Apache-2.0
"""The parsers on bytes that nobody thought of: drawn by hypothesis from what consoles hold, and by atheris from what
reaches new code. What must hold of them is in fuzz_targets.py."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fuzz_targets
from fuzz_targets import FIXTURES, TARGETS
from kernloop.report.scan import scan

_SECONDS = 2
_ENDS_SECONDS = 120.0


def mixtures(name: str) -> st.SearchStrategy[bytes]:
    """Lines of the recordings, words that the parser looks for, and any bytes, in any order, some of them cut."""
    lines = sorted({line for seed in TARGETS[name].seeds() for line in seed.split(b"\n")})
    words = [word.encode() for word in TARGETS[name].words]
    piece = st.one_of(st.sampled_from(lines), st.sampled_from(words), st.binary(max_size=12))
    cut = st.builds(lambda text, at: text[:at], piece, st.integers(0, 60))
    line = st.lists(st.one_of(piece, cut), min_size=1, max_size=3).map(b"".join)
    return st.lists(line, max_size=50).map(b"\n".join)


@pytest.mark.parametrize("name", TARGETS)
def test_what_holds_of_a_parser_holds_of_any_mixture(name: str) -> None:
    @settings(max_examples=60)
    @given(mixtures(name))
    def check(data: bytes) -> None:
        TARGETS[name].check(data)

    check()


@pytest.mark.parametrize("name", TARGETS)
def test_what_holds_of_a_parser_holds_of_the_recordings(name: str) -> None:
    seeds = list(TARGETS[name].seeds())
    assert seeds
    for seed in seeds:
        TARGETS[name].check(seed)


LOGS = sorted((FIXTURES / "console").glob("*.log"))


@pytest.mark.parametrize("path", LOGS, ids=lambda path: path.name)
def test_a_console_cut_anywhere_tells_the_same_of_what_is_left(path: Path) -> None:
    data = path.read_bytes()
    whole = [fuzz_targets.signature(crash) for crash in scan(data)]
    for crash in scan(data):
        assert fuzz_targets.signature(crash) in whole
        fuzz_targets.console(data[crash.start : crash.end])
        fuzz_targets.console(data[: (crash.start + crash.end) // 2])


@pytest.mark.fuzz
@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="no atheris for this machine and Python")
@pytest.mark.parametrize("name", TARGETS)
def test_atheris_finds_no_bytes_that_a_parser_fails_on(name: str, tmp_path: Path) -> None:
    fuzz = Path(fuzz_targets.__file__).with_name("fuzz.py")
    done = subprocess.run(
        [sys.executable, str(fuzz), name, str(_SECONDS), str(tmp_path), "-seed=1"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        errors="replace",
        timeout=_ENDS_SECONDS,
    )
    left = [repr(file.read_bytes()) for file in tmp_path.glob(f"{name}-*")]
    assert done.returncode == 0, f"{left}\n{done.stderr[-3000:]}"
    assert "stat::number_of_executed_units" in done.stderr
