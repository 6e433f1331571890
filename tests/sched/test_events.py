# SPDX-License-Identifier: Apache-2.0
"""What the suite in the guest says, read line by line: recorded runs, torn lines, loaders of all kinds."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernloop.sched.events import Gate, SuiteReader

RECORDED = Path(__file__).parent.parent / "fixtures/sched"
NAMES = ["fifo", "lost_task", "null_check", "uncreated_dsq"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def bytes_of(name: str) -> bytes:
    return (RECORDED / name / "events.jsonl").read_bytes()


def read(*events: dict[str, Any]) -> SuiteReader:
    reader = SuiteReader()
    reader.feed(b"".join(json.dumps(event).encode() + b"\n" for event in events))
    return reader


def picture(reader: SuiteReader) -> list[Any]:
    return [
        reader.tests, reader.gates, reader.counters, reader.planned, reader.enabled, reader.ops, reader.done,
        reader.exit, reader.words, reader.ejected_after, reader.loader_exit, reader.running,
    ]  # fmt: skip


def loader(stream: str, line: str) -> dict[str, Any]:
    return {"event": "loader", "stream": stream, "line": line}


def test_a_passing_run_is_read_whole() -> None:
    seen = SuiteReader()
    seen.feed(bytes_of("fifo"))
    assert [test.name for test in seen.tests] == seen.planned == [
        "idle", "saturation", "fork-storm", "affinity-storm", "wakeup", "reload",
    ]  # fmt: skip
    assert all(test.ok and test.seconds > 0 and test.unit and not test.why for test in seen.tests)
    assert seen.gates[0] == Gate("enable", True, "")
    assert (seen.enabled, seen.ops, seen.done, seen.running) == (True, "fifo", True, "")
    assert seen.exit is not None
    assert (seen.exit.kind, seen.exit.is_error) == (64, False)
    assert seen.counters


def test_an_ejected_run_has_the_exit_the_dump_and_where_it_happened() -> None:
    seen = SuiteReader()
    seen.feed(bytes_of("lost_task"))
    assert seen.exit is not None
    assert (seen.exit.kind, seen.exit.reason) == (1026, "runnable task stall")
    assert seen.exit.message == "scxsuite[360] failed to run for 6.368s"
    assert "triggered exit kind 1026" in seen.exit.dump
    assert (seen.ejected_after, seen.done) == ("saturation", False)
    assert seen.loader_exit is not None
    assert seen.loader_exit["status"] == 1


def test_a_rejected_run_has_the_verifiers_words_in_order() -> None:
    seen = SuiteReader()
    seen.feed(bytes_of("null_check"))
    assert seen.words == (RECORDED / "null_check/loader.txt").read_text().splitlines()
    assert (seen.enabled, seen.exit) == (False, None)
    assert seen.not_enabled == "the loader ended before the scheduler was enabled"
    assert seen.load_errno == 13


@pytest.mark.parametrize("name", NAMES)
@given(cuts=st.lists(st.integers(0, 14000), max_size=12))
def test_however_the_bytes_arrive_the_same_is_read(name: str, cuts: list[int]) -> None:
    data, whole, pieces = bytes_of(name), SuiteReader(), SuiteReader()
    whole.feed(data)
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    for begin, end in pairwise(places):
        pieces.feed(data[begin:end])
    assert picture(pieces) == picture(whole)


def test_a_line_cut_off_by_a_crash_is_left_out() -> None:
    data = bytes_of("fifo")
    cut = data.index(b'"name":"wakeup","ok"')
    seen = SuiteReader()
    seen.feed(data[:cut])
    assert [test.name for test in seen.tests] == ["idle", "saturation", "fork-storm", "affinity-storm"]
    assert (seen.running, seen.done) == ("wakeup", None)


@given(st.binary(max_size=60), JSON)
def test_lines_that_are_no_events_are_passed_over(rubbish: bytes, value: object) -> None:
    seen = SuiteReader()
    seen.feed(rubbish.replace(b"\n", b"") + b"\n" + json.dumps(value).encode() + b"\n")
    seen.feed(bytes_of("uncreated_dsq"))
    assert seen.ops == "uncreated_dsq"


def test_every_event_is_heard_as_it_comes() -> None:
    heard: list[str] = []
    seen = SuiteReader(lambda event: heard.append(event["event"]))
    seen.feed(b'{"event":"start","tests":["idle"]}\n{"event":"enab')
    assert heard == ["start"]
    seen.feed(b'led","ops":"x"}\n')
    assert heard == ["start", "enabled"]


def test_a_scheduler_with_a_loader_of_its_own_tells_its_end_on_stderr() -> None:
    said = ["DEBUG DUMP", "=" * 80, "", "qmap: root", "", "=" * 80, "",
            "EXIT: runnable task stall (sh[42] failed to run for 5.060s)"]  # fmt: skip
    seen = read(*(loader("stderr", line) for line in said))
    assert seen.exit is not None
    assert (seen.exit.kind, seen.exit.message) == (1026, "sh[42] failed to run for 5.060s")
    assert seen.exit.is_error


def test_an_error_in_one_of_several_loads_is_the_end_that_counts() -> None:
    bad = {"event": "exit", "kind": 1024, "code": 0, "reason": "runtime error", "msg": "invalid CPU", "dump": "d"}
    good = {"event": "exit", "kind": 64, "code": 0, "reason": "unregistered from user space", "msg": ""}
    for order in ([bad, good], [good, bad]):
        seen = read(*(loader("stdout", json.dumps(event)) for event in order))
        assert seen.exit is not None
        assert (seen.exit.kind, seen.exit.message) == (1024, "invalid CPU")


@pytest.mark.parametrize(
    ("event", "name", "value"),
    [
        ({"event": "load-failed", "errno": 22}, "load_errno", 22),
        ({"event": "attach-failed", "errno": 16}, "attach_errno", 16),
        ({"event": "unusable", "why": "no struct_ops map"}, "unusable", "no struct_ops map"),
    ],
)
def test_our_loader_says_why_it_could_not(event: dict[str, Any], name: str, value: object) -> None:
    assert getattr(read(loader("stdout", json.dumps(event))), name) == value


@pytest.mark.parametrize("line", ["", "starting up", "[1, 2]", "7", "\u2713", "\x1b[2mlibbpf: \x1b[0mno"])
def test_what_a_loader_prints_on_stdout_for_people_is_kept_without_its_colours(line: str) -> None:
    seen = read(loader("stdout", line))
    plain = line.replace("\x1b[2m", "").replace("\x1b[0m", "")
    assert (seen.exit, seen.load_errno, seen.unusable, seen.words) == (None, None, "", [plain])


def test_json_of_another_kind_on_stdout_is_passed_over() -> None:
    seen = read(loader("stdout", '{"event": 5}'))
    assert (seen.exit, seen.load_errno, seen.unusable, seen.words) == (None, None, "", [])
