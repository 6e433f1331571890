# SPDX-License-Identifier: Apache-2.0
"""A run as JUnit XML, for continuous integration: one test case for a command, one for each step of a verify, one for
each of the kernel's own tests.

A failure is the subject's (or the kernel's) fault, an error ours or undecided, as with the exit codes. Beside the
verdict stand the next step and what the console says of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from junitparser import Error, Failure, JUnitXml, Skipped, TestCase, TestSuite

from kernloop.present.text import printable, tail
from kernloop.runs import read_json
from kernloop.verdict import Verdict, exit_code

__all__ = ["write"]

_EXCERPT = 40
_TAIL = 8192
_NAME = 200
_STATIC = "static checks"


def write(file: Path, verb: str, subject: str, value: dict[str, Any]) -> None:
    """Write the object of a verdict (kernloop.present.outcome) to `file`. Raises OSError."""
    report = JUnitXml("kernloop")
    if "cells" in value:
        suites = [_cell(one, verb, subject) for one in value["cells"]]
    else:
        suites = [_suite(verb, subject, value)]
    for suite in suites:
        report.add_testsuite(suite)
    report.time = round(sum(suite.time for suite in suites), 3)
    report.write(str(file), pretty=True)


# One machine and kernel of a matrix: its own verdict's steps, or that it was not run.
def _cell(cell: dict[str, Any], verb: str, subject: str) -> TestSuite:
    value = read_json(Path(cell["run"]) / "verdict.json") if cell["run"] else cell
    suite = _suite(verb, subject, {**value, "topology": cell["topology"]} if value.get("verdict") else cell)
    suite.name = _clean(f"{suite.name} {cell['topology']} {cell['release'] or cell['kernel']}")[:_NAME]
    return suite


def _suite(verb: str, subject: str, value: dict[str, Any]) -> TestSuite:
    verified = "tests" in value
    name = Path(subject).name.removesuffix(".c").removesuffix(".o").removesuffix(".bpf") if verb == "verify" else ""
    classname = ".".join(["kernloop", verb, *([name.replace(".", "_")] if name else [])])
    if value.get("results"):
        cases = _results(value)
    else:
        cases = _steps(value) if verified else [_whole(value, _clean(subject)[:_NAME] or verb)]
    for case in cases:
        case.classname = _clean(classname)
    suite = TestSuite(_clean(f"kernloop {verb} {subject}")[:_NAME])
    for key, said in _properties(value).items():
        suite.add_property(key, _clean(said))
    suite.add_testcases(cases)
    times = value.get("times", {})
    suite.time = round(times.get("total", sum(times.values())), 3)
    return suite


# A command in a guest, or whatever ended before there were steps.
def _whole(value: dict[str, Any], name: str) -> TestCase:
    case = TestCase(name, time=sum(value.get("times", {}).values()))
    _blame(case, value)
    if value.get("run"):
        case.system_out = tail(Path(value["run"]) / "stdout", _TAIL)
        case.system_err = tail(Path(value["run"]) / "stderr", _TAIL)
    return case


# Build, load, each test and the check behind it. The verdict stands with the step that it is about.
def _steps(value: dict[str, Any]) -> list[TestCase]:
    build, load = TestCase("build", time=value["times"].get("build", 0.0)), TestCase("load")
    cases = [build, *_static(value.get("findings")), load]
    gates = {gate["after"]: gate for gate in value["gates"]}
    for test in [{"name": "enable"}, *value["tests"]]:
        name = _clean(test["name"])
        if "ok" in test:
            case = TestCase(name, time=test["seconds"])
            if test.get("result") == "skipped":
                case.result = Skipped(_clean(test["why"]))
            elif not test["ok"]:
                case.result = _not_ok(test)
            cases.append(case)
        if gate := gates.get(test["name"]):
            case = TestCase(f"check after {name}")
            if not gate["ok"]:
                case.result = _failed(gate["why"], gate["why"])
            cases.append(case)
    verdict = Verdict(value["verdict"])
    # A scheduler that the kernel threw out failed the test that ran, whatever else is known of it.
    wrong = sorted(filter(_is_wrong, cases), key=lambda case: case.name == _STATIC)
    if verdict is Verdict.BUILD_FAILED:
        _blame(build, value)
        load.result = Skipped("it was not built")
    elif verdict is not Verdict.PASS:
        if not value["scheduler"]:
            wrong = [load]
        elif not wrong:
            wrong = [TestCase(_clean(value["during"]) or "verdict")]
            cases += wrong
        _blame(wrong[0], value)
    return cases


# What was found in the program: sure mistakes are failures, what is only likely is told.
def _static(findings: list[dict[str, Any]] | None) -> list[TestCase]:
    if not findings:
        return []
    case = TestCase(_STATIC)
    told = {level: [_finding(one) for one in findings if one["level"] == level] for level in ("must", "may", "unknown")}
    if told["must"]:
        case.result = _failed(told["must"][0], "\n".join(told["must"]))
    if rest := [f"{level}: {text}" for level in ("may", "unknown") for text in told[level]]:
        case.system_out = _clean("\n".join(rest))
    return [case]


def _finding(one: dict[str, Any]) -> str:
    return f"{one['file']}:{one['line']}: {one['why']} ({one['rule']}); {one['cure']}"


# A failure is the scheduler's; what could not be decided is an error.
def _not_ok(test: dict[str, Any]) -> Failure | Error:
    figure = f"{test['figure']:g} {test['unit']}, limit {test['limit']:g}"
    baseline = f"EEVDF {test['baseline']:g} {test['unit']}" if test.get("baseline") is not None else ""
    reason = f"the limit: {test['reason']}" if test.get("reason") else ""
    lines = [figure, baseline, reason, *map(_pair, test["detail"].items())]
    unclear = test.get("result") == "inconclusive"
    found = (Error if unclear else Failure)(
        _clean(test["why"] or figure), str(Verdict.INCONCLUSIVE if unclear else Verdict.TEST_FAILED)
    )
    found.text = _clean("\n".join(line for line in lines if line))
    return found


# The kernel's own tests. A crash of the kernel stands with the test that was under way.
def _results(value: dict[str, Any]) -> list[TestCase]:
    cases = []
    for one in value["results"]:
        case = TestCase(_clean(one["name"]), time=one.get("seconds", 0.0))
        status, reason = one["status"], _clean(one.get("reason", ""))
        if status == "skip":
            case.result = Skipped(reason or "skipped")
        elif status in ("xfail", "todo"):
            case.result = Skipped(f"it failed, as it was expected to: {reason}".removesuffix(": "))
        elif status != "pass":
            case.result = _failed(reason or status, "\n".join(one.get("said") or []))
        cases.append(case)
    verdict = Verdict(value["verdict"])
    if verdict is not Verdict.PASS and (verdict is not Verdict.TEST_FAILED or not any(map(_is_wrong, cases))):
        running = [case for case in cases if case.name == _clean(value["running"])]
        wrong = running[-1] if running else TestCase(_clean(value["running"]) or "verdict")
        cases += [] if running else [wrong]
        _blame(wrong, value)
    return cases


def _is_wrong(case: TestCase) -> bool:
    return any(isinstance(one, Failure | Error) for one in case.result)


# What the verdict says against the case, if anything.
def _blame(case: TestCase, value: dict[str, Any]) -> None:
    # Without a verdict nothing ran: the caller's mistake.
    verdict = Verdict(value["verdict"] or Verdict.UNKNOWN)
    if verdict is Verdict.PASS:
        return
    kind = Error if exit_code(verdict) == 125 else Failure
    found = kind(_clean(f"{verdict}: {value['summary']}"), str(verdict))
    lines = [value["summary"], f"next: {value['next']}" if value.get("next") else "", *_diagnosis(value)]
    found.text = _clean("\n".join([line for line in lines if line] + _excerpt(value)))
    case.result = found


def _diagnosis(value: dict[str, Any]) -> list[str]:
    lines = []
    for one in value.get("diagnostics") or ():
        if "error" in one["severity"]:
            lines += [f"{one['file']}:{one['line']}: {one['message']}", f"    {one['source']}"]
    if rejection := value.get("rejection"):
        lines += [f"{rejection['source_file']}:{rejection['source_line']}: {rejection['source_text']}"]
        lines += [rejection["instruction"], rejection.get("explanation", ""), rejection["reason"]]
    return [*lines, value.get("placement", "")]


# The lines, most often of the console, that the first piece of evidence is about.
def _excerpt(value: dict[str, Any]) -> list[str]:
    item = next((item for item in value.get("evidence", []) if item["lines"]), None)
    if item is None:
        return []
    (first, last), file = item["lines"], Path(value["run"]) / item["path"]
    try:
        lines = file.read_bytes().decode(errors="replace").split("\n")[first - 1 : last]
    except OSError:
        return []
    where = "console" if file.name == "console.log" else file.name
    return [f"{where}, lines {first} to {last}:", *lines[:_EXCERPT]] if lines else []


def _properties(value: dict[str, Any]) -> dict[str, str]:
    kernel = value.get("kernel") or {}
    # A cell of a matrix that was not run has the reference alone.
    kernel = {"ref": kernel} if isinstance(kernel, str) else kernel
    found = {
        "verdict": value["verdict"],
        "run": value.get("run"),
        "seed": value.get("seed"),
        "topology": value.get("topology"),
        "kernel": kernel.get("ref"),
        "kernel.release": kernel.get("release"),
        "kernel.build_id": kernel.get("build_id"),
        "guest.release": kernel.get("guest_release"),
        "guest.build_id": kernel.get("guest_build_id"),
        "console.sha256": value.get("console_sha256"),
    }
    return {name: str(said) for name, said in found.items() if said is not None}


def _failed(message: str, text: str) -> Failure:
    found = Failure(_clean(message), str(Verdict.TEST_FAILED))
    found.text = _clean(text)
    return found


def _pair(item: tuple[str, float]) -> str:
    return f"{item[0]} {item[1]:g}"


# XML has no way to write control characters, not even escaped.
def _clean(text: str) -> str:
    return "\n".join(printable(line) for line in text.split("\n"))
