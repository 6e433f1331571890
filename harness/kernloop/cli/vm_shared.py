# SPDX-License-Identifier: Apache-2.0
"""What the files of `kernloop vm` share."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from kernloop.cli.output import err, escape, fail, print_json
from kernloop.errors import HarnessError

__all__ = ["NameArgument", "answer_at", "done", "interruptible", "told", "writer"]

NameArgument = Annotated[str, typer.Argument(help="The VM, as in kernloop vm list.")]


@contextmanager
def told(as_json: bool, schema: str) -> Iterator[None]:
    try:
        yield
    except HarnessError as error:
        raise fail(error, as_json=as_json, schema=schema) from None


def answer_at(name: str, cursor: int, as_json: bool, schema: str) -> None:
    if as_json:
        print_json({"schema": schema, "cursor": cursor})
    else:
        err.print(f"  [bold]next:[/] kernloop vm console {escape(name)} --since {cursor}")


def done(as_json: bool, schema: str, **facts: object) -> None:
    if as_json:
        print_json({"schema": schema, **facts})


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """Set by the first Ctrl-C, which is to end a recording; the second ends us."""
    stop = threading.Event()

    def asked(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, before)
        stop.set()

    before = signal.signal(signal.SIGINT, asked)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


# Unbuffered: what a guest says is seen when it says it.
def writer(fd: int) -> Callable[[bytes], None]:
    def write(data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(fd, rest) :]

    return write
