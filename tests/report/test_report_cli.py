# SPDX-License-Identifier: Apache-2.0
"""`kernloop report` as its users call it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kernloop import runs
from kernloop.cli.main import app

CONSOLE = Path(__file__).parent.parent / "fixtures" / "console"
PANIC = CONSOLE / "tcg-int3-oops-6.12.117.log"
run = CliRunner().invoke


def test_a_crash_is_one_object_and_exit_status_1() -> None:
    result = run(app, ["report", str(PANIC), "--json"])
    found = json.loads(result.stdout)
    assert result.exit_code == 1
    assert found["schema"] == "kernloop.report/1"
    data = PANIC.read_bytes()
    assert data[found["start"] :].startswith(data.splitlines(keepends=True)[found["start_line"] - 1])
    assert set(found) >= {
        *("kind", "family", "title", "function", "alt_titles", "corrupted", "reason", "panicked", "fingerprint"),
        *("frames", "modules", "tainted", "cpu", "comm", "pid", "start", "end", "excerpt", "next"),
    }


def test_a_clean_log_has_no_kind_and_exit_status_0(tmp_path: Path) -> None:
    log = tmp_path / "console.log"
    log.write_text("[    0.1] all is well\n")
    result = run(app, ["report", str(log), "--json"])
    assert (result.exit_code, json.loads(result.stdout)["kind"]) == (0, None)
    assert "no crash" in run(app, ["report", str(log)]).stdout


def test_a_log_may_come_on_stdin() -> None:
    result = run(app, ["report", "-", "--json"], input="[    0.1] kernel BUG at lib/kl.c:7!\n")
    assert (result.exit_code, json.loads(result.stdout)["kind"]) == (1, "kernel-bug")


def test_a_batch_is_one_line_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("[    0.1] kernel BUG at lib/kl.c:7!\n[    9.1] int3: 0000 [#1]\n")
    (tmp_path / "b").write_text("nothing\n")
    result = run(app, ["report", "--json", "--batch", str(tmp_path), str(PANIC)])
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(Path(line["path"]).name, line["kind"]) for line in lines[:2]] == [("a", "kernel-bug"), ("b", None)]
    assert (len(lines), result.exit_code) == (3, 1)


def test_all_crashes_are_listed_first_cause_first() -> None:
    result = run(app, ["report", "-", "--json", "--all"], input="[ 1.1] int3: 0000 [#1]\n[ 1.2] kernel BUG at a.c:7!\n")
    assert [found["kind"] for found in json.loads(result.stdout)["reports"]] == ["int3", "kernel-bug"]


def test_humans_read_title_kind_function_lines_and_the_next_step() -> None:
    result = run(app, ["report", str(PANIC)])
    for word in ("kind ", "fingerprint ", "lines ", "next:"):
        assert word in result.stdout


@pytest.mark.parametrize("arguments", [["no-such-log"], ["--batch", "no-such-log"], ["--json", "no-such-log"]])
def test_what_is_not_there_is_exit_status_2(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "listing", list)
    assert run(app, ["report", *arguments]).exit_code == 2


def test_a_run_stands_for_its_console(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "console.log").write_bytes(PANIC.read_bytes())
    monkeypatch.setattr(runs, "find", lambda name: tmp_path)
    assert json.loads(run(app, ["report", "last", "--json"]).stdout)["kind"]
