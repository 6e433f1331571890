# SPDX-License-Identifier: Apache-2.0
"""What a message must have: each rule with a message that breaks it, and one that breaks none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernloop.git.tags import CommitText, Fixed, Person, fixes, person, signatures, subject

ANN, BEN, CARL = (Person(name, f"{name.lower()}@example.org") for name in ("Ann", "Ben", "Carl"))
FIX = Fixed("1234567890abcdef1234567890abcdef12345678", "sched: Break it", True)


def commit(
    *trailers: tuple[str, object], by: Person = ANN, sent: Person = ANN, text: str = "sched: Do it"
) -> CommitText:
    return CommitText("c0ffee", text, by, sent, tuple((key, str(value)) for key, value in trailers))


def sob(who: Person) -> tuple[str, object]:
    return ("Signed-off-by", who)


def told(one: CommitText) -> list[tuple[str, str]]:
    return [(problem.level, problem.check) for problem in signatures(one)]


CO = ("Co-developed-by", BEN)


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (commit(sob(ANN)), []),
        (commit(sob(ANN), ("Reviewed-by", CARL)), []),
        (commit(sob(ANN), sob(CARL), sent=CARL), []),
        (commit(CO, sob(BEN), sob(ANN)), []),
        (commit(sob(ANN), CO, sob(BEN), sob(ANN)), []),
        (commit(sob(ANN), sent=CARL), []),
        (commit(), [("error", "signed-off-by")]),
        (commit(sob(BEN)), [("error", "signed-off-by"), ("error", "signed-off-by-order")]),
        (commit(sob(CARL), sob(ANN), sent=CARL), [("error", "signed-off-by-order")]),
        (commit(sob(ANN), sob(BEN), sent=CARL), [("error", "signed-off-by-order")]),
        (commit(CO, sob(ANN)), [("error", "co-developed-by")]),
        (commit(CO, sob(ANN), sob(BEN), sob(ANN)), [("error", "co-developed-by")]),
        (commit(sob(ANN), CO), [("error", "co-developed-by")]),
        (commit(("Co-developed-by", ANN), sob(ANN)), [("warning", "co-developed-by")]),
        (commit(sob(ANN), sob(ANN)), [("warning", "signed-off-by")]),
        (commit(("Signed-off-by", "nobody")), [("error", "signed-off-by"), ("error", "signed-off-by")]),
        (
            commit(sob(Person("Ann", "ann@work.example"))),
            [("warning", "from-mismatch"), ("error", "signed-off-by-order")],
        ),
        (commit(sob(Person("A. Nonym", "ANN@example.org"))), [("warning", "from-mismatch")]),
    ],
)
def test_the_chain_of_signatures(one: CommitText, expected: list[tuple[str, str]]) -> None:
    assert told(one) == expected


@pytest.mark.parametrize(
    ("value", "found", "expected"),
    [
        ('1234567890ab ("sched: Break it")', FIX, []),
        ('1234567890 ("sched: Break it")', FIX, ["fewer than 12 digits"]),
        ('1234567890ab ("sched: Break")', FIX, ["another subject"]),
        ("1234567890ab", FIX, ["subject is not there"]),
        ("1234567890ab 'sched: Break it'", FIX, ["not written as in"]),
        ('1234567890ab ("sched: Break it")', None, ["no commit of this repository"]),
        ('1234567890ab ("sched: Break it")', Fixed(FIX.commit, FIX.subject, False), ["not in this history"]),
        ('1234567890ab ("sched: Break it")', Fixed(FIX.commit, FIX.subject, True, True), ["of this series"]),
        ("that bug", FIX, ["not as in"]),
    ],
)
def test_a_fixes_tag(value: str, found: Fixed | None, expected: list[str]) -> None:
    problems = list(fixes(commit(("Fixes", value)), lambda digits: found, shallow=False))
    assert len(problems) == len(expected)
    for problem, words in zip(problems, expected, strict=True):
        assert words in problem.message


def test_in_a_shallow_clone_a_fixes_tag_that_is_not_found_is_no_error() -> None:
    one = commit(("Fixes", '1234567890ab ("x")'))
    assert [problem.level for problem in fixes(one, lambda digits: None, shallow=True)] == ["warning"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sched/ext: Do it", []),
        ('Revert "sched: Do it"', []),
        ("fixup! sched: Do it", ["left-over"]),
        ("squash! sched: Do it", ["left-over"]),
        ("amend! sched: Do it", ["left-over"]),
        ("Do it", ["subject"]),
        ("sched: " + "x" * 80, ["subject"]),
        ("sched: Do it.", ["subject"]),
    ],
)
def test_a_subject(text: str, expected: list[str]) -> None:
    assert [problem.check for problem in subject(commit(text=text))] == expected


@given(
    st.lists(st.tuples(st.sampled_from(["Signed-off-by", "Co-developed-by", "Fixes", "x"]), st.text()), max_size=6),
    st.text(),
)
def test_no_message_raises(trailers: list[tuple[str, str]], text: str) -> None:
    one = commit(*trailers, text=text)
    assert list(signatures(one)) or any(key == "Signed-off-by" for key, _ in trailers)
    list(subject(one))
    list(fixes(one, lambda digits: FIX, shallow=False))


def test_a_name_in_quotes_is_the_name() -> None:
    assert person('"Ann B. C" <a@b.c> # work') == Person("Ann B. C", "a@b.c")
    assert person("Ann") is None
