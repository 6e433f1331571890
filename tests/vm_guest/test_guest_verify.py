# SPDX-License-Identifier: Apache-2.0
"""`kernloop verify` on every example scheduler: the verdicts that examples/schedulers/expected.toml promises."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from kernloop.sched.selection import DEFAULT, TESTS
from support import SCHEDULERS, Done, kernloop

pytestmark = pytest.mark.vm
LONG = pytest.mark.skipif("KERNLOOP_LONG_TESTS" not in os.environ, reason="KERNLOOP_LONG_TESTS is not set")

with (SCHEDULERS / "expected.toml").open("rb") as _file:
    EXPECTED: list[dict[str, Any]] = tomllib.load(_file)["scheduler"]

# scxsuite's order; what fails "by" one of them may fail sooner. Enabling is part of the load.
STAGES = ["build", "enable", "load", *TESTS]
EXIT_CODES = {"pass": 0, "ejected": 1, "rejected": 1, "build-failed": 1, "test-failed": 1}


def verify(*words: str | Path) -> Done:
    return kernloop("verify", "--json", *words, seconds=300)


def for_kernel(entry: dict[str, Any], release: str) -> dict[str, Any]:
    """`entry` with what it says otherwise of kernels whose release begins so."""
    other: dict[str, Any] = next(
        (more for start, more in entry.get("kernels", {}).items() if release.startswith(start)), {}
    )
    return {**entry, **other}


def asked_of(entry: dict[str, Any]) -> list[str]:
    """The whole suite for those that pass it. Others end at one of its first tests: later ones' baselines only cost."""
    if "tests" in entry:
        return [f"--tests={entry['tests']}"]
    if entry["verdict"] == "pass":
        return []
    last = TESTS.index(entry["by"]) if entry["by"] in TESTS else 0
    return [f"--tests={','.join(TESTS[: last + 1])}"]


def program_of(value: dict[str, Any]) -> str | None:
    rejection = value["rejection"]
    return rejection["program"] if rejection else None


@pytest.mark.parametrize("entry", EXPECTED, ids=[entry["path"].removesuffix(".bpf.c") for entry in EXPECTED])
def test_a_scheduler_gets_its_verdict(entry: dict[str, Any]) -> None:
    claims = [f"--claims={entry['claims']}"] if "claims" in entry else []
    done = verify(SCHEDULERS / entry["path"], *asked_of(entry), *claims)
    value = done.json
    want = for_kernel(entry, value["kernel"]["release"])
    assert value["verdict"] == want["verdict"], value["summary"]
    assert done.status == value["exit_code"] == EXIT_CODES[want["verdict"]]
    if want["verdict"] == "pass":
        assert [test["name"] for test in value["tests"]] == list(DEFAULT)
        assert {test["result"] for test in value["tests"]} <= {"pass", "skipped"}
        skipped = [test["name"] for test in value["tests"] if test["result"] == "skipped"]
        assert not set(entry.get("judged", ())) & set(skipped), skipped
        return
    if want["verdict"] == "test-failed":
        failed = next(test for test in value["tests"] if test["result"] == "fail")
        assert failed["name"] == want["by"]
        assert re.search(want["message"], failed["why"]), failed["why"]
        return
    assert value["next"]
    if "kind" in want:
        assert value["exit"]["kind"] == want["kind"]
        assert re.search(want["message"], value["exit"]["message"]), value["exit"]["message"]
        assert value["during"] in ("", *STAGES[: STAGES.index(want["by"]) + 1]), value["during"]
    if want["verdict"] == "rejected":
        assert re.search(want["cause"], value["rejection"]["cause"]), value["rejection"]["cause"]
        if "program" in want:
            assert program_of(value) == want["program"]
    if want["verdict"] == "build-failed":
        errors = [found for found in value["diagnostics"] if "error" in found["severity"]]
        assert re.search(want["cause"], errors[0]["message"]), errors
        assert (errors[0]["line"], Path(errors[0]["file"]).name) == (want["line"], Path(want["path"]).name)


@pytest.mark.parametrize(
    ("args", "kind", "message"),
    [
        (("-t", "100"), 1026, r"^.+\[\d+\] failed to run for \d+\.\d{3}s$"),
        (("-T", "100"), 1026, r"^(.+\[\d+\] failed to run|watchdog failed to check in) for \d+\.\d{3}s$"),
        (("-e", "50"), 1025, r"scx_qmap\.bpf\.c:\d+: "),
        (("-l", "100"), 1026, r"^(.+\[\d+\] failed to run|watchdog failed to check in) for \d+\.\d{3}s$"),
    ],
)
def test_the_kernels_own_qmap_told_to_fail_is_ejected(args: tuple[str, ...], kind: int, message: str) -> None:
    done = verify("--loader", "kernel:scx_qmap", "--", *args)
    assert (done.status, done.json["verdict"]) == (1, "ejected"), done.json["summary"]
    assert done.json["exit"]["kind"] == kind
    assert re.search(message, done.json["exit"]["message"]), done.json["exit"]["message"]


