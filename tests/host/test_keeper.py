# SPDX-License-Identifier: Apache-2.0
"""When kernloop is killed with -9, its keeper ends what it owned and completes the run's verdict."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from kernloop.host import keeper, process
from support import alive, child, events_of, keeper_of, runs_dir, said, until, verdict_of

# Owns a group, a folder, a file and a run, and says who the group's processes are.
OWNER = """
import subprocess, sys
from pathlib import Path
from kernloop import runs
from kernloop.host import owned, process

folder, file = Path(sys.argv[1]), Path(sys.argv[2])
with runs.create("run", "kernloop.run/1", {"subject": "sleeping"}) as run:
    run.note("half-way")
    folder.mkdir()
    (folder / "inside").touch()
    file.touch()
    group = process.spawn(["sh", "-c", "sleep 600 & echo $!; wait"], stdout=subprocess.PIPE)
    with owned.group(group.pid), owned.folder(folder), run.scratch(file.name) as scratch:
        scratch.touch()
        print(group.pid, int(group.stdout.readline()), flush=True)
        sys.stdin.readline()
        process.end_group(group)
    run.judge({"schema": "kernloop.run/1", "verdict": "pass", "summary": "exit 0"})
"""


def the_run() -> Path:
    [run] = runs_dir().iterdir()
    return run


def test_an_owner_killed_takes_its_processes_and_folders_with_it(tmp_path: Path) -> None:
    owner = child(OWNER, tmp_path / "folder", tmp_path / "file")
    leader, grandchild = map(int, said(owner).split())
    assert alive(leader)
    assert alive(grandchild)
    owner.kill()
    owner.wait()
    until(lambda: not alive(leader) and not alive(grandchild), 3, "the group has ended")
    until(lambda: not (tmp_path / "folder").exists(), 3, "the folder has gone")
    until(lambda: not (the_run() / "file").exists(), 3, "the scratch file has gone")


def test_the_run_of_a_killed_owner_says_infra_who_was_killed_and_what_it_did_last(tmp_path: Path) -> None:
    owner = child(OWNER, tmp_path / "folder", tmp_path / "file")
    said(owner)
    run = the_run()
    assert verdict_of(run)["verdict"] == "unknown"
    owner.kill()
    owner.wait()
    until(lambda: verdict_of(run)["verdict"] == "infra", 3, "the verdict is completed")
    verdict = verdict_of(run)
    assert verdict["summary"] == f"kernloop (pid {owner.pid}) was killed; the last thing it did: half-way"
    assert (verdict["schema"], verdict["run"]) == ("kernloop.run/1", str(run))
    assert verdict["next"]
    assert events_of(run)[-1]["event"] == "owner-killed"


def test_a_normal_end_touches_nothing(tmp_path: Path) -> None:
    owner = child(OWNER, tmp_path / "folder", tmp_path / "file")
    leader, _ = map(int, said(owner).split())
    owner.communicate("go\n", timeout=20)
    assert owner.returncode == 0
    assert not alive(leader)
    assert (tmp_path / "folder/inside").exists()
    assert (tmp_path / "file").exists()
    assert verdict_of(the_run()) == {"schema": "kernloop.run/1", "verdict": "pass", "summary": "exit 0"}
    assert [entry["event"] for entry in events_of(the_run())] == ["start", "half-way", "verdict"]


def test_a_keeper_killed_first_still_lets_no_process_outlive_its_owner(tmp_path: Path) -> None:
    owner = child(OWNER, tmp_path / "folder", tmp_path / "file")
    leader, _ = map(int, said(owner).split())
    os.kill(keeper_of(owner.pid), 9)
    owner.kill()
    owner.wait()
    until(lambda: not alive(leader), 3, "the group's leader has ended")


def test_a_damaged_verdict_of_a_killed_run_is_replaced(tmp_path: Path) -> None:
    owner = child(OWNER, tmp_path / "folder", tmp_path / "file")
    said(owner)
    (the_run() / "verdict.json").write_text("{")
    owner.kill()
    owner.wait()

    def completed() -> bool:
        try:
            return bool(verdict_of(the_run())["verdict"] == "infra")
        except json.JSONDecodeError:
            return False

    until(completed, 3, "the verdict is completed")


def test_a_start_time_names_one_process_and_a_dead_one_has_none() -> None:
    assert keeper.start_time(os.getpid()) == keeper.start_time(os.getpid())
    assert isinstance(keeper.start_time(os.getpid()), int)
    ended = child("")
    ended.communicate()
    assert keeper.start_time(ended.pid) is None


@pytest.mark.parametrize(("off", "lives"), [(1, True), (0, False)])
def test_a_group_whose_number_went_to_another_process_is_left_alone(off: int, lives: bool) -> None:
    bystander = process.spawn(["sleep", "600"])
    started = keeper.start_time(bystander.pid)
    assert started is not None
    keeper._kill_group(bystander.pid, started + off)
    try:
        if lives:
            with pytest.raises(subprocess.TimeoutExpired):
                bystander.wait(timeout=0.3)
        else:
            assert bystander.wait(timeout=3) == -9
    finally:
        process.end_group(bystander)


# Owns a folder and a run for a while, then nothing any more.
PAST_OWNER = """
import sys
from pathlib import Path
from kernloop import runs
from kernloop.host import owned

folder = Path(sys.argv[1])
with runs.create("run", "kernloop.run/1", {"subject": "over"}) as run, owned.folder(folder):
    folder.mkdir()
    run.judge({"schema": "kernloop.run/1", "verdict": "pass", "summary": "exit 0"})
print("over", flush=True)
sys.stdin.readline()
"""


def test_what_an_owner_has_let_go_of_before_it_is_killed_stays(tmp_path: Path) -> None:
    owner = child(PAST_OWNER, tmp_path / "folder")
    assert said(owner) == "over"
    its_keeper = keeper_of(owner.pid)
    owner.kill()
    owner.wait()
    until(lambda: not alive(its_keeper), 3, "the keeper has done its work")
    assert (tmp_path / "folder").exists()
    assert verdict_of(the_run())["verdict"] == "pass"
    assert events_of(the_run())[-1]["event"] == "verdict"
