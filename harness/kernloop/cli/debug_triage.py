# SPDX-License-Identifier: Apache-2.0
"""`kernloop debug triage`."""

from __future__ import annotations

from typing import Annotated

import typer

from kernloop.cli.output import JsonFlag, escape, fail, out, print_json
from kernloop.errors import HarnessError

__all__ = ["triage"]

_SCHEMA = "kernloop.triage/1"


def triage(
    subject: Annotated[
        str, typer.Argument(metavar="RUN|VM|VMCORE", help="A run's id, or: last; a VM; the file of a dump.")
    ] = "last",
    as_json: JsonFlag = False,
) -> None:
    """A crash or hang in one go: report, memory, who is to blame.

    Stacks of all CPUs, the guilty task, locks held, sched_ext, the log; the weightiest first, in some 1,500 tokens;
    --json has all of it.

    The memory is the run's vmcore (run, verify and vm start leave one with --dump), or its VM if that lives; without
    either it tells what the console says.

    Exit status: 0, 2 no such run, VM or dump, 125 kernloop failed.
    """
    from kernloop.debug import triage as library

    try:
        found = library.triage(library.subject_of(subject))
    except HarnessError as error:
        raise fail(error, as_json=as_json, schema=_SCHEMA) from None
    if as_json:
        from kernloop.present import plain

        value = plain(found)
        name = {key: value["subject"][key] for key in ("run", "core")}
        name["vm"] = found.subject.vm.name if found.subject.vm else None
        print_json({"schema": _SCHEMA, **value, "subject": {"name": found.subject.name, **name}})
        return
    from kernloop.debug.triage_text import lines

    for line in lines(found):
        out.print(escape(line))
