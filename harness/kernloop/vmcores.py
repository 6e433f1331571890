# SPDX-License-Identifier: Apache-2.0
"""The vmcores of runs: where they lie, and what goes when they are too many."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from kernloop.host.paths import runs_dir
from kernloop.runs import is_live, listing

__all__ = ["MOST", "NAME", "finished", "make_room", "newest", "of_run", "remove"]

# What --dump leaves; `vm dump` adds the time of day.
NAME = "vmcore"
# Bytes that dumps of --dump may take together before a new one: some hundred of a small guest.
MOST = 4 << 30


def of_run(run: Path) -> list[Path]:
    """The vmcores in a run directory, the newest last; `verify --time real` has a folder for each repetition."""
    found = [path for pattern in ("vmcore*", "run-*/vmcore*") for path in run.glob(pattern) if path.is_file()]
    return sorted(found, key=_changed)


def newest(run: Path) -> Path | None:
    """The last one that was taken in a run."""
    return next(reversed(of_run(run)), None)


def finished(but: Collection[str] = ()) -> dict[str, int]:
    """The finished runs that have any, by id, with the bytes of all; those of `but` are left out."""
    found = {run.id: _size(run.path) for run in listing() if not run.live and run.id not in but}
    return {id: size for id, size in found.items() if size}


def remove(ids: Iterable[str]) -> None:
    """Remove all vmcores of runs; the runs stay."""
    for run in ids:
        for path in of_run(runs_dir() / run):
            path.unlink(missing_ok=True)


def make_room(most: int = MOST) -> None:
    """Remove the oldest ones that --dump has left, until they take no more than `most` bytes; the runs stay.

    Nobody who lets an agent work for weeks should have to think of it. What `vm dump` wrote stays.
    """
    kept = 0
    for path in sorted(_left(), key=_changed, reverse=True):
        with contextlib.suppress(OSError):
            kept += path.stat().st_size
            if kept > most:
                path.unlink()


def _left() -> Iterator[Path]:
    folder = runs_dir()
    for pattern in (f"*/{NAME}", f"*/run-*/{NAME}"):
        for path in folder.glob(pattern):
            if not is_live(folder / path.relative_to(folder).parts[0]):
                yield path


def _size(run: Path) -> int:
    with contextlib.suppress(OSError):
        return sum(path.stat().st_size for path in of_run(run))
    return 0


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
