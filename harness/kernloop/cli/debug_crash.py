# SPDX-License-Identifier: Apache-2.0
"""`kernloop debug crash`."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kernloop.cli.debug_page import piece
from kernloop.cli.output import JsonFlag, err, escape, fail, out, print_json, progress
from kernloop.errors import HarnessError, UsageError

if TYPE_CHECKING:
    from kernloop.debug.tracers.crash import Answers

__all__ = ["crash"]

_SCHEMA = "kernloop.crash/1"


class By(StrEnum):
    CRASH = "crash"
    DRGN = "drgn"


def crash(
    vmcore: Annotated[Path, typer.Argument(help="A dump, as of kernloop vm dump.")],
    commands: Annotated[list[str], typer.Argument(help="Commands of crash, each one word: 'bt -a' log runq.")],
    vmlinux: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The kernel's debugging information; found by build-id if left out."),
    ] = None,
    fetch: Annotated[bool, typer.Option("--fetch-debug", help="Fetch it for a kernel of Debian's.")] = False,
    by: Annotated[
        By | None, typer.Option("--by", help="This one alone; drgn needs no debugging information but for bt.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Where answers go; beside the dump if left out.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="So many bytes of each answer; the file has all.")] = 3000,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds for all.")] = 600.0,
    as_json: JsonFlag = False,
) -> None:
    """Ask crash about a vmcore.

    The machine's crash, a newer one, or drgn's commands of the same names: the first that reads it, and it is said.
    0: answered, 2: bad input, another build's vmlinux, no debugging information. 125: none reads it.
    """
    from kernloop.debug.tracers import crash as library

    try:
        with progress(quiet=as_json) as say:
            core = library.examine(vmcore)
            try:
                path: Path | None = library.vmlinux_of(core, vmlinux, fetch=fetch)
            except UsageError:
                # drgn has the types of BTF.
                if by is not By.DRGN or vmlinux or fetch:
                    raise
                path = None
            word = by.value if by else ""
            found = library.run(core, path, commands, by=word, out=folder, seconds=timeout, limit=limit, say=say)
    except HarnessError as error:
        raise fail(error, as_json=as_json, schema=_SCHEMA) from None
    if as_json:
        print_json(_json(found))
    else:
        _show(found)


def _json(found: Answers) -> dict[str, Any]:
    more = next((one for one in found.answers if one.page.more), None)
    return {
        "schema": _SCHEMA,
        "by": found.by,
        "why_not_crash": found.why,
        "next": f"kernloop debug page {more.path} --since {more.page.cursor}" if more else "",
        "answers": [{"command": one.command, **piece(one.page, one.path)} for one in found.answers],
        "said": found.said[-500:],
        "vmcore": str(found.core.path),
        "release": found.core.release,
        "build_id": found.core.build_id,
        "vmlinux": str(found.vmlinux or ""),
    }


def _show(found: Answers) -> None:
    if found.why:
        err.print(f"[yellow]{escape(found.why)}[/]; {escape(found.by)} answers")
    for one in found.answers:
        out.print(f"[bold]{escape(found.by)}> {escape(one.command)}[/]")
        sys.stdout.write(one.page.text)
        sys.stdout.flush()
        if one.page.more:
            err.print(f"  [bold]next:[/] kernloop debug page {escape(str(one.path))} --since {one.page.cursor}")
