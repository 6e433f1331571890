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
from kernloop.verdict import Verdict, exit_code

__all__ = ["write"]

_EXCERPT = 40
_TAIL = 8192
_NAME = 200


def write(file: Path, verb: str, subject: str, value: dict[str, Any]) -> None:
    """Write the object of a verdict (kernloop.present.outcome) to `file`. Raises OSError."""
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
    report = JUnitXml("kernloop")
    report.add_testsuite(suite)
    report.time = suite.time
    report.write(str(file), pretty=True)


# A command in a guest, or whatever ended before there were steps.
def _whole(value: dict[str, Any], name: str) -> TestCase:
    case = TestCase(name, time=sum(value.get("times", {}).values()))
    _blame(case, value)
    if "run" in value:
        case.system_out = tail(Path(value["run"]) / "stdout", _TAIL)
        case.system_err = tail(Path(value["run"]) / "stderr", _TAIL)
    return case


# Build, load, each test and the check behind it. The verdict stands with the step that it is about.
def _steps(value: dict[str, Any]) -> list[TestCase]:
    build, load = TestCase("build", time=value["times"].get("build", 0.0)), TestCase("load")
    cases = [build, load]
    gates = {gate["after"]: gate for gate in value["gates"]}
    for test in [{"name": "enable"}, *value["tests"]]:
        name = _clean(test["name"])
        if "ok" in test:
            case = TestCase(name, time=test["seconds"])
            if not test["ok"]:
                figure = f"{test['figure']:g} {test['unit']}, limit {test['limit']:g}"
                case.result = _failed(test["why"] or figure, "\n".join([figure, *map(_pair, test["detail"].items())]))
            cases.append(case)
        if gate := gates.get(test["name"]):
            case = TestCase(f"check after {name}")
            if not gate["ok"]:
                case.result = _failed(gate["why"], gate["why"])
            cases.append(case)
    verdict = Verdict(value["verdict"])
    wrong = [case for case in cases if case.result]
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
    found = {
        "verdict": value["verdict"],
        "run": value.get("run"),
        "seed": value.get("seed"),
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
