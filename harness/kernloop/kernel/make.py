# SPDX-License-Identifier: Apache-2.0
"""make in a build folder: everything it says goes to a log, what it is at is told, and it ends with us.

A build that is killed leaves half-written objects that look newer than their sources. `repair` finds them: make writes
.X.cmd behind X, so an object newer than its .X.cmd, or with the .X.d of a compiler under way, is not whole
(scripts/Kbuild.include, cmd_and_fixdep).
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kernloop.errors import HarnessError
from kernloop.host import owned, process, progress

__all__ = ["Made", "make", "repair", "under_way", "unfinished"]

_STEP = re.compile(r"^  (?P<what>[A-Z][A-Z0-9_]*) +(?:\[[A-Z]\] +)?(?P<target>\S+)")
_MARK = "under-way"
_TIMES = "times.json"
# The last act, which is not divided: all objects linked, three times over, and their types.
_LINKING = frozenset({"vmlinux.o", ".vmlinux.export.o", "vmlinux.unstripped", "vmlinux"})
# Seconds of it, and steps a symbol that is on, until this folder has figures of its own.
_TAIL_SECONDS = 12.0
_STEPS_A_SYMBOL = 2.0


@dataclass(frozen=True)
class Made:
    """How make ended. `steps` are the commands it ran (`CC kernel/fork.o`); `seconds` it took."""

    status: int
    steps: tuple[str, ...]
    seconds: float
    log: Path


def make(
    folder: Path,
    words: Sequence[str | Path],
    targets: Sequence[str],
    *,
    seconds: float,
    what: str,
    log: Path,
    expected: int | None = None,
) -> Made:
    """Run `words` (make with its variables) for `targets`; stdout and stderr go to `log`, appended.

    `expected` is the number of steps, where it is known. Raises HarnessError when make is not done after `seconds`.
    """
    notes = folder / "kernloop"
    notes.mkdir(parents=True, exist_ok=True)
    (notes / _MARK).touch()
    progress.say(what)
    begun = time.monotonic()
    argv = [str(word) for word in (*words, *targets)]
    child = process.spawn(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    late = threading.Event()

    def give_up() -> None:
        late.set()
        process.end_group(child, grace=5)

    timer = threading.Timer(seconds, give_up)
    told = _Told(folder, what, expected)
    with owned.group(child.pid), log.open("ab", buffering=0) as file:
        timer.start()
        try:
            assert child.stdout is not None
            for line in child.stdout:
                file.write(line)
                told.line(line.decode(errors="replace"))
            status = child.wait()
        except BaseException:
            process.end_group(child, grace=5)
            raise
        finally:
            timer.cancel()
    if late.is_set():
        raise HarnessError(
            f"{what}: not done after {seconds:g} s", hint="run it again: it goes on where it was", evidence=log
        )
    if status == 0:
        told.remember()
        (notes / _MARK).unlink(missing_ok=True)
    elif status > 0:
        # make itself was not killed: it has removed what was half done (.DELETE_ON_ERROR).
        (notes / _MARK).unlink(missing_ok=True)
    return Made(status, tuple(told.steps), time.monotonic() - begun, log)


@contextlib.contextmanager
def unfinished(folder: Path) -> Iterator[None]:
    """Whoever writes objects without make does it in this: what ends it in the middle is a make that was killed."""
    mark = folder / "kernloop" / _MARK
    mark.touch()
    yield
    mark.unlink()


def under_way(folder: Path) -> bool:
    """Whether the last make in `folder` was killed; only to be asked by who holds the folder's lock."""
    return (folder / "kernloop" / _MARK).exists()


def repair(folder: Path) -> list[Path]:
    """Remove what a killed make may have left half done; returns what was removed."""
    doomed = []
    for note in folder.rglob(".*.cmd"):
        target = note.with_name(note.name[1:].removesuffix(".cmd"))
        unfinished = note.with_name(f".{target.name}.d")
        if target.is_file() and (unfinished.exists() or target.stat().st_mtime > note.stat().st_mtime):
            doomed += [target, *([unfinished] if unfinished.exists() else [])]
    for path in doomed:
        path.unlink()
    return doomed


# What make is at, and how long it will still take: by the rate so far and, for the last act, by what it took before.
class _Told:
    def __init__(self, folder: Path, what: str, expected: int | None) -> None:
        self.steps: list[str] = []
        self._what = what
        self._file = folder / "kernloop" / _TIMES
        known = _read(self._file)
        self._tail = float(known.get("tail", _TAIL_SECONDS))
        self._total = max(1, expected if expected is not None else int(known.get("steps", 0)) or _guess(folder))
        self._begun = time.monotonic()
        self._linking: float | None = None
        self._said = 0.0

    def line(self, text: str) -> None:
        found = _STEP.match(text)
        if found is None:
            return
        self.steps.append(f"{found['what']} {found['target']}")
        now = time.monotonic()
        if self._linking is None and found["target"] in _LINKING:
            self._linking = now
        if now - self._said > 0.2:
            self._said = now
            progress.at(f"{self._what}: {found['target']}", *self._share(now))

    # Done and whole, in seconds.
    def _share(self, now: float) -> tuple[float, float]:
        spent = now - self._begun
        if self._linking is not None:
            return spent, max(spent, self._linking - self._begun + self._tail)
        done = len(self.steps)
        rest = spent / done * max(self._total - done, 0) if done else 0.0
        return spent, spent + rest + self._tail

    def remember(self) -> None:
        now = time.monotonic()
        known = _read(self._file)
        if self._linking is not None:
            known["tail"] = now - self._linking
        if len(self.steps) > int(known.get("steps", 0)):
            known["steps"] = len(self.steps)
        self._file.write_text(json.dumps(known))


def _guess(folder: Path) -> int:
    try:
        config = (folder / ".config").read_text()
    except OSError:
        return 1000
    return int(len(re.findall(r"=[ym]$", config, re.M)) * _STEPS_A_SYMBOL)


def _read(path: Path) -> dict[str, float]:
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
