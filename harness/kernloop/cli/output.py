# SPDX-License-Identifier: Apache-2.0
"""What all verbs share at the terminal: one JSON object or human lines on stdout, progress and errors on stderr."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from kernloop.errors import HarnessError
from kernloop.host.progress import heard_by

if TYPE_CHECKING:
    from rich.console import Console

    from kernloop.host.progress import Listener
    from kernloop.runs import Run

__all__ = ["JsonFlag", "Lines", "err", "escape", "fail", "mark", "out", "print_json", "progress", "relay"]

JsonFlag = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, nothing else there.")]


class Lines:
    """Lines with rich's markup for stdout or stderr. rich is imported with the first: many calls print none."""

    def __init__(self, *, stderr: bool) -> None:
        self._stderr = stderr

    def print(self, *what: object) -> None:
        self.console.print(*what)

    @cached_property
    def console(self) -> Console:
        from rich.console import Console

        width = None if self._stderr or sys.stdout.isatty() else 200
        # With emoji a place such as fair.c:100: would lose its number.
        return Console(stderr=self._stderr, highlight=False, emoji=False, soft_wrap=True, width=width)


out = Lines(stderr=False)
err = Lines(stderr=True)


def escape(text: str) -> str:
    """`text` with nothing in it that `print` would take for markup."""
    from rich.markup import escape

    return escape(text)


def relay(stream: BinaryIO, *, quiet: bool) -> Callable[[bytes], None]:
    """Writes what a command in a guest said to `stream` at once; when `quiet` it is in the run's folder only."""

    def write(data: bytes) -> None:
        if not quiet:
            stream.write(data)
            stream.flush()

    return write


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
def progress(quiet: bool = False, record: Run | None = None) -> Iterator[Listener]:
    """What is being done, on stderr: one line with the time it has taken on a terminal, plain lines elsewhere.

    `quiet` leaves room for a guest's own output: only the library's slow work (kernloop.host.progress) is told then.
    Others than who called find it in the run directory of `record`.
    """
    if sys.stderr.isatty() and not quiet:
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
        )
        with Progress(*columns, console=err.console, transient=True) as bar:
            task = bar.add_task("", visible=False, left="")

            def show(text: str, done: float | None = None, whole: float | None = None) -> None:
                if done is None or whole is None:
                    bar.reset(task, total=None, description=escape(text), visible=True, left="")
                else:
                    left = f"about {_minutes(whole - done)} left"
                    bar.update(task, completed=done, total=whole, description=escape(text[:60]), left=left)

            kept = _kept(show, record)
            with heard_by(kept):
                yield kept
    else:
        told = 0.0

        # Where nobody watches, a line each half minute does.
        def line(text: str, done: float | None = None, whole: float | None = None) -> None:
            nonlocal told
            if done is not None and whole is not None:
                if done < told + 30:
                    return
                told = done
            else:
                told = 0.0
            sys.stderr.write(f"kernloop: {_with_share(text, done, whole)}\n")
            sys.stderr.flush()

        kept = _kept(line, record)
        with heard_by(kept):
            yield (lambda *_: None) if quiet else kept


# `listener`, and the run directory once a second.
def _kept(listener: Listener, record: Run | None) -> Listener:
    if record is None:
        return listener
    written = 0.0

    def both(text: str, done: float | None = None, whole: float | None = None) -> None:
        nonlocal written
        listener(text, done, whole)
        if done is None or time.monotonic() > written + 1:
            written = time.monotonic()
            record.doing(_with_share(text, done, whole))

    return both


def _with_share(text: str, done: float | None, whole: float | None) -> str:
    if done is None or whole is None:
        return text
    return f"{text} ({100 * done / whole:.0f} %, about {_minutes(whole - done)} left)"


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"
