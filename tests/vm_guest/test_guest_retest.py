# SPDX-License-Identifier: Apache-2.0
"""`kernloop replay RUN --test NAME`: one test of a verify again, with the scheduler as it was then."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from support import SCHEDULERS, kernloop

pytestmark = pytest.mark.vm

LONG = pytest.mark.skipif("KERNLOOP_LONG_TESTS" not in os.environ, reason="KERNLOOP_LONG_TESTS is not set")


def test_a_failed_test_is_repeated_alone_after_the_source_was_cured(tmp_path: Path) -> None:
    source = tmp_path / "mine.bpf.c"
    shutil.copy(SCHEDULERS / "broken/greedy_priority.bpf.c", source)
    first = kernloop("verify", source, "--tests", "idle,saturation", "--json", seconds=300).json
    assert (first["verdict"], first["tests"][-1]["name"]) == ("ejected", "saturation")
    source.unlink()
    done = kernloop("replay", Path(first["run"]).name, "--test", "saturation", "--json", seconds=300)
    value = done.json
    assert (done.status, value["verdict"], value["alone"]) == (0, "pass", True), value["summary"]
    assert value["was"]["exit_message"] == first["exit"]["message"]
    assert (value["now"]["exit_kind"], value["now"]["result"]["name"]) == (1026, "saturation")
    other = kernloop("replay", Path(first["run"]).name, "--test", "reload")
    assert other.status == 2
    assert "it has: idle saturation" in other.text


@LONG
@pytest.mark.slow
def test_what_does_not_come_alone_comes_to_the_last_digit_behind_the_tests_before_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from kernloop import runs
    from kernloop.sched import retest

    first = kernloop("verify", SCHEDULERS / "fifo.bpf.c", "--tests", "idle,fork-storm,reload", "--json", seconds=300)
    run = Path(first.json["run"])
    # As if the first attempt had come out otherwise.
    monkeypatch.setattr(retest, "_with_tests", lambda payload, names: payload.replace(b"idle,fork", b"idle,work"))
    with runs.create("replay", "kernloop.test/1", {}) as record:
        done = retest.again(run, "fork-storm", record, say=print)
    assert (done.outcome.verdict, done.alone, done.same) == ("pass", False, True), done.outcome.summary
