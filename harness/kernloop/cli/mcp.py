# SPDX-License-Identifier: Apache-2.0
"""`kernloop mcp`."""

from __future__ import annotations

from importlib import import_module
from typing import Annotated

import typer

from kernloop.cli.output import fail
from kernloop.errors import UsageError
from kernloop_mcp import SERVERS


def mcp(
    server: Annotated[
        str,
        typer.Argument(
            help="vm: kernels, runs, VMs that live on. code: build, config, patch, tests, bisect. debug: crash reports."
        ),
    ],
) -> None:
    """Serve an agent by MCP, over stdio; skills install sets it up."""
    if server not in SERVERS:
        raise fail(UsageError(f"there is no server {server!r}", hint=f"kernloop mcp {SERVERS[0]}"), as_json=False)
    import_module(f"kernloop_mcp.{server}").server().run()
