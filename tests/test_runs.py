# SPDX-License-Identifier: Apache-2.0
"""Run directories: what is written when, what is found by which name, what gc takes and what it never touches."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kernloop import runs
from kernloop.errors import HarnessError, UsageError
from support import child, events_of, runs_dir, said, verdict_of

SCHEMA = "kernloop.run/1"

LIVE = """
import sys
from kernloop import runs
with runs.create("run", "kernloop.run/1", {"subject": "living"}) as run:
    print(run.id, flush=True)
    sys.stdin.readline()
    run.judge({"schema": "kernloop.run/1", "verdict": "pass", "summary": "exit 0"})
"""


def finished(subject: str, verdict: str = "pass") -> Path:
    with runs.create("run", SCHEMA, {"subject": subject}) as run:
        run.judge({"schema": SCHEMA, "verdict": verdict, "summary": f"about {subject}"})
    return run.path


def named(name: str) -> Path:
    """A finished run with an id of the test's own."""
    path = runs_dir() / name
    return finished(name).rename(path)


@contextmanager
def live() -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A run under way in another process."""
    process = child(LIVE)
    try:
        yield said(process), process
    finally:
        process.kill()
        process.communicate()


def test_a_run_is_unknown_until_it_is_judged_and_its_timeline_is_written_as_it_goes() -> None:
    with runs.create("run", SCHEMA, {"subject": "x", "cpus": 2}) as run:
        assert verdict_of(run.path)["verdict"] == "unknown"
        assert json.loads((run.path / "spec.json").read_text()) == {"verb": "run", "subject": "x", "cpus": 2}
        run.note("boot", kernel="7.3")
        assert events_of(run.path)[-1]["kernel"] == "7.3"
        run.judge({"schema": SCHEMA, "verdict": "pass", "summary": "exit 0"})
    assert verdict_of(run.path)["verdict"] == "pass"
    assert [entry["event"] for entry in events_of(run.path)] == ["start", "boot", "verdict"]
    times = [entry["t"] for entry in events_of(run.path)]
    assert times == sorted(times)


def test_a_run_directory_is_for_its_owners_eyes_only() -> None:
    assert finished("x").stat().st_mode & 0o777 == 0o700


def test_runs_are_listed_newest_first_with_their_verdicts() -> None:
    named("20260101-000000-run-aaaa")
    named("20260102-000000-verify-bbbb")
    found = runs.listing()
    assert [run.id for run in found] == ["20260102-000000-verify-bbbb", "20260101-000000-run-aaaa"]
    assert {(run.verdict, run.live) for run in found} == {("pass", False)}
    assert all(run.size > 0 and 0 <= run.age < 60 for run in found)


def test_runs_that_begin_in_one_second_are_listed_in_the_order_in_which_they_began() -> None:
    made = []
    for number in range(12):
        with runs.create(("build", "run", "vm")[number % 3], SCHEMA, {"subject": str(number)}) as run:
            run.judge({"schema": SCHEMA, "verdict": "pass"})
        made.append(run.id)
    assert [one.id for one in runs.listing()] == made[::-1]
    assert runs.find("last").name == made[-1]


def test_without_any_run_the_list_is_empty() -> None:
    assert runs.listing() == []


def test_a_run_is_found_by_its_id_by_the_beginning_of_it_and_as_the_last() -> None:
    first, second = named("20260101-000000-run-aaaa"), named("20260102-000000-run-bbbb")
    assert runs.find(first.name) == first
    assert runs.find("20260101") == first
    assert runs.find("last") == second


@pytest.mark.parametrize(("name", "says"), [("2026", "several runs"), ("1999", "no run"), ("", "several runs")])
def test_a_name_that_fits_none_or_several_is_said_so(name: str, says: str) -> None:
    named("20260101-000000-run-aaaa")
    named("20260102-000000-run-bbbb")
    with pytest.raises(UsageError, match=f"there is {says} called '{name}'") as caught:
        runs.find(name)
    assert caught.value.hint == "kernloop runs list"


def test_the_last_of_no_runs_is_said_not_to_be_there() -> None:
    with pytest.raises(UsageError, match="no run called 'last'"):
        runs.find("last")


def test_gc_takes_all_but_the_newest_and_says_first_what_it_would_take() -> None:
    paths = [named(f"2026010{day}-000000-run-aaaa") for day in range(1, 6)]
    assert [run.path for run in runs.collect(keep=2, dry_run=True)] == paths[2::-1]
    assert all(path.exists() for path in paths)
    assert [run.path for run in runs.collect(keep=2)] == paths[2::-1]
    assert [path.exists() for path in paths] == [False, False, False, True, True]


def test_gc_never_touches_a_run_that_is_under_way() -> None:
    named("20260101-000000-run-aaaa")
    with live() as (name, process):
        [running] = [run for run in runs.listing() if run.live]
        assert (running.id, running.verdict, running.subject) == (name, "unknown", "living")
        assert [run.id for run in runs.collect(keep=0)] == ["20260101-000000-run-aaaa"]
        assert (runs_dir() / name).exists()
        process.communicate("go\n", timeout=20)
        assert process.returncode == 0
        assert verdict_of(runs_dir() / name)["verdict"] == "pass"
        assert [run.id for run in runs.collect(keep=0)] == [name]


def test_a_run_whose_owner_and_keeper_are_both_gone_is_listed_as_our_fault() -> None:
    with runs.create("run", SCHEMA, {"subject": "x"}) as run:
        path = run.path
        run.judge({"schema": SCHEMA, "verdict": "unknown", "summary": "not judged yet"})
    [found] = runs.listing()
    assert (found.path, found.verdict, found.live) == (path, "infra", False)
    assert "killed" in found.summary


def test_a_run_that_is_listed_while_its_files_change_does_not_break_the_list() -> None:
    churn = """
