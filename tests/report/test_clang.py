# SPDX-License-Identifier: Apache-2.0
"""Diagnostics of clang 22 on schedulers that do not compile."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from kernloop.report.clang import parse_diagnostics

TEXT = (Path(__file__).parent.parent / "fixtures" / "clang" / "clang-22.txt").read_text()


def test_each_error_has_its_place_its_source_line_and_its_notes() -> None:
    first, *others = parse_diagnostics(TEXT)
    assert (first.file, first.line, first.column, first.severity) == ("proto.bpf.c", 5, 6, "error")
    assert first.message == "conflicting types for 'scx_bpf_kick_cpu'"
    assert first.source == "void scx_bpf_kick_cpu(u64 a) __ksym;"
    (note,) = first.notes
    assert (note.file, note.line, note.message) == ("scx/common.bpf.h", 70, "previous declaration is here")
    assert [item.message for item in others] == [
        "use of undeclared identifier 'count'",
        "too few arguments to function call, expected 2, have 1",
        "use of undeclared identifier 'count'",
    ]


def test_old_layouts_and_missing_places_are_read_too() -> None:
    old, fatal = parse_diagnostics(
        "a.c:3:5: warning: unused [-Wunused]\n    int x;\n        ^\nclang: fatal error: no input\n"
    )[:2]
    assert (old.severity, old.source) == ("warning", "int x;")
    assert (fatal.file, fatal.line, fatal.severity) == ("clang", None, "fatal error")


def test_colours_of_a_terminal_do_not_matter() -> None:
    (item,) = parse_diagnostics("\x1b[1ma.c:3:5: \x1b[0m\x1b[0;1;31merror: \x1b[0m\x1b[1mbad\x1b[0m\n")
    assert (item.line, item.message) == (3, "bad")


@settings(deadline=None)
@given(st.text())
def test_any_text_can_be_read(text: str) -> None:
    parse_diagnostics(text)
