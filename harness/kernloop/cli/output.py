# SPDX-License-Identifier: Apache-2.0
"""What all verbs share at the terminal: one JSON object or human lines on stdout, progress and errors on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from kernloop.errors import HarnessError

__all__ = ["JsonFlag", "err", "fail", "mark", "out", "print_json", "progress"]

JsonFlag = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, nothing else there.")]

out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 200)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def print_json(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value, indent=2) + "\n")
    sys.stdout.flush()


def fail(error: HarnessError, *, as_json: bool, schema: str = "kernloop.error/1") -> typer.Exit:
    """Say what went wrong and what to do next; the exit to raise."""
    if as_json:
        print_json(
            {
                "schema": schema,
                "verdict": error.verdict,
                "summary": error.message,
                "next": error.hint,
                "exit_code": error.exit_code,
                "evidence": [str(error.evidence)] if error.evidence else [],
            }
        )
    err.print(f"[bold red]kernloop:[/] {escape(error.message)}")
    if error.hint:
        err.print(f"  [bold]next:[/] {escape(error.hint)}")
    if error.evidence:
        err.print(f"  evidence: {escape(str(error.evidence))}")
    return typer.Exit(error.exit_code)


def mark(verdict: str) -> str:
    colour = {"pass": "green", "unknown": "yellow", "inconclusive": "yellow", "infra": "magenta", "lost": "magenta"}
    return f"[bold {colour.get(verdict, 'red')}]{verdict}[/]"


@contextmanager
def progress(quiet: bool = False) -> Iterator[Callable[[str], None]]:
    """A line on stderr that says what is being done: a spinner on a terminal, plain lines elsewhere."""
    if quiet:
        yield lambda text: None
    elif err.is_terminal:
        with err.status("starting") as status:
            yield lambda text: status.update(escape(text))
    else:
        yield lambda text: err.print(f"kernloop: {escape(text)}")
