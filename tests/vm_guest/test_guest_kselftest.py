# SPDX-License-Identifier: Apache-2.0
"""Test programs in a guest: a panic in the middle names the test, one that hangs is ended and the next one runs."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest
from junitparser import JUnitXml

from kernloop import runs
from kernloop.kernel import refs, source
from kernloop.suites.drive import Program, drive
from kernloop.suites.judge import Judgement, judge
from kernloop.suites.stream import Stream
from kernloop.verdict import Verdict
from kernloop.vm.backends import backend
from kernloop.vm.handover import blob
from kernloop.vm.topology import Topology
from support import kernloop

pytestmark = pytest.mark.vm

PLACE = "tools/testing/selftests"


def program(name: str, script: str, *, seconds: float = 60) -> Program:
    """A test program of this shell text."""
    return Program(f"selftests: own: {name}", ("sh", "-c", script, name), "/root", seconds)


def driven(*programs: Program, seconds: float = 60) -> Judgement:
    kernel = refs.resolve(refs.DEFAULT)
    made = backend("micro", kernel, Topology(), 512)
    with runs.create("kselftest", "kernloop.kselftest/1", {"subject": "own"}) as record:
        with (record.path / "ktap.log").open("wb") as file:
            stream = Stream(file)
            started = made.attend(blob(b"", seed=None), record)
            done = asyncio.run(drive(started, record, programs, stream, env=made.env, seconds=seconds))
            report = stream.finish()
        return judge(kernel, record, done.watched, report, deadline=seconds, depth=2, blamed=done.blamed)


def statuses(judgement: Judgement) -> list[tuple[str, str]]:
    return [(one.name, one.status.value) for one in judgement.results]


def test_exit_codes_are_kselftests_and_a_skip_is_no_pass() -> None:
    judgement = driven(
        program("good", "exit 0"),
        program("bad", "echo told you; exit 3"),
        program("away", "echo 'SKIP: no such device'; exit 4"),
        program("hopeless", "exit 2"),
        program("killed", "kill -SEGV $$"),
        Program("selftests: own: gone", ("/no/such/program",), "/root", 60),
    )
    assert judgement.outcome.verdict is Verdict.TEST_FAILED
    assert statuses(judgement) == [
        ("own:good", "pass"),
        ("own:bad", "fail"),
        ("own:away", "skip"),
        ("own:hopeless", "xfail"),
        ("own:killed", "fail"),
        ("own:gone", "fail"),
    ]
    bad, away, killed = (judgement.results[number] for number in (1, 2, 4))
    assert "# told you" in bad.diagnostics
    assert (bad.reason, away.reason, killed.reason) == ("exit=3", "no such device", "exit=139")
    assert (judgement.totals.passed, judgement.totals.skipped) == (1, 1)
    assert "1 skipped (own:away)" in judgement.outcome.summary


def test_a_panic_in_the_middle_names_the_test_and_those_that_did_not_run_are_missing() -> None:
    judgement = driven(
        program("first", "echo 'TAP version 13'; echo 1..2; echo ok 1 a; echo ok 2 b"),
        program(
            "second",
            "echo 'TAP version 13'; echo 1..3; echo ok 1 c; echo '#  RUN           group.evil ...'; sleep 1;"
            "echo c > /proc/sysrq-trigger; echo ok 2 group.evil",
        ),
        program("third", "true"),
    )
    outcome = judgement.outcome
    assert (outcome.verdict, outcome.function) == (Verdict.PANIC, "sysrq_handle_crash")
    assert outcome.summary.startswith("while own:second:group.evil ran: ")
    assert judgement.running == "own:second:group.evil"
    assert ("own:first:b", "pass") in statuses(judgement)
    assert ("own:second:group.evil", "crashed") in statuses(judgement)
    assert (judgement.totals.passed, judgement.totals.missing) == (3, 2)


def test_a_test_that_hangs_is_ended_and_the_next_one_runs() -> None:
    judgement = driven(
        program("deaf", "trap '' TERM; echo waiting; while :; do sleep 100; done", seconds=10),
        program("next", "exit 0"),
    )
    assert judgement.outcome.verdict is Verdict.HANG
    assert statuses(judgement) == [("own:deaf", "timeout"), ("own:next", "pass")]
    assert judgement.outcome.summary.startswith("timed out: own:deaf; ")
    assert "# waiting" in judgement.results[0].diagnostics


def test_a_program_that_can_run_one_test_goes_on_with_those_behind_the_one_that_hangs() -> None:
    script = """
        for name in ${1:-one two three}; do
            echo "TEST: $name"
            case $name in two) sleep 100 ;; esac
            echo "ok $((n += 1)) $name"
        done
    """
    several = Program("selftests: own: all", ("sh", "-c", script, "all"), "/root", 3, ("one", "two", "three"))
    judgement = driven(several, program("next", "exit 0"))
    assert statuses(judgement) == [
        ("own:all:one", "pass"),
        ("own:all:two", "timeout"),
        ("own:all:three", "pass"),
        ("own:next", "pass"),
    ]
    assert judgement.problems == ()


def test_a_living_guest_whose_time_is_over_is_not_judged_a_dead_one_is_a_hang() -> None:
    slow = driven(program("slow", "sleep 100"), seconds=10)
    assert slow.outcome.verdict is Verdict.INCONCLUSIVE
    assert "while own:slow ran" in slow.outcome.summary


def test_an_oops_that_the_guest_survives_is_the_tests_that_made_it() -> None:
    judgement = driven(
        program("before", "true"),
        program("culprit", "echo '<0>Oops: 0002 [#1] SMP' > /dev/kmsg; sleep 1"),
        program("after", "true"),
    )
    assert judgement.outcome.verdict is Verdict.OOPS
    assert judgement.outcome.summary.startswith("while own:culprit ran")
    assert judgement.totals.passed == 3


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A kernel tree like the default kernel's, with a target of the tests' own beside the others."""
    found = source.candidate(refs.resolve(refs.DEFAULT))
    assert found is not None
    real, tree = source.full_tree(found), tmp_path_factory.mktemp("tree")
    folder = Path()
    for part in ("", *PLACE.split("/")):
        folder /= part
        (tree / folder).mkdir(exist_ok=True)
        for entry in (real / folder).iterdir():
            if not (tree / folder / entry.name).exists() and entry.name not in PLACE.split("/"):
                (tree / folder / entry.name).symlink_to(entry)
    own = tree / PLACE / "own"
    own.mkdir()
    (own / "Makefile").write_text("TEST_GEN_PROGS := prog forks\nTEST_PROGS := script.sh\ninclude ../lib.mk\n")
    (own / "settings").write_text("timeout=20\n")
    (own / "script.sh").write_text("#!/bin/bash\n[[ -x /usr/bin/env ]] && echo bash is here\nexit ${FAILS:-4}\n")
    (own / "script.sh").chmod(0o755)
    for name in ("prog.c", "forks.c"):
        shutil.copyfile(Path(__file__).parent.parent / "fixtures/ktap" / name, own / name)
    return tree


