# SPDX-License-Identifier: Apache-2.0
"""Folders made once and kept: whole or not there, whoever else makes the same at the same time, killed or not."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from kernloop.errors import HarnessError
from kernloop.host import owned, progress
from kernloop.host.paths import cache_dir

__all__ = ["ensure", "exclusive", "need_space"]


def ensure(path: Path, make: Callable[[Path], None], *, what: str, seconds: float = 1800) -> Path:
    """`path`, made by `make(staging)` unless it is there already.

    `make` fills a staging folder beside `path`, which then gets its name in one step: a reader sees all or nothing. A
    second process waits for the first, `seconds` at most, and takes its result. Raises HarnessError when the disk is
    full or the wait is over.
    """
    if path.exists():
        return path
    with _disk_errors(path, what):
        path.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(f"{path.parent.name}-{path.name}", what=what, seconds=seconds):
            if path.exists():
                return path
            # We hold the lock, so whoever left one of these behind was killed, and nobody works in it. Its keeper may
            # still be about to remove it: hence a name of our own.
            for left in path.parent.iterdir():
                if re.fullmatch(rf"\.{re.escape(path.name)}\.\d+\.staging", left.name):
                    shutil.rmtree(left, ignore_errors=True)
            progress.say(what)
            staging = path.parent / f".{path.name}.{os.getpid()}.staging"
            with owned.folder(staging):
                try:
                    staging.mkdir()
                    make(staging)
                    staging.rename(path)
                except BaseException:
                    shutil.rmtree(staging, ignore_errors=True)
                    raise
    return path


@contextlib.contextmanager
def exclusive(name: str, *, what: str, seconds: float) -> Iterator[None]:
    """Hold the lock `name` among all kernloop processes of this user; the kernel drops it when we die."""
    file = cache_dir() / "locks" / name.replace("/", "_")
    with _disk_errors(file, what):
        file.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _lock(fd, what, time.monotonic() + seconds)
        yield
    finally:
        os.close(fd)


def need_space(folder: Path, mib: int, what: str) -> None:
    """Raise HarnessError unless the file system of `folder` has `mib` MiB to spare."""
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free >> 20
    if free < mib:
        raise HarnessError(
            f"the disk is full: {what} will take about {mib} MiB, {folder} has {free} MiB",
            hint="free some space, or set XDG_CACHE_HOME to a larger file system",
        )


# flock has no time-out of its own; a moment between tries costs nothing beside the work that is waited for.
def _lock(fd: int, what: str, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise HarnessError(
                    f"{what}: another kernloop has been at it for too long", hint="wait for it, or end it"
                ) from None
            time.sleep(0.05)


@contextlib.contextmanager
def _disk_errors(path: Path, what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise HarnessError(
                f"{what}: the disk is full ({path.parent})",
                hint="free some space, or set XDG_CACHE_HOME to a larger file system",
            ) from None
        raise HarnessError(
            f"{what}: cannot write {error.filename or path.parent}: {error.strerror}",
            hint="set XDG_CACHE_HOME to a writable folder",
        ) from None
