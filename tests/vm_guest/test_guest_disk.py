# SPDX-License-Identifier: Apache-2.0
"""Disks that fill up at each stage: one clear error, exit 125, no traceback, and never a verdict on the subject."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from support import Done, kernloop, processes_naming, until

pytestmark = [
    pytest.mark.vm,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small tmpfs needs root"),
]

Mount = Callable[[str], Path]


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Mount]:
    """Makes file systems of a given size; they go with the test."""
    with ExitStack() as stack:

        def mount(size: str) -> Path:
            where = tmp_path / f"disk-{size}"
            where.mkdir()
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", where], check=True)
            stack.callback(subprocess.check_call, ["umount", "-l", where])
            return where

        yield mount


def check_runs(disk: Path) -> None:
    """Runs on a full disk are listed without a word of complaint, each as our fault; none is there only in part."""
    listed = kernloop("runs", "list", "--json", XDG_STATE_HOME=str(disk))
    assert (listed.status, listed.err) == (0, b"")
    assert {run["verdict"] for run in listed.json["runs"]} <= {"infra"}
    there = [path.name for path in disk.glob("kernloop/runs/*")]
    assert sorted(there) == sorted(run["id"] for run in listed.json["runs"])


def check_disk_error(done: Done) -> None:
    assert done.status == 125, done
    errors = [line for line in done.text.splitlines() if line.startswith("kernloop:")]
    assert "No space left" in errors[-1] or "disk is full" in errors[-1], done.text
    assert sum("No space left" in line or "disk is full" in line for line in errors) == 1
    assert "next:" in done.text
    assert "Traceback" not in done.text


@pytest.mark.parametrize("size", ["4k", "32k"])
def test_a_state_disk_too_small_for_a_run_is_one_clear_error(size: str, small: Mount) -> None:
    disk = small(size)
    check_disk_error(kernloop("run", "--", "true", XDG_STATE_HOME=str(disk)))
    check_runs(disk)


def test_a_state_disk_that_a_guests_output_fills_is_our_fault_and_not_a_hang(small: Mount) -> None:
    disk = small("30m")
    done = kernloop(
        "run", "--timeout", "40", "--", "sh", "-c", "dd if=/dev/zero bs=1M count=64; sleep 60", XDG_STATE_HOME=str(disk)
    )
    check_disk_error(done)
    until(lambda: not processes_naming(disk), 3, "no process of the run is left")
    check_runs(disk)


@pytest.mark.parametrize("size", ["4k", "2m"])
@pytest.mark.parametrize("words", [("run", "--", "true"), ("kernel", "path")])
def test_a_cache_disk_too_small_is_one_clear_error_before_anything_is_fetched(
    words: tuple[str, ...], size: str, small: Mount
) -> None:
    check_disk_error(kernloop(*words, seconds=20, XDG_CACHE_HOME=str(small(size))))


def test_a_disk_full_in_verify_is_one_clear_error(small: Mount) -> None:
    scheduler = Path(__file__).parents[2] / "examples/schedulers/fifo.bpf.c"
    check_disk_error(kernloop("verify", scheduler, XDG_STATE_HOME=str(small("1m"))))


def test_a_disk_full_with_json_is_still_one_object(small: Mount) -> None:
    done = kernloop("run", "--json", "--", "true", XDG_STATE_HOME=str(small("32k")))
    assert (done.status, done.json["exit_code"], done.json["verdict"]) == (125, 125, "infra")
    assert done.json["next"]
