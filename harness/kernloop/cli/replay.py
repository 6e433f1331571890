# SPDX-License-Identifier: Apache-2.0
"""`kernloop replay`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from kernloop import runs
from kernloop.cli.output import JsonFlag, err, escape, fail, mark, out, print_json, progress
from kernloop.errors import HarnessError
from kernloop.present import conclude, failure_json, outcome_json, plain
from kernloop.sched import replay as library
from kernloop.sched import retest
from kernloop.verdict import exit_code


def replay(
    run: Annotated[str, typer.Argument(help="A run in virtual time: its id, last, or a run directory.")] = "last",
    test: Annotated[
        str | None, typer.Option(help="Of a verify: only this test, and what it needs before it. 0: the same result.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Repeat a run that was in virtual time, and compare it byte by byte.

    0: the same. 1: it is not. 2: it cannot be repeated. 125: kernloop or the machine failed.
    """
    try:
        path = Path(run) if "/" in run else runs.find(run)
        value = again(path, quiet=False) if test is None else _test(path, test)
    except HarnessError as error:
        raise fail(error, as_json=as_json, schema=library.SCHEMA) from None
    if as_json:
        print_json(value)
    else:
        out.print(f"{mark(value['verdict'])}  {escape(value['summary'])}")
        if test is not None:
            out.print(f"  evidence  {value['run']}")
        else:
            out.print(f"  console   sha256 {value['console_sha256']}")
        if value.get("differs"):
            err.print(f"  was       {escape(value['was'])}")
            err.print(f"  now       {escape(value['now'])}")
    raise typer.Exit(value["exit_code"])


def again(path: Path, *, quiet: bool) -> dict[str, Any]:
    """Repeat the run at `path` as a run of its own; the JSON object of its verdict."""
    with runs.create("replay", library.SCHEMA, {"subject": path.name}) as record, progress(quiet=quiet) as say:
        try:
            done = library.execute(path, record, say=say)
        except HarnessError as error:
            conclude(record, failure_json(library.SCHEMA, error, record.path))
            raise
        code = exit_code(done.outcome.verdict)
        difference = {"differs": done.differs, "line": done.line, "was": done.was, "now": done.now}
        value = outcome_json(
            library.SCHEMA, record.path, done.outcome, exit_code=code, original=str(done.original), **difference
        )
        conclude(record, value)
    return value


def _test(path: Path, name: str) -> dict[str, Any]:
    subject = f"{path.name} {name}"
    with runs.create("replay", library.SCHEMA, {"subject": subject}) as record, progress() as say:
        try:
            done = retest.again(path, name, record, say=say)
        except HarnessError as error:
            conclude(record, failure_json(library.SCHEMA, error, record.path))
            raise
        value = outcome_json(
            library.SCHEMA,
            record.path,
            done.outcome,
            exit_code=exit_code(done.outcome.verdict),
            original=str(done.original),
            test=name,
            alone=done.alone,
            same=done.same,
            was=_told(done.was),
            now=_told(done.now),
        )
        conclude(record, value)
    return value


def _told(told: retest.Told) -> dict[str, Any]:
    value: dict[str, Any] = plain(told)
    if told.result is not None:
        value["result"]["detail"] = dict(told.result.detail)
    return value
