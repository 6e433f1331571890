# SPDX-License-Identifier: Apache-2.0
"""The rules of `sched check` as a user sees them: listed, explained, and true to the kernel's messages."""

from __future__ import annotations

import json
from importlib import resources

from typer.testing import CliRunner

from kernloop.cli.main import app
from kernloop.sched.check.check import summary
from kernloop.sched.check.files import cause_of
from kernloop.sched.check.finding import Finding
from kernloop.sched.check.table import rules

# Numbers 13, 18 and 19 of the table of usual mistakes are the suite's and the verifier's.
EXPECTED = {*range(1, 13), 14, 15, 16, 17}


def finding(rule: str, level: str) -> Finding:
    return Finding(rule, level, "x_enqueue", "x.bpf.c", 1, "", "", "")  # type: ignore[arg-type]


def test_every_usual_mistake_that_can_be_seen_has_a_rule() -> None:
    assert {rule.mistake for rule in rules().values()} >= EXPECTED


def test_rules_name_messages_that_are_known() -> None:
    text = resources.files("kernloop.report").joinpath("data/scx_messages.json").read_text()
    known = {one["id"] for one in json.loads(text)}
    assert {message for rule in rules().values() for message in rule.messages} <= known


def test_rules_are_listed_and_explained() -> None:
    listed = CliRunner().invoke(app, ["sched", "check", "--rules"])
    assert listed.exit_code == 0
    assert all(rule in listed.stdout for rule in rules())
    told = CliRunner().invoke(app, ["sched", "check", "--explain", "lost-task"])
    assert "cure" in told.stdout
    assert "never runs again" in told.stdout


def test_an_unknown_rule_is_bad_input() -> None:
    done = CliRunner().invoke(app, ["sched", "check", "--explain", "lost-tusk", "--json"])
    assert done.exit_code == 2
    assert "lost-tusk" in json.loads(done.stdout)["summary"]


def test_what_is_no_scheduler_is_bad_input() -> None:
    assert CliRunner().invoke(app, ["sched", "check", "/nowhere/x.bpf.c"]).exit_code == 2
    assert CliRunner().invoke(app, ["sched", "check"]).exit_code == 2


def test_undecided_is_counted_apart() -> None:
    found = [finding("affinity", "may"), finding("unconsumed-dsq", "unknown"), finding("lost-task", "must")]
    assert summary(found) == "1 must, 1 may, 1 undecided"


def test_an_ejection_is_explained_by_the_surest_finding_of_its_message() -> None:
    found = [finding("affinity", "may"), finding("unchecked-push", "may"), finding("lost-task", "must")]
    cause = cause_of("stall", found)
    assert cause is not None
    assert cause.rule == "lost-task"
    assert cause_of("stall", [finding("lost-task", "unknown")]) is None
    assert cause_of("idle_off", found) is None