def test_a_dump_that_qmap_is_told_to_keep_short_is_short_and_says_so() -> None:
    done = verify("--loader", "kernel:scx_qmap", "--", "-e", "50", "-D", "1024")
    assert done.json["exit"]["kind"] == 1025
    dump = (Path(done.json["run"]) / "dump.txt").read_text()
    assert len(dump) <= 1024
    assert dump.rstrip().endswith("~~~~ TRUNCATED ~~~~")


def test_the_kernels_own_simple_scheduler_passes() -> None:
    done = verify("--loader", "kernel:scx_simple")
    assert (done.status, done.json["verdict"]) == (0, "pass"), done.json["summary"]
    assert done.json["scheduler"] == "simple"


# What claims the scheduler has to hold, and the tests that its own loader is most likely to get wrong.
@pytest.mark.parametrize(
    ("name", "claims", "judged"),
    [
        ("scx_central", "", {"cpuset", "hotplug", "reload"}),
        # Not cpuset: tasks with a CPU mask go first there, always, and the others stall. Not cgroup-storm: a group that
        # is made while another goes can find that one's node, and flatcg gives up ("unexpected !NULL cgv_node stash").
        ("scx_flatcg", "cgroups", {"cgroup-weights", "hotplug", "reload"}),
        pytest.param("scx_qmap", "", {"cpuset", "cgroup-storm", "leak", "hotplug", "reload"}, marks=LONG),
    ],
)
def test_the_kernels_own_schedulers_hold_what_they_claim(name: str, claims: str, judged: set[str]) -> None:
    options = [f"--claims={claims}"] if claims else []
    done = verify("--loader", f"kernel:{name}", f"--tests={','.join(sorted(judged))}", *options)
    assert (done.status, done.json["verdict"]) == (0, "pass"), done.json["summary"]
    assert {test["name"] for test in done.json["tests"] if test["result"] == "pass"} == judged


@LONG
@pytest.mark.parametrize("name", ["fifo", "groups"])
def test_the_suite_in_its_full_length_passes(name: str) -> None:
    done = kernloop("verify", "--json", SCHEDULERS / f"{name}.bpf.c", "--all", "--timeout", "1500", seconds=1600)
    assert (done.status, done.json["verdict"]) == (0, "pass"), done.json["summary"]
    detail = {test["name"]: test["detail"] for test in done.json["tests"]}
    assert (detail["hotplug"]["cycles"], detail["reload"]["reloads"]) == (20, 50)


def test_a_scheduler_the_kernels_source_does_not_have_is_named_with_those_it_has() -> None:
    done = verify("--loader", "kernel:scx_nosuch")
    assert done.status == 2
    assert "scx_nosuch" in done.text
    assert "scx_simple" in done.json["next"]


def test_an_object_file_gets_the_verdict_of_its_source(tmp_path: Path) -> None:
    from_source = verify(SCHEDULERS / "broken/uncreated_dsq.bpf.c").json
    copy = tmp_path / "uncreated_dsq.bpf.o"
    copy.write_bytes((Path(from_source["run"]) / "scheduler.bpf.o").read_bytes())
    from_object = verify(copy).json
    assert (from_object["verdict"], from_object["exit"]) == (from_source["verdict"], from_source["exit"])
    assert from_object["console_sha256"] == from_source["console_sha256"]


def test_only_the_tests_asked_for_are_run() -> None:
    done = verify(SCHEDULERS / "fifo.bpf.c", "--tests", "wakeup,idle")
    assert [test["name"] for test in done.json["tests"]] == ["idle", "wakeup"]
    assert done.status == 0
    assert done.json["summary"] == "2 tests"


def test_a_program_that_loads_no_scheduler_is_inconclusive_with_its_own_words(tmp_path: Path) -> None:
    script = tmp_path / "idle_loader"
    script.write_text("#!/bin/sh\necho I load nothing >&2\nexit 3\n")
    script.chmod(0o755)
    done = verify("--loader", script)
    assert (done.status, done.json["verdict"]) == (125, "inconclusive")
    assert done.json["summary"] == "the loader ended before the scheduler was enabled (exit 3): I load nothing"
    assert "I load nothing" in (Path(done.json["run"]) / "loader.txt").read_text()


def test_people_see_the_verdict_first_then_why_and_what_to_do() -> None:
    done = kernloop("verify", SCHEDULERS / "broken/uncreated_dsq.bpf.c", seconds=300)
    lines = done.out.decode().splitlines()
    assert done.status == 1
    assert lines[0] == "ejected  runtime error: non-existent DSQ 0x1"
    assert any(line.strip().startswith("exit ") and "(1024)" in line for line in lines)
    assert lines[-1].strip().startswith("next")
