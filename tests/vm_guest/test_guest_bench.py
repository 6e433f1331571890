# SPDX-License-Identifier: Apache-2.0
"""`bench vm`, `build`, `verify`, `debug`: their figures, and that they do not make up what they cannot measure."""

from __future__ import annotations

import pytest

import trees
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


def test_builds_are_measured_and_the_tree_is_as_it_was() -> None:
    with trees.tiny() as tree:
        file = next(path for path in (tree / "kernel/sched/ext/ext.c", tree / "kernel/sched/ext.c") if path.exists())
        before = file.read_bytes()
        words = ("--json", "--rounds", "1", "--only", "none", "--only", "edit", "--only", "error")
        done = kernloop("bench", "build", tree, *words, seconds=1500)
        assert done.status == 0, done.text
        assert file.read_bytes() == before
    value = done.json
    assert (value["schema"], value["profile"], value["tree"]) == ("kernloop.bench-build/1", "tiny", str(tree))
    assert {"host", "cores", "load_after"} <= set(value)
    cpu = {name: seen["cpu_seconds"]["median"] for name, seen in value["measures"].items()}
    assert 0 < cpu["none"] < cpu["error"] < cpu["edit"]
    assert value["measures"]["edit"]["target"] == 25


def test_verdicts_are_measured_as_their_users_wait_for_them() -> None:
    value = kernloop(
        "bench", "verify", "--json", "--rounds", "1", "--only", "check", "--only", "edit", seconds=300
    ).json
    assert (value["schema"], value["kernel"]) == ("kernloop.bench-verify/1", "debian:newest")
    assert {"host", "cores", "load_after"} <= set(value)
    cpu = {name: seen["cpu_seconds"]["median"] for name, seen in value["measures"].items()}
    assert 0 < cpu["check"] < cpu["edit"]
    assert (value["measures"]["check"]["target"], value["measures"]["edit"]["target"]) == (0.6, 4)


def test_debuggers_are_measured_and_what_the_kernel_lacks_is_said() -> None:
    names = ("drgn-open", "pause-break", "gdb-hit", "kgdb-attach")
    only = [word for name in names for word in ("--only", name)]
    value = kernloop("bench", "debug", "--json", "--rounds", "1", *only, seconds=300).json
    assert (value["schema"], value["kernel"]) == ("kernloop.bench-debug/1", "debian:newest")
    assert {"host", "cores", "load_after"} <= set(value)
    seen = value["measures"]
    assert set(seen) == set(names)
    assert "CONFIG_KGDB" in seen["kgdb-attach"]["why"] and seen["kgdb-attach"]["seconds"] is None
    assert seen["drgn-open"]["target"] == 0.3
    for name in names[:3]:
        assert 0 <= seen[name]["seconds"]["median"] < 60, name
        assert seen[name]["why"] == ""
