# SPDX-License-Identifier: Apache-2.0
"""`kernloop vm ssh`: ssh, scp and rsync into a VM, over no network."""

from __future__ import annotations

from typing import Annotated

import typer

from kernloop.cli.output import JsonFlag, print_json
from kernloop.cli.vm_shared import NameArgument, told
from kernloop.host import process
from kernloop.vm import client

__all__ = ["ssh"]

_SCHEMA = "kernloop.vm-ssh/1"


def ssh(
    name: NameArgument,
    command: Annotated[list[str] | None, typer.Argument(help="A command, after --; a shell without.")] = None,
    config: Annotated[
        bool, typer.Option("--config", help="Print the path for ssh -F, scp -F and rsync -e instead.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """ssh into a VM; exits as ssh does."""
    with told(as_json, _SCHEMA):
        path = client.find(name).ssh_config()
        if as_json:
            print_json({"schema": _SCHEMA, "config": str(path), "host": name})
        elif config:
            typer.echo(path)
        else:
            process.become(["ssh", "-F", str(path), name, *(command or ())])
