# SPDX-License-Identifier: Apache-2.0
"""`kernloop runs`: what people and programs see of past runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from kernloop import runs
from kernloop.cli.main import app

SCHEMA = "kernloop.run/1"


def call(*words: str | Path) -> Result:
    return CliRunner().invoke(app, ["runs", *(str(word) for word in words)])


@pytest.fixture
def path() -> Path:
    """A finished run."""
    with runs.create("run", SCHEMA, {"subject": "echo [bold]hi"}) as run:
        (run.path / "console.log").write_text("Linux version 7.3 [x]\nlast line\n")
        run.note("boot", kernel="debian:7.3")
        run.judge({"schema": SCHEMA, "verdict": "panic", "summary": "it [crashed]", "exit_code": 120})
    return run.path


def test_the_list_shows_run_verdict_subject_and_summary(path: Path) -> None:
    done = call("list")
    assert done.exit_code == 0
    for part in (path.name, "panic", "echo [bold]hi", "it [crashed]"):
        assert part in done.stdout


def test_the_list_as_json_says_how_many_there_are(path: Path) -> None:
    value = json.loads(call("list", "--json", "--limit", "1").stdout)
    assert (value["schema"], value["total"], len(value["runs"])) == ("kernloop.runs/1", 1, 1)
    [row] = value["runs"]
    assert (row["id"], row["path"], row["verdict"], row["live"]) == (path.name, str(path), "panic", False)
    assert row["bytes"] > 0


def test_an_empty_list_is_no_error() -> None:
    assert call("list").exit_code == 0
    assert json.loads(call("list", "--json").stdout)["runs"] == []


def test_show_tells_what_happened_when_and_where_the_files_are(path: Path) -> None:
    done = call("show", path.name)
    assert done.exit_code == 0
    for part in ("it [crashed]", "boot", "kernel=debian:7.3", f"{path}/console.log"):
        assert part in done.stdout


def test_show_without_a_name_is_the_last_run(path: Path) -> None:
    value = json.loads(call("show", "--json").stdout)
    assert (value["id"], value["result"]["exit_code"]) == (path.name, 120)
    assert [entry["event"] for entry in value["timeline"]] == ["start", "boot", "verdict"]


def test_show_console_is_the_log_as_it_is(path: Path) -> None:
    assert call("show", path.name[:15], "--console").stdout == "Linux version 7.3 [x]\nlast line\n"


def test_show_html_writes_the_page_and_says_where(path: Path) -> None:
    assert not (path / "report.html").exists()
    assert call("show", path.name, "--html").stdout == f"{path}/report.html\n"
    text = (path / "report.html").read_text()
    assert "it [crashed]" in text
    assert "Linux version 7.3 [x]" in text


def test_show_html_as_json_names_the_page(path: Path) -> None:
    value = json.loads(call("show", path.name, "--html", "--json").stdout)
    assert (value["report"], value["id"]) == (f"{path}/report.html", path.name)
    assert "report" not in json.loads(call("show", path.name, "--json").stdout)


def test_gc_says_first_what_it_would_do_and_then_does_it(path: Path) -> None:
    would = json.loads(call("gc", "--keep", "0", "--dry-run", "--json").stdout)
    assert (would["removed"], would["dry_run"]) == ([path.name], True)
    assert path.exists()
    assert call("gc", "--keep", "0").stdout.startswith("removed 1 runs")
    assert not path.exists()


def test_gc_keeps_what_it_was_not_told_to_remove(path: Path) -> None:
    assert json.loads(call("gc", "--json").stdout)["removed"] == []
    assert path.exists()
