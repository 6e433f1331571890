# SPDX-License-Identifier: Apache-2.0
"""`kernloop debug page`: the rest of what a debugger wrote."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from kernloop.cli.output import JsonFlag, err, escape, print_json
from kernloop.cli.vm_shared import told
from kernloop.debug.tracers import pages

__all__ = ["page", "piece"]

_SCHEMA = "kernloop.debug-page/1"


def page(
    file: Annotated[Path, typer.Argument(help="The file that debug crash, ftrace or bpftrace named.")],
    since: Annotated[int, typer.Option(min=0, help="From this byte on.")] = 0,
    limit: Annotated[int, typer.Option(min=1, help="So many bytes at most, in whole lines.")] = pages.LIMIT,
    grep: Annotated[str, typer.Option(metavar="RE", help="Lines that fit only.")] = "",
    as_json: JsonFlag = False,
) -> None:
    """The rest of a long answer, from a cursor on.

    0, also at its end; 2: bad input.
    """
    with told(as_json, _SCHEMA):
        found = pages.read(file, since=since, limit=limit, grep=grep)
    if as_json:
        print_json({"schema": _SCHEMA, **piece(found, file)})
        return
    sys.stdout.write(found.text)
    if found.more:
        err.print(f"  [bold]next:[/] kernloop debug page {escape(str(file))} --since {found.cursor}")


def piece(found: pages.Page, file: Path) -> dict[str, Any]:
    return {"text": found.text, "path": str(file), "bytes": found.size, "cursor": found.cursor, "more": found.more}
