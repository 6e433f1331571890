# SPDX-License-Identifier: Apache-2.0
"""Run directories: all evidence of a run, written as it happens, and the verdict once there is one.

spec.json  what was asked for       argv         QEMU's command line, one word a line
console.log  timeline.jsonl         stdout  stderr  of the guest's command
verdict.json  `unknown` until judged; the keeper completes it when kernloop itself is killed
report.html   all of it on one page (kernloop.present.html): with every verdict but a pass, or when asked for
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import stat
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kernloop import __version__
from kernloop.errors import HarnessError, UsageError
from kernloop.host import owned
from kernloop.host.about import about
from kernloop.host.paths import runs_dir
from kernloop.verdict import Evidence

__all__ = [
    "REPORT",
    "Run",
    "Summary",
    "collect",
    "create",
    "doing",
    "end_owner",
    "find",
    "is_live",
    "kill_owner",
    "listing",
    "owned_by",
    "read_json",
    "reopen",
    "timeline",
    "wait_for_verdict",
    "wait_until_over",
    "write_json",
    "write_text",
]

_VERDICT = "verdict.json"
REPORT = "report.html"
# What may lie in a run directory, what it shows, the most telling first.
_FILES = {
    "console.log": "the guest's serial console",
    "dump.txt": "sched_ext's debug dump",
    "loader.txt": "the loader's own words: libbpf, the verifier's log",
    "compiler.txt": "all that the compiler said",
    "ktap.log": "what the tests said, as KTAP",
    "results.json": "each test's result, with what it said",
    "events.jsonl": "what the test suite said, as it happened",
    "stdout": "the command's standard output",
    "stderr": "the command's standard error",
    "cpus.txt": "where each vCPU hangs: function and stack",
    "registers.txt": "the vCPUs' registers in a hang",
    "vmcore": "the guest's memory: kernloop debug triage",
    "qemu.stderr": "what QEMU said",
    "supervisor.log": "what the VM's supervisor complained of",
    "timeline.jsonl": "what was done when",
    "argv": "QEMU's command line",
}
# Nobody who lets an agent work for weeks should have to think of it: beyond so many the older half goes.
_MANY_RUNS = 2000
# The owner's lock on this file is how others see that a run is still under way.
_LOCK = "owner"
# What a run that is under way is at, for whoever looks.
_DOING = "doing"


class Run:
    """One run directory, owned by this process until it is judged."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._begun = time.monotonic()
        self._timeline = (path / "timeline.jsonl").open("a")

    @property
    def id(self) -> str:
        return self.path.name

    @property
    def elapsed(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self._begun

    def note(self, event: str, **detail: object) -> None:
        """Add a line to the timeline, on disk before this returns to whatever may fail next."""
        entry = {"t": round(self.elapsed, 3), "event": event, **detail}
        self._timeline.write(json.dumps(entry, default=str) + "\n")
        self._timeline.flush()

    def write(self, name: str, value: object) -> None:
        """Write JSON to `name` in one step: a reader sees the old text or the new."""
        write_json(self.path / name, value)

    @contextlib.contextmanager
    def scratch(self, name: str) -> Iterator[Path]:
        """A file in the run directory that is no evidence: it goes with the block, or with this process."""
        path = self.path / name
        with owned.folder(path):
            try:
                yield path
            finally:
                path.unlink(missing_ok=True)

    def evidence(self) -> tuple[Evidence, ...]:
        """The files with something in them."""
        sizes = {name: _stat(self.path / name)[0] for name in _FILES}
        return tuple(Evidence(name, what) for name, what in _FILES.items() if sizes[name])

    def doing(self, what: str) -> None:
        """Say what the run is at; `kernloop.runs.doing` reads it until there is a verdict."""
        write_text(self.path / _DOING, what)

    def judge(self, verdict: dict[str, Any]) -> None:
        self.write(_VERDICT, verdict)
        (self.path / _DOING).unlink(missing_ok=True)
        self.note("verdict", verdict=verdict["verdict"])


@dataclass(frozen=True)
class Summary:
    """A run as `runs list` shows it; `age` in seconds, `size` in bytes."""

    id: str
    path: Path
    verb: str
    subject: str
    verdict: str
    summary: str
    age: float
    size: int
    live: bool


@contextlib.contextmanager
def create(verb: str, schema: str, spec: dict[str, Any]) -> Iterator[Run]:
    """A new run directory. Raises HarnessError when it cannot be written."""
    folder, path = runs_dir(), None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if len(os.listdir(folder)) > _MANY_RUNS:  # noqa: PTH208 counted at every start
            collect(keep=_MANY_RUNS // 2)
        path = _made(folder, verb)
        with owned.run(path, schema), _owner_lock(path):
            try:
                with _judged(path, schema) as run:
                    run.write("spec.json", {"verb": verb, **spec})
                    run.note("start", pid=os.getpid(), kernloop=__version__, host=about(), **_called())
                    yield run
            except UsageError:
                # Nothing ran: there is nothing to look at.
                shutil.rmtree(path, ignore_errors=True)
                raise
    except KeyboardInterrupt:
        raise HarnessError("interrupted", hint="run it again") from None
    except OSError as error:
        if path is not None and not (path / _VERDICT).exists():
            shutil.rmtree(path, ignore_errors=True)  # it has not even begun
        raise HarnessError(
            f"cannot write the run directory in {runs_dir()}: {error.strerror or error}",
            hint="free some space, or set XDG_STATE_HOME; kernloop runs gc",
        ) from None


# Its name is the day, the second and at last its fraction: of several runs that begin in one, one is the newest.
def _made(folder: Path, verb: str) -> Path:
    while True:
        now, second = time.time_ns(), 10**9
        stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(now // second))
        path = folder / f"{stamp}-{verb}-{(now % second << 16) // second:04x}"
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
            return path


def _newest_first(folder: Path) -> list[Path]:
    paths = folder.iterdir() if folder.exists() else ()
    return sorted(paths, key=lambda path: (path.name[:15], path.name[-4:]), reverse=True)


@contextlib.contextmanager
def reopen(path: Path, schema: str) -> Iterator[Run]:
    """The run directory at `path` once more, to go on where its owner ended. Raises UsageError while that one lives."""
    if is_live(path):
        raise UsageError(
            f"{path.name} is under way, by process {(path / _LOCK).read_text().strip()}", hint="wait for it"
        )
    try:
        with owned.run(path, schema), _owner_lock(path), _judged(path, schema) as run:
            run.note("resume", pid=os.getpid(), kernloop=__version__, host=about())
            yield run
    except KeyboardInterrupt:
        raise HarnessError("interrupted", hint="run it again") from None


def listing() -> list[Summary]:
    """All runs, newest first."""
    return [_summary(path) for path in _newest_first(runs_dir()) if (path / "spec.json").exists()]


def find(name: str) -> Path:
    """The run whose id is `name` or begins with it, or the newest for "last". Raises UsageError."""
    known = listing()
    if name == "last" and known:
        return known[0].path
    fitting = [run.path for run in known if run.id == name or run.id.startswith(name)]
    if len(fitting) != 1:
        what = "several runs" if fitting else "no run"
        raise UsageError(f"there is {what} called {name!r}", hint="kernloop runs list")
    return fitting[0]


def timeline(path: Path) -> list[dict[str, Any]]:
    """What was done in the run at `path`, oldest first; a line that a kill or a full disk cut off is left out."""
    found = []
    with contextlib.suppress(OSError):
        for line in (path / "timeline.jsonl").read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
    return found


def collect(*, keep: int, dry_run: bool = False) -> list[Summary]:
    """Remove all finished runs but the newest `keep`; returns what was (or would be) removed."""
    finished = [run for run in listing() if not run.live]
    doomed = finished[keep:]
    for run in [] if dry_run else doomed:
        shutil.rmtree(run.path, ignore_errors=True)
    return doomed


def is_live(path: Path) -> bool:
    """Whether the owner of the run at `path` lives."""
    with contextlib.suppress(OSError), (path / _LOCK).open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def doing(path: Path) -> str:
    """What the run at `path` is at, as far as it says so."""
    try:
        return (path / _DOING).read_text()
    except OSError:
        return ""


def owned_by(pid: int) -> Path | None:
    """The run that the living process `pid` owns."""
    for path in _newest_first(runs_dir()):
        with contextlib.suppress(OSError):
            if (path / _LOCK).read_text().strip() == str(pid) and is_live(path):
                return path
    return None


def wait_until_over(path: Path, seconds: float) -> None:
    """Wait until the owner of the run at `path` is gone. Raises HarnessError after `seconds`."""
    deadline = time.monotonic() + seconds
    while is_live(path):
        if time.monotonic() > deadline:
            owner = (path / _LOCK).read_text().strip()
            raise HarnessError(f"the run {path.name} is not over after {seconds:g} s", hint=f"its owner: kill {owner}")
        time.sleep(0.01)


def kill_owner(path: Path) -> None:
    """Kill the owner of the live run at `path`; its keeper cleans up."""
    _signal(path, signal.SIGKILL)


def end_owner(path: Path) -> None:
    """End the owner of the live run at `path` as Ctrl-C does: it judges the run and cleans up itself."""
    _signal(path, signal.SIGINT)


def _signal(path: Path, number: int) -> None:
    with contextlib.suppress(OSError, ValueError):
        owner = int((path / _LOCK).read_text())
        fd = os.pidfd_open(owner)
        try:
            if is_live(path):  # it holds the lock, so it is the one that wrote its number there
                signal.pidfd_send_signal(fd, number)
        finally:
            os.close(fd)


def wait_for_verdict(path: Path, seconds: float) -> dict[str, Any]:
    """The verdict of a run that is over: the keeper of one that was killed writes it a moment later."""
    deadline = time.monotonic() + seconds
    while (verdict := read_json(path / _VERDICT)).get("verdict") in (None, "unknown") and time.monotonic() < deadline:
        time.sleep(0.01)
    return verdict


# The words that kernloop's command line was called with, and where; nothing in a process that is not its command line.
def _called() -> dict[str, Any]:
    program = Path(sys.argv[0])
    if program.name != "kernloop" and program.parent.name != "kernloop":
        return {}
    with contextlib.suppress(OSError):
        return {"argv": sys.argv[1:], "cwd": os.getcwd()}  # noqa: PTH109 as the caller sees it
    return {"argv": sys.argv[1:]}


# The run is unknown until it is judged in the block, or the block fails.
@contextlib.contextmanager
def _judged(path: Path, schema: str) -> Iterator[Run]:
    run = Run(path)
    run.write(_VERDICT, {"schema": schema, "verdict": "unknown", "summary": "not judged yet", "run": str(path)})
    try:
        yield run
    except UsageError:
        raise
    except BaseException as error:
        _abandon(run, schema, error)
        raise


# Whoever leaves the block by an exception has perhaps not said how the run ended.
def _abandon(run: Run, schema: str, error: BaseException) -> None:
    with contextlib.suppress(OSError):
        if read_json(run.path / _VERDICT).get("verdict") != "unknown":
            return
        summary, then = f"kernloop failed: {error or type(error).__name__}", "run it again"
        if isinstance(error, KeyboardInterrupt):
            summary = "interrupted"
        elif isinstance(error, HarnessError):
            summary, then = error.message, error.hint or then
        run.judge(
            {
                "schema": schema,
                "verdict": "infra",
                "summary": summary,
                "exit_code": HarnessError.exit_code,
                "next": f"{then}; timeline.jsonl has what was done until then",
                "run": str(run.path),
            }
        )


@contextlib.contextmanager
def _owner_lock(path: Path) -> Iterator[None]:
    with (path / _LOCK).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def _summary(path: Path) -> Summary:
    spec, verdict = read_json(path / "spec.json"), read_json(path / _VERDICT)
    live = is_live(path)
    word, text = str(verdict.get("verdict", "unknown")), str(verdict.get("summary", ""))
    if word == "unknown" and not live:
        word, text = "infra", "kernloop and its keeper were both killed"
    return Summary(
        path.name,
        path,
        str(spec.get("verb", "?")),
        str(spec.get("subject", "")),
        word,
        text,
        max(0.0, time.time() - _stat(path)[1]),
        sum(_stat(file)[0] for file in path.rglob("*")),
        live,
    )


# Size (of a file) and time of change; a live run renames its files, and another gc removes them, while we look.
def _stat(path: Path) -> tuple[int, float]:
    try:
        found = path.stat()
    except OSError:
        return 0, time.time()
    return found.st_size if stat.S_ISREG(found.st_mode) else 0, found.st_mtime


def write_json(path: Path, value: object) -> None:
    """Write JSON to `path` in one step: a reader sees the old text or the new."""
    write_text(path, json.dumps(value, indent=2, default=str) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` in one step."""
    staged = path.with_name(f".{path.name}.new")
    staged.write_text(text)
    staged.rename(path)


def read_json(path: Path) -> dict[str, Any]:
    """The object in `path`; empty when it is not there or was cut off."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
