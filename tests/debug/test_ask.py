# SPDX-License-Identifier: Apache-2.0
"""Expressions and scripts as data: pages, limits that say so, and whose fault a failure is."""

from __future__ import annotations

from pathlib import Path

import pytest
from drgn import Program

from kernloop.debug.ask import Answer, Limits, evaluate, run
from kernloop.errors import SubjectError, UsageError


def asked(expression: str, *, elements: int = 3, since: int = 0) -> Answer:
    return evaluate(Program(), expression, Limits(elements=elements), since)


def test_a_sequence_is_told_a_page_at_a_time() -> None:
    first = asked("range(7)")
    assert (first.value, first.next, first.count) == ([0, 1, 2], 3, 7)
    last = asked("range(7)", since=6)
    assert (last.value, last.next) == ([6], None)
    assert asked("(n for n in range(7))").count is None


def test_what_is_cut_within_a_value_says_how_much() -> None:
    assert asked("[[1, 2, 3, 4, 5]]").value == [[1, 2, 3, "... 2 more"]]
    assert asked("{'a': 1, 'b': 2, 'c': 3, 'd': 4}").value == {"a": 1, "b": 2, "c": 3, "...": "1 more"}
    assert asked("[iter('abcde')]").value == [["a", "b", "c", "... more"]]


def test_an_address_is_text_since_numbers_of_json_end_before() -> None:
    assert asked("0xffff888000001000, 5").value == ["0xffff888000001000", 5]


def test_what_an_expression_prints_is_beside_its_value() -> None:
    assert asked("print('said')").output == "said\n"


@pytest.mark.parametrize("expression", ["1/0", "exit(1)", "nobody"])
def test_an_expression_that_fails_is_its_authors_fault(expression: str) -> None:
    with pytest.raises(SubjectError):
        asked(expression)


def test_what_is_no_python_is_not_run() -> None:
    with pytest.raises(UsageError):
        asked("1 +")


def test_a_script_may_exit_and_its_line_is_named_when_it_fails(tmp_path: Path) -> None:
    script = tmp_path / "one.py"
    script.write_text("result = 5\nraise SystemExit\n")
    assert run(Program(), script, True).value == 5
    script.write_text("pass\n1/0\n")
    with pytest.raises(SubjectError, match="at line 2: ZeroDivisionError"):
        run(Program(), script, True)


def test_help_has_a_word_for_each_name() -> None:
    told = asked("help()", elements=1000).value
    assert all(": " in line or line.startswith("walk_") for line in told) and len(told) > 25
