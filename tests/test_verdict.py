# SPDX-License-Identifier: Apache-2.0
"""Exit codes and the order of severity: what scripts and `git bisect run` rely on."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernloop.errors import HarnessError, SubjectError, UsageError
from kernloop.verdict import KernelSeen, Verdict, exit_code, guest_exit_code, worst

OURS = {Verdict.UNKNOWN, Verdict.LOST, Verdict.INCONCLUSIVE, Verdict.INFRA}
RESERVED = {120, 124, 125}

# Design, section 4: a crash outranks what it brings about.
ORDER = [
    Verdict.PANIC,
    Verdict.OOPS,
    Verdict.EJECTED,
    Verdict.REJECTED,
    Verdict.HANG,
    Verdict.TEST_FAILED,
    Verdict.COMMAND_FAILED,
    Verdict.PASS,
]


@pytest.mark.parametrize("verdict", list(Verdict))
def test_a_judging_verb_exits_0_for_pass_125_for_our_faults_and_1_for_the_subjects(verdict: Verdict) -> None:
    expected = 0 if verdict is Verdict.PASS else 125 if verdict in OURS else 1
    assert exit_code(verdict) == expected


@pytest.mark.parametrize(
    ("verdict", "code"),
    [
        (Verdict.PANIC, 120),
        (Verdict.OOPS, 120),
        (Verdict.HANG, 124),
        (Verdict.BOOT_HANG, 124),
        (Verdict.LOST, 125),
        (Verdict.INFRA, 125),
        (Verdict.INCONCLUSIVE, 125),
        (Verdict.UNKNOWN, 125),
    ],
)
@pytest.mark.parametrize("status", [None, 0, 1, 7, 120, 255, -9])
def test_a_run_that_did_not_end_by_its_command_says_why_whatever_the_command_returned(
    verdict: Verdict, code: int, status: int | None
) -> None:
    assert guest_exit_code(verdict, status) == code


@given(st.integers(0, 127).filter(lambda code: code not in RESERVED))
def test_an_ordinary_exit_code_of_the_command_is_ours(code: int) -> None:
    assert guest_exit_code(Verdict.PASS if code == 0 else Verdict.COMMAND_FAILED, code) == code


@given(st.one_of(st.sampled_from(sorted(RESERVED)), st.integers(128, 255), st.integers(-64, -1)))
def test_a_command_cannot_forge_a_code_that_means_something_else(code: int) -> None:
    assert guest_exit_code(Verdict.COMMAND_FAILED, code) == 1


@given(st.integers(-64, 255))
def test_no_command_makes_git_bisect_skip_or_abort(code: int) -> None:
    found = guest_exit_code(Verdict.COMMAND_FAILED, code)
    assert 0 <= found <= 127
    assert found != 125


def test_a_command_without_a_known_end_is_our_fault() -> None:
    assert guest_exit_code(Verdict.PASS, None) == 125


@pytest.mark.parametrize(("worse", "better"), list(pairwise(ORDER)))
def test_the_more_severe_of_two_verdicts_wins_in_any_order(worse: Verdict, better: Verdict) -> None:
    assert worst([worse, better]) is worst([better, worse]) is worse


@given(st.lists(st.sampled_from(list(Verdict)), min_size=1))
def test_the_worst_is_one_of_those_seen_and_order_does_not_matter(seen: list[Verdict]) -> None:
    assert worst(seen) in seen
    assert worst(seen) is worst(reversed(seen))


def test_nothing_seen_is_unknown() -> None:
    assert worst([]) is Verdict.UNKNOWN


@pytest.mark.parametrize(("kind", "code"), [(HarnessError, 125), (UsageError, 2), (SubjectError, 1)])
def test_each_kind_of_error_has_its_exit_code(kind: type[HarnessError], code: int) -> None:
    error = kind("what", hint="do this")
    assert (error.exit_code, error.message, error.hint) == (code, "what", "do this")


@pytest.mark.parametrize(("guest", "matches"), [(None, None), ("aa", True), ("bb", False)])
def test_a_kernel_is_the_one_asked_for_only_by_its_build_id(guest: str | None, matches: bool | None) -> None:
    assert KernelSeen("debian:7.3", "7.3.4", "aa", "7.3.4", guest).matches is matches
