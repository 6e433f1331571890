# SPDX-License-Identifier: Apache-2.0
"""What debuggers are asked, and their values cut to rows, without a guest."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernloop.debug.questions.steer import Act, steer
from kernloop.debug.questions.told import Of, asked_of, chosen
from kernloop.debug.questions.values import pruned, rows
from kernloop.errors import UsageError

# As GDB prints it, of a struct task_struct and an array.
TASK = (
    r"""{se = {load = {weight = 1048576, inv = 0}, on_rq = 0 '\000'}, comm = "fifo, {x}", '\000' <repeats 6 times>, """
    r"""ops = 0xffffffff81773ec8 <idle_sched_class>, cpus = {1, 2}}"""
)


def test_what_is_deeper_is_left_out_and_quotes_hold_no_braces() -> None:
    assert pruned("{a = {b = {c = 1}}, d = 2}", 2) == "{a = {b = {...}}, d = 2}"
    assert pruned("{a = {b = 1}, d = 2}", 0) == "{...}"
    assert pruned(r"""{a = "{\"", b = '{', c = {d = 1}}""", 1) == r"""{a = "{\"", b = '{', c = {...}}"""
    assert pruned("5", 0) == "5"


def test_a_struct_has_a_row_for_each_member() -> None:
    found = rows(pruned(TASK, 1))
    assert [row.partition(" = ")[0] for row in found] == ["se", "comm", "ops", "cpus"]
    assert found[0] == "se = {...}"
    assert found[1] == r"""comm = "fifo, {x}", '\000' <repeats 6 times>"""
    assert rows("{1, 2, {3, 4}}") == ["1", "2", "{3, 4}"]
    assert rows("{a = 1, b = {c = 2, d") == ["a = 1", "b = {c = 2, d"]
    assert rows("(struct rq *) 0x0") == ["(struct rq *) 0x0"]


@given(st.text(alphabet="{}<>\"'\\, =ab->", max_size=40), st.integers(0, 3))
def test_no_text_makes_them_fail(text: str, depth: int) -> None:
    rows(pruned(text, depth))
    rows("{" + text)


def test_whose_calls_are_meant() -> None:
    for text, of in {"": Of(), "cpus": Of(every=True), "cpu 1": Of(cpu=1), "CPU2": Of(cpu=2), "17": Of(pid=17)}.items():
        assert asked_of(text) == of
    for text in ("cpu", "cpu x", "init", "1 2", "-1"):
        with pytest.raises(UsageError, match="neither a CPU nor a task"):
            asked_of(text)


def test_what_makes_no_sense_is_refused_before_anything_is_started(own_folders: None, tmp_path: Path) -> None:
    dump = tmp_path / "core"
    dump.write_bytes(b"")
    with pytest.raises(UsageError, match="a VM that lives"):
        chosen(str(dump), "gdb")
    with pytest.raises(UsageError):
        chosen("nosuch", "")
    refused = {Act("hop"): "no 'hop'", Act("break"): "needs a place", Act("watch", " "): "an expression"}
    for act, told in refused.items():
        with pytest.raises(UsageError, match=told):
            steer("nosuch", act)
