# SPDX-License-Identifier: Apache-2.0
"""Invariants of the engine over bytes: chunks do not matter, offsets hold, time grows with the size and no faster."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crashes import EXAMPLES
from kernloop.report import scan as scanning
from kernloop.report.crash import Crash
from kernloop.report.engine import parse_console
from kernloop.report.oops_table import HEADERS, ROWS
from kernloop.report.scan import ConsoleScanner, scan

CONSOLE = Path(__file__).parent.parent / "fixtures" / "console"
LOGS = sorted(CONSOLE.glob("*.log"))

PREFIXES = st.sampled_from(
    ["", "[    7.123456] ", "[    7.123456][   T42] ", "[    7.123456][    C1] ", "<4>[    7.1] "]
)
WORDS = st.sampled_from([line for header, body, *_ in EXAMPLES for line in (header, *body)])
LINES = st.builds(lambda prefix, text: prefix + text, PREFIXES, st.one_of(WORDS, st.text(max_size=40)))
CONSOLES = st.lists(LINES, max_size=40).map(lambda lines: "\n".join(lines).encode("utf-8", "replace"))


def in_chunks(data: bytes, cuts: list[int]) -> list[Crash]:
    scanner, at = ConsoleScanner(), 0
    latest: dict[int, Crash] = {}
    for cut in [*sorted(cuts), len(data)]:
        latest |= {crash.start: crash for crash in scanner.feed(data[at:cut])}
        at = max(at, cut)
    latest |= {crash.start: crash for crash in scanner.finish()}
    return [latest[start] for start in sorted(latest)]


@settings(deadline=None)
@given(CONSOLES, st.lists(st.integers(0, 3000), max_size=12))
def test_the_chunks_do_not_matter(data: bytes, cuts: list[int]) -> None:
    assert in_chunks(data, cuts) == list(scan(data))


@settings(deadline=None)
@given(st.binary(max_size=2000), st.lists(st.integers(0, 2000), max_size=5))
def test_no_bytes_raise(data: bytes, cuts: list[int]) -> None:
    assert in_chunks(data, cuts) == list(scan(data))


@settings(deadline=None)
@given(CONSOLES)
def test_bytes_say_what_lines_say(data: bytes) -> None:
    by_line = parse_console(data.decode("utf-8", "replace").split("\n"))
    by_byte = list(scan(data))
    assert [(c.kind, c.title, c.start_line, c.end_line) for c in by_byte] == [
        (c.kind, c.title, c.start_line, c.end_line) for c in by_line
    ]


@settings(deadline=None)
@given(CONSOLES)
def test_the_offsets_are_those_of_whole_lines(data: bytes) -> None:
    for crash in scan(data):
        assert 0 <= crash.start < crash.end <= len(data) + 1
        assert crash.start == 0 or data[crash.start - 1 : crash.start] == b"\n"
        assert data[: crash.start].count(b"\n") + 1 == crash.start_line


@settings(deadline=None)
@given(st.sampled_from(EXAMPLES), PREFIXES, st.lists(st.text("abc \t:", max_size=30), max_size=30))
def test_a_report_is_found_again_from_its_start_and_not_from_its_end(
    example: tuple[str, list[str], str, str | None, str | None], prefix: str, noise: list[str]
) -> None:
    header, body, *_ = example
    data = "\n".join([*noise, *(prefix + line for line in (header, *body)), *noise, ""]).encode()
    for crash in scan(data):
        again = next(scan(data[crash.start :]))
        assert (again.kind, again.title, again.function, again.start) == (crash.kind, crash.title, crash.function, 0)
        assert all(later.title != crash.title for later in scan(data[crash.end :]))


@pytest.mark.parametrize("path", LOGS, ids=lambda path: path.name)
def test_a_recorded_report_is_found_again_from_its_start_and_not_from_its_end(path: Path) -> None:
    data = path.read_bytes()
    for crash in scan(data):
        again = next(scan(data[crash.start :]))
        assert (again.kind, again.title, again.end) == (crash.kind, crash.title, crash.end - crash.start)
        assert all(later.title != crash.title for later in scan(data[crash.end :]))


def test_without_the_library_the_result_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    logs = [path.read_bytes() for path in LOGS]
    with_it = [list(scan(log)) for log in logs]
    monkeypatch.setattr(scanning, "_matcher", lambda: None)
    assert [list(scan(log)) for log in logs] == with_it


def test_the_words_of_the_filter_find_all_headers() -> None:
    for header in HEADERS:
        assert any(needle.decode() in header for needle in scanning.NEEDLES)
    for row in ROWS:
        assert row.header in HEADERS


def seconds(data: bytes) -> float:
    started = time.process_time()
    list(scan(data))
    return time.process_time() - started


def test_a_line_without_end_in_small_pieces_takes_no_time_to_speak_of() -> None:
    scanner = ConsoleScanner()
    started = time.process_time()
    for _ in range(20_000):
        scanner.feed(b"BUG: x" * 20)
    scanner.finish()
    assert time.process_time() - started < 3


@pytest.mark.parametrize("word", ["WARNING: ", "INFO: task ", "BUG: KASAN: a in ", "BUG: a "])
def test_a_long_line_of_headers_takes_milliseconds(word: str) -> None:
    line = f"[    7.1] {word * 1000}\n".encode()
    assert seconds(line * 20) < 2


def test_reports_of_one_task_do_not_pile_up_in_one() -> None:
    line = b"[    7.1][   T42] kernel BUG at lib/kl.c:7!\n[    7.1][   T43] ok\n"
    assert len(list(scan(line * 5000))) > 20
