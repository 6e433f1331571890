# SPDX-License-Identifier: Apache-2.0
"""`kernloop sched get`."""

from __future__ import annotations

from typing import Annotated

import typer

from kernloop.cli.output import JsonFlag, err, escape, fail, out, print_json, progress
from kernloop.errors import HarnessError

_SCHEMA = "kernloop.sched-get/1"


def get(
    name: Annotated[str, typer.Argument(metavar="NAME[@VERSION]", help="As scx_bpfland, scx_lavd@1.1.4.")],
    timeout: Annotated[float, typer.Option(min=1, help="Seconds; the first takes minutes.")] = 3600.0,
    as_json: JsonFlag = False,
) -> None:
    """Build a released Rust scheduler, for verify by name.

    0: it is there. 2: no such scheduler. 125: kernloop or the machine failed.
    """
    from kernloop.sched import released

    try:
        with progress():
            found = released.get(name, seconds=timeout)
    except HarnessError as error:
        raise fail(error, as_json=as_json, schema=_SCHEMA) from None
    step = f"kernloop verify {found.name}@{found.version}"
    if as_json:
        print_json(
            {
                "schema": _SCHEMA,
                "verdict": "pass",
                "summary": f"{found.name} {found.version} is there",
                "next": step,
                "exit_code": 0,
                "name": found.name,
                "version": found.version,
                "program": str(found.program),
                "object": str(found.object),
            }
        )
        return
    out.print(f"{escape(found.name)} {found.version}")
    out.print(f"  program   {escape(str(found.program))}")
    out.print(f"  object    {escape(str(found.object))}")
    err.print(f"  [bold]next:[/] {escape(step)}")
