# SPDX-License-Identifier: Apache-2.0
"""The cells of a matrix run: each a `kernloop verify` of its own, so many at a time, with its own run directory.

A cell that dies takes nothing with it; interrupted, all end as by Ctrl-C, and what is done is kept.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kernloop.errors import UsageError
from kernloop.host import owned, process
from kernloop.sched.matrix import Cell, Result, decisive
from kernloop.verdict import Verdict

__all__ = ["Ended", "execute"]

# A hung guest is still asked by SysRq and NMI; one that is interrupted is not.
_END_SECONDS = 60.0


@dataclass(frozen=True)
class Ended:
    """All cells in their order. `why` says why some were not run to their end, "" when all were."""

    results: tuple[Result, ...]
    why: str = ""


class _Over(Exception):
    """The time of all cells together has passed."""


@dataclass
class _Under:
    """A cell under way."""

    cell: Cell
    at: int
    process: subprocess.Popen[bytes]
    watch: int
    began: float


def execute(
    todo: Sequence[Cell],
    words: Callable[[Cell], Sequence[str]],
    folder: Path,
    *,
    jobs: int,
    seconds: float | None,
    still: Callable[[], str],
    on_result: Callable[[Result], None],
) -> Ended:
    """Run `kernloop WORDS` for each cell, `jobs` at a time, all of them within `seconds`. Their output is in `folder`.

    `still` says why no further cell may be started, "" while they may. Raises UsageError when kernloop refuses a cell.
    """
    folder.mkdir()
    deadline = None if seconds is None else time.monotonic() + seconds
    waiting = list(enumerate(todo))
    under: dict[int, _Under] = {}
    done: dict[int, Result] = {}
    why = ""
    with selectors.DefaultSelector() as ends, contextlib.ExitStack() as owning:

        def finish(one: _Under) -> None:
            ends.unregister(one.watch)
            os.close(one.watch)
            one.process.wait()
            owned.forget(one.process.pid)
            del under[one.watch]
            done[one.at] = _read(one, folder)
            on_result(done[one.at])

        owning.callback(_end, under)
        try:
            while under or (waiting and not why):
                why = why or (still() if waiting else "")
                while waiting and len(under) < jobs and not why:
                    at, cell = waiting.pop(0)
                    one = _start(cell, at, words(cell), folder)
                    under[one.watch] = one
                    ends.register(one.watch, selectors.EVENT_READ)
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    raise _Over
                for key, _ in ends.select(left):
                    finish(under[int(key.fd)])
        except (KeyboardInterrupt, _Over) as error:
            why = "interrupted" if isinstance(error, KeyboardInterrupt) else f"not done after {seconds:g} s"
            for one in under.values():
                with contextlib.suppress(ProcessLookupError):
                    one.process.send_signal(signal.SIGINT)
            last = time.monotonic() + _END_SECONDS
            while under and time.monotonic() < last:
                for key, _ in ends.select(last - time.monotonic()):
                    finish(under[int(key.fd)])
    results = [done.get(at) or _not_run(cell, why) for at, cell in enumerate(todo)]
    return Ended(tuple(results), why)


def _end(under: dict[int, _Under]) -> None:
    for one in under.values():
        process.end_group(one.process)
        owned.forget(one.process.pid)
        os.close(one.watch)


def _start(cell: Cell, at: int, words: Sequence[str], folder: Path) -> _Under:
    with (folder / f"{at:02}.json").open("wb") as out, (folder / f"{at:02}.txt").open("wb") as err:
        argv = [sys.executable, "-m", "kernloop", *words]
        started = process.spawn(argv, stdin=subprocess.DEVNULL, stdout=out.fileno(), stderr=err.fileno())
    owned.own_group(started.pid)
    return _Under(cell, at, started, os.pidfd_open(started.pid), time.monotonic())


def _read(one: _Under, folder: Path) -> Result:
    value: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        value = json.loads((folder / f"{one.at:02}.json").read_text())
    seconds = round(time.monotonic() - one.began, 3)
    if not value:
        text = (folder / f"{one.at:02}.txt").read_text(errors="replace").strip()
        said = text.splitlines()[-1] if text else f"exit {one.process.returncode}"
        summary, step = f"kernloop ended without an answer: {said}", f"see {folder}/{one.at:02}.txt"
        return Result(one.cell, Verdict.INFRA, summary, step, "", None, seconds, None)
    if not value.get("verdict"):
        raise UsageError(f"{one.cell.name}: {value.get('summary')}", hint=str(value.get("next", "")))
    return Result(
        one.cell,
        Verdict(value["verdict"]),
        str(value.get("summary", "")),
        str(value.get("next", "")),
        str((value.get("kernel") or {}).get("release", "")),
        decisive(value),
        seconds,
        Path(value["run"]) if value.get("run") else None,
    )


def _not_run(cell: Cell, why: str) -> Result:
    return Result(cell, Verdict.UNKNOWN, f"not run: {why}", "run it again", "", None, 0.0, None)
