# SPDX-License-Identifier: Apache-2.0
"""`kernloop skills install`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kernloop import skills
from kernloop.cli.output import JsonFlag, escape, fail, out, print_json
from kernloop.errors import HarnessError

app = typer.Typer(help="The skills and MCP servers for coding agents.", no_args_is_help=True)
_SCHEMA = "kernloop.skills-install/1"


@app.callback()
def _group() -> None:
    pass


@app.command()
def install(
    agent: Annotated[str, typer.Option(help="claude, codex or all.")] = "all",
    project: Annotated[Path | None, typer.Option(help="For this project only; for all of yours if not given.")] = None,
    uninstall: Annotated[bool, typer.Option("--uninstall", help="Take them out again.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Give the skills and the MCP servers to coding agents.

    What is yours there stays as it is. Exits 2, and touches nothing, when a file there does not parse.
    """
    act = skills.uninstall if uninstall else skills.install
    try:
        places = [skills.place(name, project) for name in (skills.AGENTS if agent == "all" else (agent,))]
        changes = act(places)
    except HarnessError as error:
        raise fail(error, as_json=as_json, schema=_SCHEMA) from None
    if as_json:
        rows = [{"path": str(change.path), "what": change.what} for change in changes]
        print_json({"schema": _SCHEMA, "changes": rows})
        return
    for change in changes:
        if change.what != "unchanged":
            out.print(f"{change.what:9} {escape(str(change.path))}")
    if not any(change.what != "unchanged" for change in changes):
        out.print("nothing to do")
    elif not uninstall:
        out.print("an agent that runs must be started anew to see them")
