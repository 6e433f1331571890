# SPDX-License-Identifier: Apache-2.0
"""`--junit FILE`: the results for continuous integration, there from the start and true at every moment."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from kernloop.errors import HarnessError, UsageError
from kernloop.present import conclude
from kernloop.runs import Run
from kernloop.verdict import Verdict

__all__ = ["JUnitOption", "Tell", "finish", "results"]

Tell = Callable[[dict[str, Any]], None]

JUnitOption = Annotated[
    Path | None, typer.Option("--junit", metavar="FILE", help="Write the results there as JUnit XML, and report.html.")
]


def finish(record: Run, value: dict[str, Any], tell: Tell | None) -> None:
    """Judge the run with the object `value`; where there is a file of results, it gets it, and a page goes with it."""
    conclude(record, value, page=tell is not None)
    if tell is not None:
        tell(value)


@contextmanager
def results(file: Path | None, verb: str, subject: str) -> Iterator[Tell | None]:
    """What `finish` tells the verdict to; None without a `file`. Until then the file says that there is none yet.

    Raises UsageError when it cannot be written: before anything is fetched or booted.
    """
    if file is None:
        yield None
        return
    # junitparser takes 60 ms to import: only for those who ask.
    from kernloop.present import junit

    told = False

    def tell(value: dict[str, Any]) -> None:
        nonlocal told
        try:
            junit.write(file, verb, subject, value)
        except OSError as error:
            raise HarnessError(
                f"cannot write {file}: {error.strerror}", hint="the verdict: kernloop runs show"
            ) from None
        told = True

    try:
        junit.write(
            file, verb, subject, {"verdict": Verdict.UNKNOWN, "summary": "not judged: kernloop ended before that"}
        )
    except OSError as error:
        raise UsageError(
            f"cannot write {file}: {error.strerror}", hint="name a file in a folder that is there"
        ) from None
    try:
        yield tell
    except HarnessError as error:
        if not told:
            tell({"verdict": error.verdict, "summary": error.message, "next": error.hint})
        raise
