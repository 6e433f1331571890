# SPDX-License-Identifier: Apache-2.0
"""Console logs by name: a file, standard input, or a run's; and all that is known of the reports in one."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kernloop import runs
from kernloop.errors import UsageError
from kernloop.kernel import debugfiles, hangs
from kernloop.present.account import Account, account, configuration, place
from kernloop.present.decoded import brief_lines, decoded_lines
from kernloop.report.advice import next_step
from kernloop.report.crash import Crash, most_severe
from kernloop.report.lines import read_line
from kernloop.report.scan import scan
from kernloop.report.scx_report import ScxReport, as_crash, scx_report

if TYPE_CHECKING:
    from kernloop.report.symbols import Decoded, Images

__all__ = ["Log", "account_of", "decode_crash", "found_in", "from_file", "of_verdict", "read", "scx_of", "with_lines"]

_DUMP = b"DEBUG DUMP"


@dataclass(frozen=True)
class Log:
    """A console's bytes; `run` is the run directory that it lies in, None for a file from elsewhere."""

    name: str
    data: bytes
    run: Path | None = None

    def beside(self, name: str) -> str:
        """What the run recorded in another file, "" where there is none."""
        path = self.run / name if self.run else None
        return path.read_text(errors="replace") if path and path.is_file() else ""

    def lines(self, crash: Crash) -> list[str]:
        """The console's own lines of a report, without what printk and a terminal put around them."""
        return [read_line(line.decode(errors="replace")).text for line in self.raw(crash)]

    def raw(self, crash: Crash) -> list[bytes]:
        """The console's lines of a report, as they are."""
        return self.data[crash.start : crash.end].rstrip(b"\r\n").split(b"\n")


def read(source: str) -> Log:
    """The log that `source` names: a file, - for standard input, a run's id or `last`. Raises UsageError."""
    if source == "-":
        return Log("-", sys.stdin.buffer.read())
    path, run = Path(source), None
    if not path.is_file():
        try:
            run = runs.find(source)
        except UsageError as error:
            raise UsageError(
                f"neither a file nor a run: {source}", hint="kernloop runs list names the runs; or give a console log"
            ) from error
        path = _telling(run)
    elif path.name == "console.log" and (path.parent / "spec.json").is_file():
        run = path.absolute().parent
    return from_file(path, run)


def from_file(path: Path, run: Path | None = None) -> Log:
    """The log in a file. Raises UsageError."""
    try:
        return Log(str(path), path.read_bytes(), run)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", hint="give a file that can be read") from error


def found_in(log: Log, limit: int | None = None) -> list[Crash]:
    """The crashes of a log, the first cause first; where the kernel says nothing, a scheduler's loader may."""
    crashes = list(islice(scan(log.data), limit))
    if crashes or (b"EXIT: " not in log.data and not log.beside("loader.txt")):
        return crashes
    text = log.data.decode(errors="replace")
    ended = scx_report(text, log.beside("dump.txt"), log.beside("loader.txt"))
    return [as_crash(ended, len(log.data), text.count("\n"))] if ended else []


# The file that the verdict is about: the console, or what pstore has kept where the console has lost it.
def _telling(run: Path) -> Path:
    evidence = runs.read_json(run / "verdict.json").get("evidence", ())
    first = next((Path(item["path"]) for item in evidence if item.get("lines")), None)
    return first if first and first.parent.name == "pstore" and first.is_file() else run / "console.log"


def account_of(crash: Crash, log: Log, crashes: Sequence[Crash]) -> Account:
    """All that is known of one of the `crashes` of a log."""
    return account(
        crash,
        log.data,
        log.name,
        run=log.run,
        others=crashes,
        config=configuration(log.run) if log.run else None,
        structure=_told(scx_of(log, crash)) or _hung(log, crash),
    )


def scx_of(log: Log, crash: Crash) -> ScxReport | None:
    """How the scheduler of a sched_ext report ended; None for other reports."""
    if crash.kind != "sched-ext":
        return None
    loader = log.beside("loader.txt") or (log.data.decode(errors="replace") if _DUMP in log.data else "")
    return scx_report("\n".join(log.lines(crash)), log.beside("dump.txt"), loader)


# What people read of an exit; the dump has a file of its own.
def _told(ended: ScxReport | None) -> dict[str, Any]:
    if ended is None:
        return {}
    exit_ = f"{ended.kind_name} ({ended.kind})" if ended.kind is not None else ended.kind_name
    task = ended.task
    return {
        "scheduler": ended.scheduler,
        "exit": exit_ if exit_ != "unknown" else "",
        "code": ended.code_text,
        "reason": ended.reason,
        "message": ended.message,
        "cause": ended.cause,
        "cure": ended.cure,
        "placed": ended.placement,
        "task": task.text.splitlines() if task else [],
    }


# Of a hang in a sentence: which CPU spins where, who waits for what.
def _hung(log: Log, crash: Crash) -> dict[str, Any]:
    if crash.family != "hang":
        return {}
    found = hangs.seen(log.run) if log.run else hangs.in_console(log.data[crash.start :])
    return {"hang": found.summary} if found else {}


def with_lines(one: Account, log: Log, images: Images | None, *, brief: bool = False) -> Account:
    """A report of a log with files and lines, where the files of its kernel have them; `brief` for few tokens."""
    found = decode_crash(one.crash, log, images)
    if found is None or found.guilty is None:
        return one
    step = next_step(one.crash, place(log.run, log.name), decoded=True)
    return replace(one, trace=tuple(brief_lines(found) if brief else decoded_lines(found)), decoded=True, next=step)


def decode_crash(crash: Crash | None, log: Log, images: Images | None) -> Decoded | None:
    """A crash of a log decoded; None without files."""
    if crash is None or images is None:
        return None
    from kernloop.report.symbols import decode

    return decode(crash, log.lines(crash), images)


def of_verdict(run: Path, verdict: Mapping[str, Any], log: bytes) -> Account | None:
    """The crash that the `verdict` on `run` is about, whose console is `log`; None when it is about none."""
    if verdict.get("verdict") not in ("panic", "oops"):
        return None
    item = next((item for item in verdict.get("evidence", ()) if item.get("lines")), None)
    lines = item["lines"] if item else None
    # What the console has lost, pstore may have kept.
    if item and Path(item["path"]).name != "console.log":
        with contextlib.suppress(OSError):
            log = (run / item["path"]).read_bytes()
    crashes = list(scan(log))
    begins = [crash for crash in crashes if lines and crash.start_line == lines[0]]
    crash = begins[0] if begins else most_severe(crashes)
    if crash is None:
        return None
    one = account(crash, log, run.name, run=run, others=crashes, config=configuration(run))
    return with_lines(one, Log(run.name, log, run), debugfiles.noted(run))
