# SPDX-License-Identifier: Apache-2.0
"""How fast crashes are found: MB/s of console, MB/s of reports, how soon a command or a live VM tells.

Rates are of CPU time on one core. Each measure is taken once a round, so what else the machine does meets all alike.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from kernloop.bench.against import Other, Unavailable, build
from kernloop.bench.console import console, recordings
from kernloop.errors import HarnessError, UsageError
from kernloop.host import cache, owned, process
from kernloop.host.figures import Figures, chosen, timed
from kernloop.host.paths import cache_dir
from kernloop.kernel import refs
from kernloop.report.scan import ConsoleScanner, scan
from kernloop.vm.latency import live_latency

__all__ = ["MEASURES", "USUAL", "Goal", "Rate", "measure", "percentile"]

MB = 1_000_000
# What a watcher reads at once.
_PIECE = 1 << 16
# So many bytes of reports: each a log, some of them more than once; and all in one log.
_CRASHES, _MANY = 2 * MB, 4 * MB
_SECONDS = 600.0


@dataclass(frozen=True)
class Goal:
    """`least` MB/s, or `most` seconds."""

    what: str
    least: float | None = None
    most: float | None = None


MEASURES = {
    "console": Goal("console text with a crash each MB", least=140),
    "clean": Goal("console text without a crash"),
    "crashes": Goal("whole reports, each log by itself", least=2.8),
    "many": Goal("reports one after the other in one log"),
    "start": Goal("kernloop report on a small log, as a process", most=0.5),
    "live": Goal("last byte of a panic to its report, in running VMs", most=0.1),
}
USUAL = ("console", "clean", "crashes", "many", "start")


@dataclass
class Rate:
    """`size` bytes a round and the crashes `found` in them; `other` is syzkaller's, with `other_found`."""

    size: int = 0
    found: int = 0
    figures: Figures = field(default_factory=Figures)
    other: Figures = field(default_factory=Figures)
    other_found: int = 0

    @property
    def per_second(self) -> float | None:
        """MB/s of CPU time, the median round."""
        return self.size / MB / self.figures.median_cpu if self.size and self.figures.cpu else None

    @property
    def other_per_second(self) -> float | None:
        return self.size / MB / self.other.median_cpu if self.size and self.other.cpu else None


def percentile(values: Sequence[float], percent: int) -> float:
    """The value that `percent` of them do not exceed."""
    return sorted(values)[max(0, -(-len(values) * percent // 100) - 1)]


def measure(
    names: Sequence[str],
    rounds: int,
    *,
    megabytes: int = 200,
    logs: Path | None = None,
    against: str = "",
    panics: int = 20,
    kernel: str = refs.DEFAULT,
    say: Callable[[str], None],
) -> dict[str, Rate]:
    """The rates of `names`; `logs` is a folder of crash logs instead of our own for `crashes`.

    Raises UsageError for what there is not, HarnessError when kernloop finds other crashes than there are.
    """
    chosen(names, MEASURES)
    found = {name: Rate() for name in names}
    other, why = _other(against, say)
    with _folder(3 * megabytes) as folder:
        work: dict[str, tuple[list[Path], int]] = {}
        for name in names:
            if name in ("console", "clean", "crashes", "many"):
                say(f"not counted: the text for {name}")
                work[name] = _text(name, folder, megabytes, logs)
        for number in range(1, rounds + 1):
            for name, (files, expected) in work.items():
                say(f"{name}, {number} of {rounds}")
                _round(name, found[name], files, expected, other)
            if "start" in found:
                say(f"start, {number} of {rounds}")
                found["start"].figures.add(timed(lambda: _process(folder)))
    if "live" in found:
        found["live"].figures.wall = list(live_latency(kernel, panics, say=say))
    for rate in found.values():
        rate.other.why = why
    return found


def _other(against: str, say: Callable[[str], None]) -> tuple[Other | None, str]:
    if not against:
        return None, ""
    say("syzkaller's parser, fetched and built once")
    try:
        return build(against), ""
    except Unavailable as reason:
        return None, str(reason)


@contextmanager
def _folder(mebibytes: int) -> Iterator[Path]:
    parent = cache_dir() / "bench"
    cache.need_space(parent, mebibytes, "the texts to measure with")
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="report-", dir=parent) as name, owned.folder(Path(name)):
        yield Path(name)


# The logs of a measure, and how many crashes are in them.
def _text(name: str, folder: Path, megabytes: int, logs: Path | None) -> tuple[list[Path], int]:
    if name == "crashes":
        files = _crash_logs(folder, logs)
        return files, sum(1 for file in files for _ in scan(file.read_bytes()))
    size, every = {"console": (megabytes * MB, MB), "clean": (megabytes * MB, None), "many": (_MANY, 1)}[name]
    file, crashes = folder / f"{name}.log", 0
    with file.open("wb") as out:
        for text, crash in console(size, every=every):
            out.write(text)
            crashes += crash
    return [file], crashes


def _crash_logs(folder: Path, logs: Path | None) -> list[Path]:
    if logs is not None:
        files = sorted(file for file in logs.expanduser().iterdir() if file.is_file()) if logs.is_dir() else []
        if not files:
            raise UsageError(f"no logs in {logs}", hint="--logs takes a folder with a crash log a file")
        return files
    known = recordings().crashes
    files = []
    while sum(len(known[number % len(known)]) for number in range(len(files))) < _CRASHES:
        file = folder / f"crash-{len(files)}.log"
        file.write_bytes(known[len(files) % len(known)])
        files.append(file)
    return files


def _round(name: str, rate: Rate, files: list[Path], expected: int, other: Other | None) -> None:
    rate.size = sum(file.stat().st_size for file in files)
    found = 0

    def run() -> None:
        nonlocal found
        found = sum(_crashes(file) for file in files)

    rate.figures.add(timed(run))
    rate.found = found
    if found != expected:
        raise HarnessError(f"{name}: {found} crashes were found of {expected}", hint="report this")
    if other:
        wall, cpu, rate.other_found = other.run("all" if name in ("crashes", "many") else "lines", files, _SECONDS)
        rate.other.add((wall, cpu))


def _crashes(file: Path) -> int:
    scanner, found = ConsoleScanner(), set[int]()
    with file.open("rb") as log:
        while piece := log.read(_PIECE):
            found |= {crash.start for crash in scanner.feed(piece)}
    return len(found | {crash.start for crash in scanner.finish()})


def _process(folder: Path) -> None:
    log = folder / "start.log"
    log.write_bytes(recordings().crashes[0])
    words: list[str | Path] = [sys.executable, "-m", "kernloop", "report", log]
    done = process.run(words, seconds=_SECONDS, what="kernloop report", check=False)
    if done.status != 1:
        raise HarnessError(f"kernloop report: {done.stderr.strip()[-300:]}", hint="report this")
