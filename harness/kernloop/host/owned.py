# SPDX-License-Identifier: Apache-2.0
"""What this process owns and must not outlive it, told to the keeper before it can leak."""

from __future__ import annotations

import atexit
import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from kernloop.host import keeper

__all__ = ["folder", "forget", "group", "own_group", "run"]

# What ends kernloop must not end its keeper.
_UNMOVED = ("env", "--ignore-signal=INT,TERM,HUP,QUIT")

_keeper: subprocess.Popen[str] | None = None


@contextlib.contextmanager
def folder(path: Path) -> Iterator[Path]:
    """`path`, a file or folder that is removed if this process dies inside the block."""
    key = f"folder {path}"
    _tell("+", key)
    try:
        yield path
    finally:
        _tell("-", key)


@contextlib.contextmanager
def run(path: Path, schema: str) -> Iterator[None]:
    """A run directory whose verdict says so if this process dies inside the block."""
    key = f"run {path}"
    _tell("+", key, schema)
    try:
        yield
    finally:
        _tell("-", key)


def own_group(leader: int) -> None:
    """Own the process group of `leader`, a child in a session of its own."""
    _tell("+", f"group {leader}", str(keeper.start_time(leader) or 0))


def forget(leader: int) -> None:
    """The group of `leader` has ended."""
    _tell("-", f"group {leader}")


@contextlib.contextmanager
def group(leader: int) -> Iterator[None]:
    own_group(leader)
    try:
        yield
    finally:
        forget(leader)


def _tell(sign: str, key: str, value: str = "") -> None:
    global _keeper
    if _keeper is None:
        _keeper = subprocess.Popen(
            [*_UNMOVED, sys.executable, "-I", "-S", keeper.__file__, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            text=True,
        )
        atexit.register(_dismiss, _keeper)
    assert _keeper.stdin is not None
    # A keeper that somebody killed cannot be told; what it would have cleaned is then found by the next gc.
    with contextlib.suppress(BrokenPipeError):
        _keeper.stdin.write(f"{sign} {key}\t{value}\n")
        _keeper.stdin.flush()


# Everything ended as it should: the keeper goes without touching anything.
def _dismiss(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write("bye\n")
        process.stdin.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=2)
