# SPDX-License-Identifier: Apache-2.0
"""`kernloop sched`: what is done with schedulers beside `verify`."""

from __future__ import annotations

import typer

from kernloop.cli.sched_check import check
from kernloop.cli.sched_get import get
from kernloop.cli.sched_show import show
from kernloop.cli.sched_trace import trace

app = typer.Typer(help="sched_ext schedulers: static checks, and what one does in a VM.", no_args_is_help=True)
app.command()(check)
app.command()(get)
app.command()(show)
app.command()(trace)
