# SPDX-License-Identifier: Apache-2.0
"""`bench report`: consoles made of our own recordings, the rates measured on them, and why another parser is not
there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from kernloop.bench.against import Unavailable, build
from kernloop.bench.console import console, recordings
from kernloop.bench.report import percentile
from kernloop.cli.bench import app
from kernloop.report.scan import scan

WARNING = Path(__file__).parent.parent / "fixtures/console/warn-7.3.4.log"


def bench(*words: str | Path) -> Result:
    return CliRunner().invoke(app, ["report", *map(str, words)])


def measures(*words: str | Path) -> dict[str, Any]:
    done = bench("--json", "--rounds", "1", *words)
    assert done.exit_code == 0, done.output
    value: dict[str, Any] = json.loads(done.stdout)
    assert value["schema"] == "kernloop.bench-report/1"
    found: dict[str, Any] = value["measures"]
    return found


def whole(size: int, every: int | None) -> tuple[bytes, int]:
    pieces = list(console(size, every=every))
    return b"".join(text for text, _ in pieces), sum(crash for _, crash in pieces)


@pytest.mark.parametrize(("size", "every"), [(1_000_000, 100_000), (300_000, 1), (500_000, None)])
def test_a_console_that_is_made_has_the_crashes_that_were_put_in_and_no_others(size: int, every: int | None) -> None:
    data, crashes = whole(size, every)
    assert size <= len(data) < size + 100_000
    assert crashes == (0 if every is None else crashes or -1)
    assert len(list(scan(data))) == crashes
    assert whole(size, every)[0] == data


def test_time_goes_on_in_a_console_that_is_made() -> None:
    data, _ = whole(200_000, 50_000)
    stamps = [float(line[1:13]) for line in data.decode().splitlines() if line[:1] == "[" and line[6:7] == "."]
    assert len(stamps) > 2000
    assert stamps == sorted(stamps)


def test_the_recordings_have_crashes_of_several_kinds() -> None:
    kinds = {next(scan(crash)).kind for crash in recordings().crashes}
    assert len(kinds) >= 5
    assert len(recordings().ordinary) >= 3


def test_rates_come_with_what_was_found() -> None:
    found = measures("--mb", "1", "--only", "console", "--only", "crashes")
    assert list(found) == ["console", "crashes"]
    assert found["console"]["least_mb_per_s"] == 140
    assert found["console"]["bytes"] >= 1_000_000
    assert found["console"]["crashes"] == 1
    assert found["crashes"]["crashes"] > 100
    for measure in found.values():
        assert measure["mb_per_s"] > 0
        assert measure["syzkaller"] is None
        assert measure["mb_per_s"] == pytest.approx(measure["bytes"] / 1e6 / measure["cpu_seconds"]["median"], rel=0.05)


def test_the_logs_may_be_yours(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_bytes(WARNING.read_bytes())
    (tmp_path / "b.log").write_bytes(b"[    7.1] ok\n")
    found = measures("--only", "crashes", "--logs", tmp_path)["crashes"]
    assert (found["bytes"], found["crashes"]) == (WARNING.stat().st_size + 13, 1)


def test_a_folder_without_logs_is_bad_input(tmp_path: Path) -> None:
    done = bench("--only", "crashes", "--logs", tmp_path)
    assert done.exit_code == 2
    assert "no logs in" in done.stderr


def test_without_go_it_is_said_why_the_other_parser_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("kernloop.bench.against._GO", ())
    with pytest.raises(Unavailable, match="Go is not installed"):
        build("syzkaller")
    found = measures("--only", "crashes", "--against", "syzkaller")
    assert "Go is not installed" in found["crashes"]["syzkaller"]["why"]


def test_a_folder_that_is_no_checkout_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("kernloop.bench.against._GO", (sys.executable,))
    with pytest.raises(Unavailable, match="no checkout of syzkaller"):
        build(str(tmp_path))


@pytest.mark.parametrize(
    ("values", "percent", "expected"), [([3.0, 1.0, 2.0], 50, 2.0), (range(1, 101), 99, 99), ([5.0], 99, 5.0)]
)
def test_percentiles(values: Sequence[float], percent: int, expected: float) -> None:
    assert percentile(values, percent) == expected


def test_a_small_log_is_reported_within_half_a_second_of_cpu_time() -> None:
    words = [sys.executable, "-m", "kernloop", "report", str(WARNING)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    taken = []
    for _ in range(3):
        before = os.times()
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, env=environment)
        after = os.times()
        taken.append(after.children_user + after.children_system - before.children_user - before.children_system)
        assert (done.returncode, done.stderr) == (1, "")
    # The first may have to compile.
    assert min(taken) < 0.5
