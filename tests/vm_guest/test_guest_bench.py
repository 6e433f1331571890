# SPDX-License-Identifier: Apache-2.0
"""`bench vm`: the figures it gives, and that it does not make up what it cannot measure."""

from __future__ import annotations

import pytest

from support import kernloop

pytestmark = pytest.mark.vm


def test_a_measure_has_seconds_cpu_time_and_what_it_was_measured_on() -> None:
    value = kernloop("bench", "vm", "--json", "--rounds", "1", "--only", "exec").json
    assert (value["schema"], value["rounds"], list(value["measures"])) == ("kernloop.bench-vm/1", 1, ["exec"])
    assert {"host", "cores", "load_after", "kernel", "qemu", "accelerator", "snapshot"} <= set(value)
    seen = value["measures"]["exec"]
    assert seen["target"] == 0.02
    assert seen["why"] == ""
    for spread in (seen["seconds"], seen["cpu_seconds"]):
        assert 0 <= spread["min"] <= spread["median"] <= spread["max"] < 5
        assert len(spread["all"]) == 1
    assert 20 << 20 < value["snapshot"]["allocated"] < value["snapshot"]["bytes"]


def test_a_measure_that_there_is_not_is_bad_input() -> None:
    done = kernloop("bench", "vm", "--only", "nosuch")
    assert done.status == 2
    assert "there are: cold restore exec" in done.text
