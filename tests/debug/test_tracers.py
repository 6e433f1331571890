# SPDX-License-Identifier: Apache-2.0
"""What bpftrace, ftrace and crash print comes out as data; what they are asked wrongly is told before they run."""

from __future__ import annotations

from pathlib import Path

import pytest

from kernloop.debug.tracers import crash, pages
from kernloop.debug.tracers.bpftrace_output import Bucket, read
from kernloop.debug.tracers.ftrace_lines import Summary
from kernloop.debug.tracers.ftrace_lines import read as read_lines
from kernloop.debug.tracers.near import nearest
from kernloop.errors import UsageError
from support import ROOT

# Recorded in guests of debian:7.3.4.
FIXTURES = ROOT / "tests/fixtures/tracers"


def test_maps_of_bpftrace_are_as_they_were_last() -> None:
    found = read((FIXTURES / "bpftrace-0.23.2.jsonl").read_text().splitlines())
    maps = {one.name: one for one in found.maps}
    assert (found.attached, found.lines, found.lost) == (4, ("hello 1",), 0)
    assert (maps["@"].rows[0].key, maps["@"].rows[0].value) == ("swapper/0", 16)
    assert maps["@s"].rows[0].value == {"count": 52, "average": 0, "total": 20}
    assert maps["@h"].rows[0].key == "0"
    assert maps["@h"].rows[0].value == (Bucket(0, 0, 1), Bucket(64, 127, 31))
    assert maps["@l"].rows[0].value == (Bucket(0, 0, 32), Bucket(1, 1, 20))
    assert maps["@st"].rows[0].stack == ("__schedule+2278", "schedule_idle+35", "do_idle+339")


def test_lost_events_are_counted_and_a_cut_line_is_left_out() -> None:
    found = read(['{"type": "lost_events", "data": {"events": 7}}', '{"type": "map", "data": {"@": {"a"'])
    assert (found.lost, found.maps, found.attached) == (7, (), None)


def test_a_graph_has_depths_and_times() -> None:
    lines = list(read_lines((FIXTURES / "graph-7.3.4.txt").read_text().splitlines()))
    stat = [line for line in lines if line.name.startswith("vfs_stat") or line.name == "vfs_getattr_nosec"][:4]
    assert [(line.kind, line.name, line.depth) for line in stat[:3]] == [
        ("enter", "vfs_statx", 1),
        ("call", "vfs_getattr_nosec", 2),
        ("leave", "vfs_statx", 1),
    ]
    assert (stat[1].us, stat[2].us, stat[1].comm, stat[1].cpu) == (76.053, 253.606, "ls", 0)
    summary = Summary()
    for line in lines:
        summary.add(line)
    sums = {one.name: one for one in summary.sums()}
    assert sums["vfs_open"].max_us == 24409.19


def test_functions_have_callers_and_events_their_text() -> None:
    lines = list(read_lines((FIXTURES / "lines-7.3.4.txt").read_text().splitlines()))
    assert (lines[0].kind, lines[0].name, lines[0].parent) == ("function", "file_ra_state_init", "do_dentry_open")
    event = next(line for line in lines if line.kind == "event")
    assert (event.name, event.pid) == ("sched_switch", 108)
    assert event.text.startswith("prev_comm=sh")


def test_lost_lines_of_ftrace_are_counted() -> None:
    [line] = read_lines(["CPU:1 [LOST 42 EVENTS]"])
    assert (line.kind, line.cpu, line.text) == ("lost", 1, "42")


def test_the_nearest_name_is_the_one_that_was_meant() -> None:
    names = [f"function_{number}" for number in range(2000)] + ["enqueue_task_scx", "enqueue_task_fair", "vfs_read"]
    assert nearest("enqueue_task_scxx", names)[0] == "enqueue_task_scx"
    assert nearest("qqqq", names) == ()


def test_pages_are_whole_lines_and_meet(tmp_path: Path) -> None:
    file = tmp_path / "out"
    file.write_text("".join(f"line {number}\n" for number in range(100)))
    first = pages.read(file, limit=70)
    assert first.text.endswith("\n")
    assert len(first.text) <= 70
    assert pages.read(file, since=first.cursor, limit=7).text == f"line {len(first.text) // 7}\n"
    assert pages.read(file, grep="9$").text.count("\n") == 10
    assert not pages.read(file, since=10_000).more
    with pytest.raises(UsageError, match="cannot be read"):
        pages.read(tmp_path / "nosuch")


def test_what_is_no_vmcore_is_told(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    with pytest.raises(UsageError, match="is no vmcore"):
        crash.examine(tmp_path / "text")


@pytest.mark.parametrize("command", ["!ls", "bt | grep x", "log > file", "gdb shell ls", "", "bt\nlog", "quit"])
def test_nothing_reaches_a_shell_through_crash(tmp_path: Path, command: str) -> None:
    core = crash.Core(tmp_path / "core", "7.3.4", "")
    with pytest.raises(UsageError, match="is not passed to crash"):
        crash.run(core, tmp_path / "vmlinux", [command])
    assert not list(tmp_path.iterdir())
