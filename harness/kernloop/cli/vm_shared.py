# SPDX-License-Identifier: Apache-2.0
"""What the files of `kernloop vm` share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from kernloop.cli.output import err, escape, fail, print_json
from kernloop.errors import HarnessError

__all__ = ["NameArgument", "answer_at", "done", "told", "writer"]

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


# Unbuffered: what a guest says is seen when it says it.
def writer(fd: int) -> Callable[[bytes], None]:
    def write(data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(fd, rest) :]

    return write
