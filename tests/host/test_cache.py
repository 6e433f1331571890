# SPDX-License-Identifier: Apache-2.0
"""Cached folders: whole or not there, whoever makes them at the same time, however the maker ends."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from pathlib import Path

import pytest

from kernloop.errors import HarnessError
from kernloop.host.cache import ensure, exclusive, need_space
from support import alive, child, keeper_of, said, until

# Makes WHERE slowly: says so, waits for a word, and leaves a line in LOG for every time that it was made.
MAKER = """
import sys
from pathlib import Path
from kernloop.host.cache import ensure

where, log = map(Path, sys.argv[1:])

def make(staging):
    with log.open("a") as out:
        out.write("made\\n")
    (staging / "half").write_text("1")
    print("making", flush=True)
    sys.stdin.readline()
    (staging / "whole").write_text("2")

print("there", sorted(p.name for p in ensure(where, make, what="a thing").iterdir()), flush=True)
"""


def staging_folders(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name.endswith(".staging")] if folder.exists() else []


def test_a_folder_is_made_once_and_then_taken_as_it_is(tmp_path: Path) -> None:
    made = []

    def make(staging: Path) -> None:
        made.append(staging)
        (staging / "file").write_text("content")

    for _ in range(2):
        found = ensure(tmp_path / "things/one", make, what="a thing")
        assert (found / "file").read_text() == "content"
    assert len(made) == 1
    assert made[0] != tmp_path / "things/one"
    assert not staging_folders(tmp_path / "things")


def test_two_processes_at_once_make_it_once_and_both_get_it(tmp_path: Path) -> None:
    where, log = tmp_path / "things/one", tmp_path / "log"
    first = child(MAKER, where, log)
    assert said(first) == "making"
    second = child(MAKER, where, log)
    assert first.stdin is not None
    assert not where.exists()
    first.stdin.write("go\n")
    first.stdin.flush()
    for process in (first, second):
        out, _ = process.communicate(timeout=20)
        assert out == "there ['half', 'whole']\n"
        assert process.returncode == 0
    assert log.read_text() == "made\n"


def test_a_maker_killed_in_the_middle_leaves_nothing_and_the_next_one_makes_it(tmp_path: Path) -> None:
    where, log = tmp_path / "things/one", tmp_path / "log"
    first = child(MAKER, where, log)
    assert said(first) == "making"
    assert staging_folders(where.parent)
    first.kill()
    first.communicate()
    until(lambda: not staging_folders(where.parent), 3, "the staging folder has gone")
    assert not where.exists()
    out, _ = child(MAKER, where, log).communicate("go\n", timeout=20)
    assert out == "making\nthere ['half', 'whole']\n"


def test_what_a_maker_and_its_keeper_left_behind_is_not_taken_for_a_result(tmp_path: Path) -> None:
    left = tmp_path / "things/.one.123.staging"
    left.mkdir(parents=True)
    (left / "rubbish").write_text("from before")
    found = ensure(tmp_path / "things/one", lambda staging: (staging / "good").touch(), what="a thing")
    assert [path.name for path in found.iterdir()] == ["good"]
    assert not staging_folders(tmp_path / "things")


def test_the_staging_folder_of_another_thing_is_left_alone(tmp_path: Path) -> None:
    others = [tmp_path / "things" / name for name in (".one.two.123.staging", ".two.123.staging", "one.123.staging")]
    for other in others:
        other.mkdir(parents=True)
    ensure(tmp_path / "things/one", lambda staging: None, what="a thing")
    assert all(other.exists() for other in others)


def test_a_late_keeper_of_a_killed_maker_does_not_touch_what_the_next_one_makes(tmp_path: Path) -> None:
    where, log = tmp_path / "things/one", tmp_path / "log"
    first = child(MAKER, where, log)
    assert said(first) == "making"
    keeper = keeper_of(first.pid)
    os.kill(keeper, signal.SIGSTOP)
    first.kill()
    first.communicate()
    second = child(MAKER, where, log)
    assert said(second) == "making"
    os.kill(keeper, signal.SIGCONT)
    until(lambda: not alive(keeper), 5, "the keeper has done its work")
    out, _ = second.communicate("go\n", timeout=20)
    assert out == "there ['half', 'whole']\n"


@pytest.mark.parametrize("error", [ValueError("a bug"), KeyboardInterrupt(), HarnessError("no network")])
def test_a_maker_that_fails_leaves_nothing_and_its_error_comes_through(tmp_path: Path, error: BaseException) -> None:
    def make(staging: Path) -> None:
        (staging / "half").touch()
        raise error

    with pytest.raises(type(error)) as caught:
        ensure(tmp_path / "things/one", make, what="a thing")
    assert caught.value is error
    assert list((tmp_path / "things").iterdir()) == []


@pytest.mark.parametrize(
    ("number", "says", "hint"),
    [
        (errno.ENOSPC, "a thing: the disk is full", "free some space"),
        (errno.EDQUOT, "a thing: the disk is full", "free some space"),
        (errno.EROFS, "a thing: cannot write", "XDG_CACHE_HOME"),
        (errno.EACCES, "a thing: cannot write", "XDG_CACHE_HOME"),
    ],
)
def test_a_disk_that_cannot_be_written_is_one_error_with_what_to_do(
    tmp_path: Path, number: int, says: str, hint: str
) -> None:
    def make(staging: Path) -> None:
        raise OSError(number, os.strerror(number))

    with pytest.raises(HarnessError, match=says) as caught:
        ensure(tmp_path / "things/one", make, what="a thing")
    assert hint in caught.value.hint
    assert caught.value.exit_code == 125
    assert list((tmp_path / "things").iterdir()) == []


def test_a_lock_that_another_process_holds_for_too_long_is_an_error(tmp_path: Path) -> None:
    where = tmp_path / "things/one"
    other = child(MAKER, where, tmp_path / "log")
    assert said(other) == "making"
    try:
        with pytest.raises(HarnessError, match="a thing: another kernloop has been at it for too long"):
            ensure(where, lambda staging: None, what="a thing", seconds=0.2)
    finally:
        other.kill()
        other.communicate()


def test_the_lock_of_a_killed_process_is_free() -> None:
    holder = child("""
import sys
from kernloop.host.cache import exclusive
with exclusive("a/b", what="x", seconds=1):
    print("held", flush=True)
    sys.stdin.readline()
""")
    assert said(holder) == "held"
    holder.kill()
    holder.communicate()
    with exclusive("a/b", what="x", seconds=3):
        pass


def test_too_little_space_is_said_with_figures_before_anything_is_fetched(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free >> 20
    need_space(tmp_path / "not/there/yet", 1, "a kernel")
    with pytest.raises(HarnessError, match="the disk is full") as caught:
        need_space(tmp_path / "not/there/yet", free * 2, "a kernel")
    for part in ("a kernel", f"{free * 2} MiB", str(tmp_path)):
        assert part in caught.value.message
    assert "XDG_CACHE_HOME" in caught.value.hint
