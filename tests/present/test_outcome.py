# SPDX-License-Identifier: Apache-2.0
"""The JSON objects that `--json` prints and verdict.json keeps."""

from __future__ import annotations

import json
from pathlib import Path

from kernloop.errors import HarnessError, UsageError
from kernloop.present import failure_json, outcome_json
from kernloop.verdict import Evidence, KernelSeen, Outcome, Verdict

RUN = Path("/state/runs/one")


def test_an_outcome_becomes_plain_json_with_absolute_paths_of_its_evidence() -> None:
    outcome = Outcome(
        Verdict.PANIC,
        "it crashed",
        next="do this",
        kernel=KernelSeen("debian:7.3", "7.3.4", "aa", "7.3.4", "aa"),
        function="f",
        evidence=(Evidence("console.log", "the console", (3, 9)), Evidence("stdout", "output")),
        times={"boot": 1.5},
    )
    value = outcome_json("kernloop.run/1", RUN, outcome, exit_code=120, seed=1)
    assert json.loads(json.dumps(value)) == value
    assert (value["schema"], value["verdict"], value["exit_code"], value["run"], value["seed"]) == (
        "kernloop.run/1", "panic", 120, str(RUN), 1,
    )  # fmt: skip
    assert [item["path"] for item in value["evidence"]] == [f"{RUN}/console.log", f"{RUN}/stdout"]
    assert list(value["evidence"][0]["lines"]) == [3, 9]
    assert (value["kernel"]["matches"], value["function"], value["next"]) == (True, "f", "do this")


def test_an_outcome_without_a_kernel_has_none() -> None:
    assert outcome_json("s/1", RUN, Outcome(Verdict.PASS, "ok"), exit_code=0)["kernel"] is None


def test_an_error_of_the_host_has_the_same_head_as_an_outcome() -> None:
    ours = failure_json("kernloop.run/1", HarnessError("disk full", hint="free some"), RUN)
    assert (ours["verdict"], ours["exit_code"], ours["summary"], ours["next"], ours["run"]) == (
        "infra", 125, "disk full", "free some", str(RUN),
    )  # fmt: skip
    assert failure_json("s/1", UsageError("what?"), RUN)["exit_code"] == 2