@pytest.mark.slow
def test_selftests_of_a_tree_are_built_beside_it_and_run_with_scripts(tree: Path, tmp_path: Path) -> None:
    before = sorted(tree.rglob("*"))
    report = tmp_path / "junit.xml"
    done = kernloop("kselftest", "own", "--tree", tree, "--json", "--junit", report, seconds=600)
    assert (done.status, done.json["verdict"]) == (1, "test-failed"), done.text
    assert sorted(tree.rglob("*")) == before
    found = {one["name"]: one["status"] for one in done.json["results"]}
    assert found == {
        "own:prog:global.good": "pass",
        "own:prog:global.bad": "fail",
        "own:prog:global.away": "skip",
        "own:forks": "pass",
        "own:script.sh": "skip",
    }
    assert Path(done.json["run"], "ktap.log").read_text().count("once") == 1
    assert "prog.c" in "".join(next(one for one in done.json["results"] if one["status"] == "fail")["said"])
    [suite] = JUnitXml.fromfile(str(report))
    assert (suite.tests, suite.failures, suite.skipped, suite.errors) == (5, 1, 2, 0)


@pytest.mark.slow
def test_a_selftest_that_does_not_compile_is_a_failed_build_with_the_compilers_words(tree: Path) -> None:
    broken = tree / PLACE / "own/prog.c"
    text = broken.read_text()
    broken.write_text(text + "int oh dear;\n")
    try:
        done = kernloop("kselftest", "own", "--tree", tree, "--json", seconds=600)
    finally:
        broken.write_text(text)
    assert (done.status, done.json["verdict"]) == (1, "build-failed")
    line = len(text.splitlines()) + 1
    assert f"own/prog.c:{line}" in done.json["summary"]
    assert done.json["diagnostics"][0]["line"] == line


@pytest.mark.slow
def test_one_selftest_of_sched_ext_runs_by_its_name() -> None:
    done = kernloop("kselftest", "sched_ext:minimal", "sched_ext:nohz_tick", "--json", seconds=900)
    assert (done.status, done.json["verdict"]) == (0, "pass"), done.text
    assert [(one["name"], one["status"]) for one in done.json["results"]] == [
        ("sched_ext:minimal", "pass"),
        ("sched_ext:nohz_tick", "skip"),
    ]
    wrong = kernloop("kselftest", "sched_ext:minimum")
    assert wrong.status == 2
    assert "minimal" in wrong.text
