# SPDX-License-Identifier: Apache-2.0
"""Console logs by name: a file, standard input, or a run's; and all that is known of the reports in one."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kernloop import runs
from kernloop.errors import UsageError
from kernloop.present.account import Account, account, configuration
from kernloop.report.crash import Crash, most_severe
from kernloop.report.lines import read_line
from kernloop.report.scan import scan

__all__ = ["Log", "accounts", "of_verdict", "read"]


@dataclass(frozen=True)
class Log:
    """A console's bytes; `run` is the run directory that it lies in, None for a file from elsewhere."""

    name: str
    data: bytes
    run: Path | None = None

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
        path = run / "console.log"
    elif path.name == "console.log" and (path.parent / "spec.json").is_file():
        run = path.absolute().parent
    try:
        return Log(str(path), path.read_bytes(), run)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", hint="give a file that can be read") from error


def accounts(log: Log) -> list[Account]:
    """Every report of a log, the first cause first."""
    crashes = list(scan(log.data))
    config = configuration(log.run) if log.run and crashes else None
    return [account(crash, log.data, log.name, run=log.run, others=crashes, config=config) for crash in crashes]


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
    return account(crash, log, run.name, run=run, others=crashes, config=configuration(run)) if crash else None
