# SPDX-License-Identifier: Apache-2.0
"""Snapshots on disk: whole or not there, damage noticed, no more of them than may be."""

from __future__ import annotations

import os
import shutil
import threading
import time
from pathlib import Path

import pytest

from kernloop.vm import snapshots


def make(name: str, ram: bytes = b"memory", hole: int = 1 << 20) -> Path:
    with snapshots.making(name) as staging:
        assert staging is not None
        (staging / "ram").write_bytes(ram)
        os.truncate(staging / "ram", len(ram) + hole)
        (staging / "state").write_bytes(b"state")
        (staging / "console").write_bytes(b"[    0.0] Linux\n")
    return snapshots.folder_of(name)


def test_a_snapshot_that_was_made_is_found() -> None:
    make("a")
    found = snapshots.find("a")
    assert found is not None
    assert (found.console, found.state.read_bytes()) == (b"[    0.0] Linux\n", b"state")
    with snapshots.making("a") as staging:
        assert staging is None


def test_a_making_that_fails_or_gives_up_leaves_nothing() -> None:
    with pytest.raises(RuntimeError), snapshots.making("a") as staging:
        assert staging is not None
        (staging / "state").write_bytes(b"half")
        raise RuntimeError
    with snapshots.making("a") as staging:
        assert staging is not None
    assert snapshots.find("a") is None
    assert list(snapshots.folder_of("a").parent.iterdir()) == []


@pytest.mark.parametrize("name", ["ram", "state", "console", "about.json"])
def test_a_file_that_was_changed_is_noticed_and_the_snapshot_removed(name: str) -> None:
    folder = make("a")
    with (folder / name).open("r+b") as file:
        file.write(b"x")
    assert snapshots.find("a") is None
    assert not folder.exists()


@pytest.mark.parametrize("name", ["ram", "state", "console", "about.json"])
def test_a_file_that_is_gone_is_noticed(name: str) -> None:
    (make("a") / name).unlink()
    assert snapshots.find("a") is None


def test_a_copy_of_the_same_bytes_is_as_good_as_the_first() -> None:
    folder = make("a")
    shutil.copy2(folder / "state", folder / "copy")
    (folder / "copy").rename(folder / "state")
    assert snapshots.find("a") is not None


def test_the_least_recently_used_go_first_and_one_in_use_stays() -> None:
    for age, name in enumerate(("new", "old", "older", "oldest")):
        make(name)
        os.utime(snapshots.folder_of(name), (time.time() - age * 100,) * 2)
    oldest = snapshots.listing()[-1]
    with snapshots.lease(oldest):
        removed = snapshots.trim(keep=2)
    assert [snapshot.path.name for snapshot in removed] == ["older"]
    assert {snapshot.path.name for snapshot in snapshots.listing()} == {"new", "old", "oldest"}


def test_they_take_no_more_of_the_disk_than_they_may() -> None:
    for name in ("a", "b", "c"):
        make(name, ram=os.urandom(1 << 20))
    snapshots.trim(keep_bytes=5 << 19)
    assert len(snapshots.listing()) == 2


def test_two_that_want_the_same_make_it_once() -> None:
    made: list[bool] = []
    inside = threading.Barrier(2, timeout=10)

    def first() -> None:
        with snapshots.making("a") as staging:
            assert staging is not None
            inside.wait()
            (staging / "state").write_bytes(b"state")
            (staging / "console").write_bytes(b"")
        made.append(True)

    thread = threading.Thread(target=first)
    thread.start()
    inside.wait()
    with snapshots.making("a") as staging:
        assert staging is None
    thread.join()
    assert made == [True]


def test_holes_are_not_read_and_where_data_lies_counts(tmp_path: Path) -> None:
    for name, offset in (("a", 0), ("b", 1 << 20), ("c", 0)):
        with (tmp_path / name).open("wb") as file:
            file.truncate(8 << 30)
            file.seek(offset)
            file.write(b"data")
    sums = [snapshots.checksum(tmp_path / name) for name in "abc"]
    assert sums[0] == sums[2] != sums[1]
