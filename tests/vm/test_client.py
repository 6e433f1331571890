# SPDX-License-Identifier: Apache-2.0
"""Reading a console piece by piece: no byte is lost or told twice, whatever the pieces and the bytes."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernloop.errors import UsageError
from kernloop.vm.pieces import read_console, search

LOGS = st.lists(st.sampled_from([b"a", b"want", b"\n", b"\r\n", b"\xff\xfe", b"x" * 50])).map(b"".join)


def run_with(log: bytes) -> tempfile.TemporaryDirectory[str]:
    folder = tempfile.TemporaryDirectory()
    (Path(folder.name) / "console.log").write_bytes(log)
    return folder


@given(LOGS, st.integers(1, 40))
def test_pieces_of_any_size_are_the_console(log: bytes, limit: int) -> None:
    with run_with(log) as folder:
        data, cursor, more = b"", 0, True
        while more:
            piece = read_console(Path(folder), since=cursor, limit=limit)
            assert (piece.start, piece.cursor) == (cursor, cursor + len(piece.data))
            assert len(piece.data) <= limit
            data, cursor, more = data + piece.data, piece.cursor, piece.more
        assert data == log


@given(LOGS, st.integers(1, 40))
def test_grep_tells_each_line_that_fits_once_whatever_the_limit(log: bytes, limit: int) -> None:
    with run_with(log) as folder:
        found, cursor, more = b"", 0, True
        for _ in range(len(log) + 2):
            piece = read_console(Path(folder), since=cursor, limit=limit, grep="want")
            assert len(piece.data) <= limit
            found, cursor, more = found + piece.data, piece.cursor, piece.more
            if not more:
                break
        assert not more
        assert cursor == len(log)
        fitting = [line for line in log.splitlines(keepends=True) if b"want" in line]
        assert found == b"".join(line[:limit] for line in fitting)


@given(LOGS, st.integers(-300, 300))
def test_reading_from_the_end_or_beyond_it_stays_within_the_console(log: bytes, since: int) -> None:
    with run_with(log) as folder:
        piece = read_console(Path(folder), since=since, limit=1 << 20)
        assert piece.data == (log[max(len(log) + since, 0) :] if since < 0 else log[since:])
        assert piece.cursor == len(log)


@given(LOGS)
def test_a_search_goes_on_from_its_cursor_and_finds_every_line(log: bytes) -> None:
    with run_with(log) as folder:
        found, cursor = [], 0
        while (at := search(Path(folder) / "console.log", re.compile(b"want"), cursor))["matched"]:
            assert at["cursor"] > cursor
            cursor = at["cursor"]
            found.append(at["line"])
        assert len(found) == sum(b"want" in line for line in log.split(b"\n"))
        assert at["cursor"] == max(log.rfind(b"\n") + 1, cursor)


def test_a_pattern_that_is_none_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "console.log").write_bytes(b"")
    with pytest.raises(UsageError, match="no regular expression"):
        read_console(tmp_path, grep="(")
    with pytest.raises(UsageError, match="there is no"):
        read_console(tmp_path / "none")
