# SPDX-License-Identifier: Apache-2.0
"""JUnit XML as CI reads it: which step failed, whose fault, what to do next; valid whatever was said."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from junitparser import Error, Failure, JUnitXml, Skipped, TestCase, TestSuite
from typer.testing import CliRunner

from kernloop.cli.main import app
from kernloop.present import junit
from kernloop.verdict import Verdict
from verdicts import FIXTURES, Finished, not_built, ran, verified

FIFO = Path(__file__).parents[2] / "examples/schedulers/fifo.bpf.c"
EVENTS = FIXTURES / "sched/fifo/events.jsonl"
# What readers of JUnit XML (Jenkins, GitLab, GitHub's reporters) agree on: attributes that must and may be, children.
FORMAT: dict[str, tuple[set[str], set[str], set[str]]] = {
    "testsuites": (set(), {"name", "time", "tests", "failures", "errors", "skipped"}, {"testsuite"}),
    "testsuite": (
        {"name", "tests", "failures", "errors"}, {"time", "skipped", "timestamp", "hostname"},
        {"properties", "testcase", "system-out", "system-err"},
    ),
    "properties": (set(), set(), {"property"}),
    "property": ({"name", "value"}, set(), set()),
    "testcase": ({"name", "classname"}, {"time"}, {"skipped", "error", "failure", "system-out", "system-err"}),
    "failure": ({"message", "type"}, set(), set()),
    "error": ({"message", "type"}, set(), set()),
    "skipped": ({"message"}, set(), set()),
    "system-out": (set(), set(), set()),
    "system-err": (set(), set(), set()),
}  # fmt: skip


def written(run: Finished, verb: str = "verify", subject: str = "some/lost_task.bpf.c") -> TestSuite:
    """The suite as it is read back, its form checked."""
    file = run.path / "junit.xml"
    junit.write(file, verb, subject, run.value)
    check_form(ElementTree.fromstring(file.read_bytes()))
    [suite] = JUnitXml.fromfile(str(file))
    return suite


def check_form(element: ElementTree.Element) -> None:
    required, optional, children = FORMAT[element.tag]
    assert required <= set(element.attrib) <= required | optional, element.tag
    for name in ("tests", "failures", "errors", "skipped"):
        assert element.attrib.get(name, "0").isdigit()
    assert float(element.attrib.get("time", "0")) >= 0
    for child in element:
        assert child.tag in children
        check_form(child)
    if element.tag == "testsuite":
        cases = element.findall("testcase")
        assert int(element.attrib["tests"]) == len(cases)
        for attribute, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            assert int(element.attrib[attribute]) == sum(case.find(tag) is not None for case in cases)


def results(suite: TestSuite) -> dict[str, str]:
    """By case: ok, or what it is and its type."""
    return {str(case.name): "ok" if not case.result else _word(case) for case in suite}


def _word(case: TestCase) -> str:
    [result] = case.result
    kind = {Failure: "failure", Error: "error", Skipped: "skipped"}[type(result)]
    return f"{kind} {result.type}" if result.type else kind


def properties(suite: TestSuite) -> dict[str, str]:
    return {str(one.name): str(one.value) for one in suite.properties()}  # type: ignore[no-untyped-call]


def test_a_verify_that_passes_has_a_case_for_each_step() -> None:
    suite = written(verified("fifo"))
    assert set(results(suite).values()) == {"ok"}
    names = list(results(suite))
    assert names[:3] == ["build", "load", "check after enable"]
    assert names[3:5] == ["idle", "check after idle"]
    assert {str(case.classname) for case in suite} == {"kernloop.verify.lost_task"}


def test_the_times_are_the_guests_for_a_test_and_the_hosts_for_the_whole() -> None:
    run = verified("fifo")
    suite = written(run)
    times = {str(case.name): case.time for case in suite}
    assert times["build"] == 0.5
    assert times["idle"] == run.value["tests"][0]["seconds"]
    assert suite.time == run.value["times"]["total"]


def test_the_properties_say_what_it_was_run_with() -> None:
    run = verified("fifo")
    found = properties(written(run))
    assert (found["kernel.release"], found["kernel.build_id"], found["guest.build_id"]) == ("7.3.4", "ab12", "ab12")
    assert (found["seed"], found["run"], found["verdict"]) == ("1", str(run.path), "pass")


def test_an_ejected_scheduler_fails_the_test_that_it_happened_in() -> None:
    run = verified("lost_task")
    suite = written(run)
    assert results(suite)["saturation"] == "failure ejected"
    assert results(suite)["idle"] == "ok"
    [result] = next(case for case in suite if case.name == "saturation").result
    assert result.message == f"ejected: {run.value['summary']}"
    assert f"next: {run.value['next']}" in str(result.text)
    assert "console, lines" in str(result.text)


def test_a_rejected_scheduler_fails_to_load() -> None:
    run = verified("null_check")
    suite = written(run)
    assert results(suite)["build"] == "ok"
    assert results(suite)["load"] == "failure rejected"
    [result] = next(case for case in suite if case.name == "load").result
    assert run.value["rejection"]["source_text"] in str(result.text)


def test_a_build_error_fails_the_build_and_skips_the_load() -> None:
    run = not_built()
    suite = written(run)
    assert results(suite) == {"build": "failure build-failed", "load": "skipped"}
    [result] = next(iter(suite)).result
    assert run.value["diagnostics"][0]["source"].strip() in str(result.text)


def test_a_limit_that_does_not_hold_fails_its_test_with_the_figures() -> None:
    lines = [json.loads(line) for line in EVENTS.read_text().splitlines()]
    for event in lines:
        if event["event"] == "test" and event["name"] in ("idle", "saturation"):
            event.update(ok=False, why="too late", figure=300.5, limit=250)
        if event["event"] == "done":
            event["ok"] = False
    suite = written(verified("fifo", events="".join(json.dumps(event) + "\n" for event in lines).encode()))
    found = results(suite)
    assert (found["idle"], found["saturation"]) == ("failure test-failed", "failure test-failed")
    assert suite.failures == 2
    [second] = next(case for case in suite if case.name == "saturation").result
    assert (second.message, "300.5 ms, limit 250" in str(second.text)) == ("too late", True)


def test_a_suite_that_did_not_finish_is_an_error_of_its_own() -> None:
    data = EVENTS.read_bytes()
    run = verified("fifo", events=data[: data.index(b'{"event":"done"')])
    assert run.value["verdict"] == "infra"
    assert results(written(run))["verdict"] == "error infra"
    run = verified("fifo", events=data[: data.index(b'{"event":"test"')])
    assert results(written(run))["idle"] == "error infra"


@pytest.mark.parametrize("verdict", Verdict)
def test_a_run_is_one_case_and_says_whose_fault(verdict: Verdict) -> None:
    run = ran(verdict, "so it was", status=3, next_="look", stdout=b"hello\n")
    suite = written(run, "run", "sh -c 'exit 3'")
    [case] = suite
    if verdict is Verdict.PASS:
        assert case.result == []
    else:
        ours = verdict in (Verdict.UNKNOWN, Verdict.LOST, Verdict.INCONCLUSIVE, Verdict.INFRA)
        assert results(suite) == {"sh -c 'exit 3'": f"{'error' if ours else 'failure'} {verdict}"}
        assert str(case.result[0].text).startswith("so it was\nnext: look")
    assert (case.classname, case.time, case.system_out) == ("kernloop.run", 3.0, "hello\n")


def test_what_a_guest_writes_does_not_break_the_xml() -> None:
    console = b"one\n\x00\x1b[31m]]></failure><b>\xff\xfe\x0b\xef\xbf\xbf\n"
    run = ran(Verdict.PANIC, "bad \x01 \ud800 <summary>", console=console, lines=(2, 2), stdout=b"\x00<![CDATA[\x08")
    [case] = written(run, "run", "printf \x02\x1b")
    assert case.result[0].message == "panic: bad ␁ � <summary>"
    assert "␀]]></failure><b>��␋�" in str(case.result[0].text)
    assert case.system_out == "␀<![CDATA[␈"


def call(*words: str | Path) -> int:
    return CliRunner().invoke(app, [str(word) for word in words]).exit_code


@pytest.mark.parametrize("verb", [["run", "--", "true"], ["verify", FIFO]])
def test_a_file_that_cannot_be_written_is_said_before_anything_is_fetched(
    verb: list[str | Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something was to be fetched")

    monkeypatch.setattr("kernloop.host.toolset.get", refuse)
    monkeypatch.setattr("kernloop.kernel.refs.resolve", refuse)
    for file, why in ((tmp_path / "no/junit.xml", "No such file"), (tmp_path, "Is a directory")):
        done = CliRunner().invoke(app, [str(word) for word in (verb[0], "--junit", file, *verb[1:])])
        assert (done.exit_code, done.stdout) == (2, "")
        assert done.stderr.startswith(f"kernloop: cannot write {file}: {why}")
        assert "  next: " in done.stderr
    assert not (tmp_path / "state/kernloop/runs").exists()


def test_a_mistake_of_the_caller_is_an_error_in_the_file(tmp_path: Path) -> None:
    file = tmp_path / "junit.xml"
    assert call("run", "--junit", file, "--kernel", "7.3", "--", "true") == 2
    [suite] = JUnitXml.fromfile(str(file))
    [case] = suite
    assert "'7.3' is no kernel reference" in str(case.result[0].message)
    assert "debian:7.2" in str(case.result[0].text)
    assert suite.errors == 1


def test_until_the_verdict_the_file_says_that_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "junit.xml"
    seen = []

    def killed(*_: object, **__: object) -> None:
        seen.append(file.read_text())
        raise SystemExit(9)

    monkeypatch.setattr("kernloop.kernel.refs.resolve", killed)
    assert call("run", "--junit", file, "--", "true") == 9
    assert 'message="unknown: not judged' in seen[0]
    assert file.read_text() == seen[0]


def test_skipped_and_undecided_tests_are_told_apart_from_failures() -> None:
    lines = [json.loads(line) for line in EVENTS.read_text().splitlines()]
    for event in lines:
        if event["event"] == "test" and event["name"] == "idle":
            event.update(ok=False, result="inconclusive", why="EEVDF does not hold it here either", baseline=310)
        if event["event"] == "test" and event["name"] == "saturation":
            event.update(ok=False, result="skipped", why="the scheduler does not claim weights")
    suite = written(verified("fifo", events="".join(json.dumps(event) + "\n" for event in lines).encode()))
    found = results(suite)
    assert (found["idle"], found["saturation"]) == ("error inconclusive", "skipped")
    assert (suite.failures, suite.errors, suite.skipped) == (0, 1, 1)


def test_findings_are_a_case_that_only_a_sure_one_fails() -> None:
    sure = {"rule": "no-insert", "level": "must", "program": "enqueue", "file": "a.bpf.c", "line": 7, "source": "x",
            "why": "the task is put nowhere", "cure": "insert it"}  # fmt: skip
    run = verified("fifo")
    assert "static checks" not in results(written(run)), "nothing says that there was a check"
    for findings, wanted in (([{**sure, "level": "may"}], "ok"), ([sure], "failure test-failed")):
        run.value["findings"] = findings
        suite = written(run)
        assert results(suite)["static checks"] == wanted
    [case] = [case for case in suite if case.name == "static checks"]
    assert "a.bpf.c:7: the task is put nowhere (no-insert); insert it" in str(case.result[0].text)
    thrown = verified("lost_task")
    thrown.value["findings"] = [sure]
    assert results(written(thrown))["saturation"] == "failure ejected"
