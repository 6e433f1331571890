# SPDX-License-Identifier: Apache-2.0
"""Outcomes at the edge: the JSON object that `--json` prints and verdict.json keeps, and who else is told of it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from kernloop.errors import HarnessError
from kernloop.runs import Run
from kernloop.verdict import Outcome, Verdict

__all__ = ["conclude", "failure_json", "outcome_json", "plain"]


def plain(value: object) -> Any:
    """`value` in JSON's own types: a dataclass becomes an object of its fields, a path or an enum's word a string."""
    if is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path | StrEnum) else value


def outcome_json(schema: str, run: Path, outcome: Outcome, *, exit_code: int, **more: object) -> dict[str, Any]:
    """`outcome` as the object of `schema`; evidence paths become absolute, `more` fields come behind."""
    value = plain(outcome)
    for evidence in value["evidence"]:
        evidence["path"] = str(run / evidence["path"])
    if outcome.vmcore is not None and outcome.vmcore.path:
        value["vmcore"]["path"] = str(run / outcome.vmcore.path)
    if outcome.kernel is not None:
        value["kernel"]["matches"] = outcome.kernel.matches
    return {"schema": schema, **value, "exit_code": exit_code, "run": str(run), **more}


def failure_json(schema: str, error: HarnessError, run: Path) -> dict[str, Any]:
    """The object for a run that an error of the host ended."""
    return {
        "schema": schema,
        "verdict": error.verdict,
        "summary": error.message,
        "next": error.hint,
        "exit_code": error.exit_code,
        "run": str(run),
    }


def conclude(record: Run, value: dict[str, Any], *, page: bool = False) -> None:
    """Judge the run with the object `value`, and write its page unless it passed; `page` writes it in any case."""
    record.judge(value)
    if page or value["verdict"] not in (None, Verdict.PASS):
        # jinja2 takes 60 ms to import: nothing for a run that went well.
        from kernloop.present import html

        # The verdict stands, whatever becomes of the page: `runs show --html` makes it again.
        with contextlib.suppress(OSError):
            html.write(record.path)
