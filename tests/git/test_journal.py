# SPDX-License-Identifier: Apache-2.0
"""The journal: nothing that is in it is asked again, whatever a kill has cut off."""

from __future__ import annotations

from pathlib import Path

from kernloop.git.journal import Journal
from kernloop.git.vote import Shot, Sign

CLEAN, SHOWN = Shot(Sign.CLEAN, "fine", "/a", kernel="12ab"), Shot(Sign.SHOWN, "broken", "/b")
FAULT = Shot(Sign.UNJUDGED, "disk full", fault=True)


def never() -> Shot:
    raise AssertionError("asked again")


def filled(path: Path, *shots: tuple[str, Shot]) -> None:
    journal = Journal(path)
    for subject, shot in shots:
        assert journal(subject, lambda shot=shot: shot) == shot  # type: ignore[misc]


def test_what_was_run_is_answered_from_it_in_the_order_of_each_commit(tmp_path: Path) -> None:
    filled(tmp_path / "j", ("a", CLEAN), ("b", SHOWN), ("a", SHOWN))
    again = Journal(tmp_path / "j")
    assert again.kernels == {"a": "12ab"}
    assert [again("a", never), again("a", never), again("b", never)] == [CLEAN, SHOWN, SHOWN]
    assert again.exhausted("a") and again("a", lambda: CLEAN) == CLEAN
    third = Journal(tmp_path / "j")
    assert [third("a", never) for _ in range(3)] == [CLEAN, SHOWN, CLEAN]


def test_wherever_it_is_cut_off_what_is_whole_counts(tmp_path: Path) -> None:
    filled(tmp_path / "whole", ("a", CLEAN), ("b", SHOWN))
    whole = (tmp_path / "whole").read_bytes()
    first = whole.index(b"\n") + 1
    for length in sorted({*range(0, len(whole), 17), first - 2, first - 1, first, first + 1, len(whole)}):
        path = tmp_path / "cut"
        path.write_bytes(whole[:length])
        journal = Journal(path)
        assert journal.exhausted("a") == (length < first - 1)
        journal("c", lambda: SHOWN)
        assert Journal(path)("c", never) == SHOWN


def test_the_machines_faults_at_the_end_are_tried_again_and_those_before_are_not(tmp_path: Path) -> None:
    filled(tmp_path / "j", ("a", FAULT), ("a", CLEAN), ("b", FAULT), ("c", FAULT))
    again = Journal(tmp_path / "j")
    assert [again("a", never), again("a", never)] == [FAULT, CLEAN]
    assert again.exhausted("b") and again.exhausted("c")
