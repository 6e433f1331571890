# SPDX-License-Identifier: Apache-2.0
"""Vmcores in run directories: which one counts, what goes when there is no room, what never does."""

from __future__ import annotations

import os
from pathlib import Path

from kernloop import runs, vmcores
from support import kernloop


def run_with(age: int, name: str = vmcores.NAME, size: int = 1000) -> Path:
    """A finished run with a vmcore that is `age` seconds old."""
    with runs.create("run", "kernloop.run/1", {"subject": "x"}) as run:
        run.judge({"schema": "kernloop.run/1", "verdict": "panic", "summary": "x"})
    path = run.path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(bytes(size))
    now = run.path.stat().st_mtime - age
    os.utime(path, (now, now))
    return path


def test_the_oldest_dumps_go_when_all_take_too_much_and_their_runs_stay() -> None:
    old, new = run_with(30), run_with(10)
    asked_for = run_with(90, "vmcore-120000")
    with runs.create("run", "kernloop.run/1", {"subject": "living"}) as live:
        (live.path / vmcores.NAME).write_bytes(bytes(5000))
        vmcores.make_room(1500)
        assert (live.path / vmcores.NAME).exists()
    assert (new.exists(), old.exists(), asked_for.exists()) == (True, False, True)
    assert old.parent.exists()


def test_the_last_dump_of_a_run_counts_also_one_of_a_repetition() -> None:
    first = run_with(60, "vmcore-110000")
    second = run_with(0, "run-2/vmcore")
    assert vmcores.newest(first.parent) == first
    assert vmcores.newest(second.parent.parent) == second
    with runs.create("run", "kernloop.run/1", {"subject": "x"}) as none:
        assert vmcores.newest(none.path) is None


def test_gc_takes_the_vmcores_of_finished_runs_alone_when_asked() -> None:
    path = run_with(0, size=4096)
    told = kernloop("runs", "gc", "--vmcores", "--dry-run", "--json").json
    assert (told["vmcores"], told["removed"], path.exists()) == ([path.parent.name], [], True)
    told = kernloop("runs", "gc", "--vmcores", "--json").json
    assert (told["vmcores"], told["removed"], told["bytes"]) == ([path.parent.name], [], 4096)
    assert path.parent.exists() and not path.exists()


def test_runs_show_names_the_vmcore_with_its_size_and_what_to_do_with_it() -> None:
    path = run_with(0, size=3 << 20)
    done = kernloop("runs", "show", path.parent.name).out.decode()
    assert f"{path}  3145728 bytes" in done
    assert f"kernloop debug triage {path.parent.name}" in done
    told = kernloop("runs", "show", path.parent.name, "--json").json
    assert told["vmcores"] == [{"path": str(path), "bytes": 3 << 20}]
