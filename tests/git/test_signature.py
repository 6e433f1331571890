# SPDX-License-Identifier: Apache-2.0
"""What became of a run, and what that makes of the commit: the table in kernloop.git.signature, row by row."""

from __future__ import annotations

from pathlib import Path

import pytest

from kernloop.errors import UsageError
from kernloop.git.signature import Seen, Signature, fingerprint
from kernloop.git.vote import Sign
from kernloop.report.engine import parse_console
from kernloop.verdict import Verdict

CONSOLE = Path(__file__).parent.parent / "fixtures/console/sysrq-crash-7.3.4.log"
SHOWN, CLEAN, UNJUDGED, UNTESTABLE = Sign.SHOWN, Sign.CLEAN, Sign.UNJUDGED, Sign.UNTESTABLE


def seen(verdict: Verdict, status: int | None = None, *, console: bool = False, host: bool = False) -> Seen:
    return Seen(verdict, f"it was {verdict}", status, (CONSOLE,) if console else (), "/run", "digest", host)


@pytest.mark.parametrize(
    ("what", "without", "with_signature"),
    [
        (seen(Verdict.PASS, 0), CLEAN, CLEAN),
        (seen(Verdict.OOPS, 0), SHOWN, CLEAN),
        (seen(Verdict.OOPS, 1), SHOWN, UNJUDGED),
        (seen(Verdict.PANIC), SHOWN, UNJUDGED),
        (seen(Verdict.HANG), SHOWN, UNJUDGED),
        (seen(Verdict.BOOT_HANG), SHOWN, UNJUDGED),
        (seen(Verdict.COMMAND_FAILED, 1), SHOWN, UNJUDGED),
        (seen(Verdict.COMMAND_FAILED, -11), SHOWN, UNJUDGED),
        (seen(Verdict.COMMAND_FAILED, 125), UNTESTABLE, UNTESTABLE),
        (seen(Verdict.COMMAND_FAILED, 126), UNTESTABLE, UNTESTABLE),
        (seen(Verdict.COMMAND_FAILED, 127), UNTESTABLE, UNTESTABLE),
        (seen(Verdict.COMMAND_FAILED, 127, host=True), SHOWN, UNJUDGED),
        (seen(Verdict.REJECTED), UNTESTABLE, UNTESTABLE),
        (seen(Verdict.INFRA), UNJUDGED, UNJUDGED),
        (seen(Verdict.LOST), UNJUDGED, UNJUDGED),
        (seen(Verdict.INCONCLUSIVE), UNJUDGED, UNJUDGED),
        (seen(Verdict.UNKNOWN), UNJUDGED, UNJUDGED),
    ],
)
def test_each_outcome_is_good_bad_or_neither(what: Seen, without: Sign, with_signature: Sign) -> None:
    assert Signature().judge(what).sign is without
    assert Signature("never seen").judge(what).sign is with_signature


@pytest.mark.parametrize("verdict", [Verdict.INFRA, Verdict.LOST, Verdict.INCONCLUSIVE, Verdict.UNKNOWN])
def test_what_kernloop_or_the_machine_did_is_never_the_symptom(verdict: Verdict) -> None:
    shot = Signature("sysrq").judge(seen(verdict, console=True))
    assert (shot.sign, shot.fault) == (UNJUDGED, True)


@pytest.mark.parametrize(
    ("text", "sign"),
    [
        ("verdict:panic", SHOWN),
        ("verdict:oops", UNJUDGED),
        ("kernel-panic@sysrq_handle_crash", SHOWN),
        ("kernel-panic@sysrq_handle", UNJUDGED),
        ("null-deref@sysrq_handle_crash", UNJUDGED),
        ("Kernel panic - not syncing: sysrq", SHOWN),
        (r"^kernel panic: sysrq triggered crash$", SHOWN),
        ("triggered crush", UNJUDGED),
    ],
)
def test_a_panic_is_recognised_by_verdict_fingerprint_text_and_title(text: str, sign: Sign) -> None:
    assert Signature(text).judge(seen(Verdict.PANIC, console=True)).sign is sign


def test_a_run_that_ended_well_shows_the_symptom_all_the_same_if_it_is_on_the_console() -> None:
    assert Signature("sysrq").judge(seen(Verdict.PASS, 0, console=True)).sign is SHOWN


def test_a_fingerprint_names_kind_and_function() -> None:
    crashes = parse_console(CONSOLE.read_text().split("\n"))
    assert [fingerprint(crash) for crash in crashes] == ["kernel-panic@sysrq_handle_crash"]


@pytest.mark.parametrize("text", ["verdict:pass", "verdict:lost", "verdict:build-failed", "verdict:", "(", "[a-"])
def test_what_is_no_signature_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        Signature(text)