import sys
from kernloop import runs
with runs.create("run", "kernloop.run/1", {"subject": "busy"}) as run:
    print(run.id, flush=True)
    while True:
        run.write("verdict.json", {"verdict": "unknown", "summary": "not judged yet"})
"""
    process = child(churn)
    try:
        name = said(process)
        for _ in range(300):
            [found] = runs.listing()
            assert (found.id, found.live, found.verdict) == (name, True, "unknown")
    finally:
        process.kill()
        process.communicate()


def test_damaged_files_in_a_run_do_not_break_the_list() -> None:
    path = finished("x")
    (path / "verdict.json").write_text("{")
    (path / "spec.json").write_text("[]")
    [found] = runs.listing()
    assert (found.id, found.verb, found.subject) == (path.name, "?", "")


def test_what_is_no_run_is_left_alone() -> None:
    finished("x")
    (runs_dir() / "notes").mkdir()
    (runs_dir() / "file").touch()
    assert len(runs.listing()) == 1
    runs.collect(keep=0)
    assert {path.name for path in runs_dir().iterdir()} == {"notes", "file"}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_a_run_that_can_no_longer_be_written_is_one_error_and_infra(number: int) -> None:
    with (
        pytest.raises(HarnessError, match="cannot write the run directory") as caught,
        runs.create("run", SCHEMA, {"subject": "x"}) as run,
    ):
        raise OSError(number, os.strerror(number))
    assert caught.value.exit_code == 125
    assert "XDG_STATE_HOME" in caught.value.hint
    assert verdict_of(run.path)["verdict"] == "infra"


def test_an_interrupted_run_says_so() -> None:
    with pytest.raises(HarnessError, match="interrupted"), runs.create("run", SCHEMA, {"subject": "x"}) as run:
        raise KeyboardInterrupt
    assert (verdict_of(run.path)["verdict"], verdict_of(run.path)["summary"]) == ("infra", "interrupted")


def test_a_bug_of_ours_in_a_run_comes_through_and_the_run_says_infra() -> None:
    with pytest.raises(ZeroDivisionError), runs.create("run", SCHEMA, {"subject": "x"}) as run:
        raise ZeroDivisionError("division by zero")
    assert verdict_of(run.path)["verdict"] == "infra"
    assert "division by zero" in verdict_of(run.path)["summary"]


def test_an_error_after_the_verdict_does_not_change_it() -> None:
    with pytest.raises(HarnessError, match="too late"), runs.create("run", SCHEMA, {"subject": "x"}) as run:
        run.judge({"schema": SCHEMA, "verdict": "panic", "summary": "it crashed"})
        raise HarnessError("too late")
    assert verdict_of(run.path)["verdict"] == "panic"


def test_a_scratch_file_is_gone_however_the_block_ends() -> None:
    with runs.create("run", SCHEMA, {"subject": "x"}) as run:
        with run.scratch("initramfs") as path:
            path.write_bytes(b"large")
        assert not path.exists()
        with pytest.raises(ValueError, match="oh"), run.scratch("initramfs") as path:
            path.write_bytes(b"large")
            raise ValueError("oh")
        assert not path.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_state_folder_that_may_not_be_written_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(mode=0o500)
    with pytest.raises(HarnessError, match="cannot write the run directory"), runs.create("run", SCHEMA, {}):
        pass
