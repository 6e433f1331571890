# SPDX-License-Identifier: Apache-2.0
"""What `kernloop kselftest` and `kernloop kunit` share: running, telling, the JSON object."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kernloop import runs
from kernloop.cli.junit import Tell, finish
from kernloop.cli.output import err, escape, mark, out, print_json, progress
from kernloop.errors import HarnessError
from kernloop.present import failure_json, outcome_json, plain
from kernloop.report import compiler
from kernloop.report.ktap import GOOD, Status
from kernloop.runs import REPORT
from kernloop.suites.judge import Judgement, Result
from kernloop.verdict import exit_code

__all__ = ["Say", "conclude_suite", "details"]

Say = Callable[[str], None]
Show = Callable[[str, str], None]
# Of what a test said the JSON object carries the end; results.json has it whole.
_SAID = 20
_ERRORS = 5
_SHOWN = 100


def conclude_suite(
    schema: str, record: runs.Run, tell: Tell | None, *, as_json: bool, execute: Callable[[Say, Show], Judgement]
) -> int:
    """`execute` with words and tests shown as they come; then the verdict. The exit code."""
    with progress(record=record) as say:

        def show(name: str, status: str) -> None:
            record.note("test", name=name, status=status)
            if not as_json:
                colour = "green" if status == Status.PASS else "yellow" if status in GOOD else "red"
                err.print(f"  [{colour}]{status:8}[/] {escape(name)}")

        try:
            judgement = execute(say, show)
        except HarnessError as error:
            finish(record, failure_json(schema, error, record.path), tell)
            raise
    outcome = judgement.outcome
    code = exit_code(outcome.verdict)
    if judgement.tree:
        record.write("results.json", {"schema": schema, "tests": plain(judgement.tree)})
    value = outcome_json(schema, record.path, outcome, exit_code=code, **details(judgement))
    finish(record, value, tell)
    if as_json:
        print_json(_shortened(value))
    else:
        _explain(judgement, record)
    return code


# A thousand passes are a number; verdict.json has their names.
def _shortened(value: dict[str, Any]) -> dict[str, Any]:
    if len(value["results"]) <= _SHOWN:
        return value
    told = [one for one in value["results"] if one["status"] != Status.PASS]
    return {**value, "results": told, "left_out": len(value["results"]) - len(told)}


# What an agent needs: who did not pass, and why. Passed tests are names.
def details(judgement: Judgement) -> dict[str, Any]:
    return {
        "totals": plain(judgement.totals),
        "running": judgement.running,
        "results": [_result(one) for one in judgement.results],
        "problems": list(judgement.problems),
        "lacking": list(judgement.lacking),
        "diagnostics": plain(judgement.diagnostics),
    }


def _result(one: Result) -> dict[str, Any]:
    value: dict[str, Any] = {"name": one.name, "status": one.status.value}
    if one.seconds is not None:
        value["seconds"] = one.seconds
    if one.reason:
        value["reason"] = one.reason
    if one.status not in GOOD:
        value |= {"said": list(one.diagnostics[-_SAID:]), "lines": list(one.lines) if one.lines else None}
    return value


def _explain(judgement: Judgement, record: runs.Run) -> None:
    outcome = judgement.outcome
    out.print(f"{mark(outcome.verdict)}  {escape(outcome.summary)}")
    if outcome.kernel:
        out.print(f"  kernel    {outcome.kernel.release}  build-id {outcome.kernel.build_id[:16]}")
    for one in judgement.results:
        if one.status is not Status.PASS:
            out.print(f"  {one.status:9} {escape(one.name)}" + (f"  {escape(one.reason)}" if one.reason else ""))
    errors = compiler.errors(judgement.diagnostics)
    for error in errors[:_ERRORS]:
        out.print(f"  {escape(f'{error.file}:{error.line}:{error.column}: {error.message}')}")
    if len(errors) > _ERRORS:
        out.print(f"  and {len(errors) - _ERRORS} more errors in compiler.txt")
    if outcome.times:
        out.print("  times     " + "  ".join(f"{name} {seconds:.1f} s" for name, seconds in outcome.times.items()))
    out.print(f"  evidence  {record.path}")
    if (record.path / REPORT).exists():
        out.print(f"  report    {record.path / REPORT}")
    if outcome.next:
        out.print(f"  [bold]next[/]      {escape(outcome.next)}")
