# SPDX-License-Identifier: Apache-2.0
"""Consoles in blocks: every line keeps its number, the marked ones are the asked ones, and nothing odd gets through."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from kernloop.present.text import Block, blocks, printable, tail


def numbers(found: list[Block], *, marked: bool) -> list[int]:
    return [block.first + at for block in found if block.marked is marked for at in range(len(block.lines))]


def test_the_lines_of_a_report_are_marked_and_can_be_jumped_to() -> None:
    found = blocks(b"one\ntwo\nthree\nfour\nfive\n", [(2, 3)])
    assert found == [
        Block(1, ("one",)), Block(2, ("two", "three"), True, "L2"), Block(4, ("four", "five")),
    ]  # fmt: skip


def test_reports_that_touch_or_overlap_each_have_their_own_place() -> None:
    found = blocks(b"1\n2\n3\n4\n5\n6\n", [(2, 3), (4, 5), (3, 4)])
    assert [block.anchor for block in found] == ["", "L2", "L3", "L4", ""]
    assert numbers(found, marked=True) == [2, 3, 4, 5]


def test_only_a_newline_ends_a_line() -> None:
    found = blocks("a\x0cb\x0bc\u2028d\x85e\rf\r\nsecond\n".encode(), [(2, 2)])
    assert found[1] == Block(2, ("second",), True, "L2")


def test_escape_sequences_and_control_characters_become_harmless() -> None:
    assert printable("\x1b[1;31mred\x1b[0m \x1b]0;title\x07x\x00\x07\ty\r") == "red x␀␇\ty"
    assert printable("a\u202eb\x9bc\x7f") == "a�b�c␡"


def test_a_range_that_the_console_does_not_have_is_no_error() -> None:
    assert numbers(blocks(b"one\n", [(5, 9)]), marked=True) == []
    assert blocks(b"", [(1, 2)]) == []


@given(st.binary(max_size=400), st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), max_size=4),
       st.integers(8, 500))  # fmt: skip
def test_every_line_is_in_one_block_with_its_number(data: bytes, ranges: list[tuple[int, int]], limit: int) -> None:
    found = blocks(data, ranges, limit=limit)
    at = 1
    for block in found:
        assert block.first == at
        assert bool(block.lines) != bool(block.left_out)
        at += len(block.lines) + block.left_out
    text = data.decode(errors="replace").removesuffix("\n")
    assert at - 1 == (text.count("\n") + 1 if text else 0)
    for _, text in [(block, line) for block in found for line in block.lines]:
        assert not any(ord(char) < 32 and char != "\t" for char in text)


def test_of_a_long_console_the_beginning_the_end_and_the_report_are_kept() -> None:
    data = b"".join(b"%06d %s\n" % (number, b"x" * 90) for number in range(1, 100_001))
    found = blocks(data, [(60_000, 60_010)], limit=1 << 20)
    shown = [line for block in found for line in block.lines]
    assert sum(map(len, shown)) <= 1 << 20
    assert shown[0].startswith("000001")
    assert shown[-1].startswith("100000")
    assert numbers(found, marked=True) == list(range(60_000, 60_011))
    assert 59_800 in numbers(found, marked=False)
    assert sum(block.left_out for block in found) == 100_000 - len(shown)


def test_a_line_without_an_end_is_cut() -> None:
    [block] = blocks(b"x" * 100_000, [])
    assert len(block.lines[0]) < 5000
    assert block.lines[0].endswith("(96000 characters more)")


def test_the_tail_of_a_file_says_what_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "stdout").write_bytes(b"a" * 100 + b"\xff\x00end\n")
    assert tail(tmp_path / "stdout", 6) == "(100 bytes before this are left out)\n�␀end\n"
    assert tail(tmp_path / "stdout", 1000).startswith("aaa")
    assert tail(tmp_path / "nosuch", 6) == ""
