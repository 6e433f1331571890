# SPDX-License-Identifier: Apache-2.0
"""The records that a run's kernel kept in pstore, each with the crashes in it, beside what the console has of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kernloop.report.crash import Crash
from kernloop.report.engine import parse_console
from kernloop.report.pstore import Record, lost, plain
from kernloop.vm import pstore

__all__ = ["Entry", "Found", "entries"]


@dataclass(frozen=True)
class Found:
    """A crash in a record; `on_console` when the run's console has the same one."""

    crash: Crash
    on_console: bool


@dataclass(frozen=True)
class Entry:
    """A record, its text at `path`, and the crashes in it in their order."""

    path: Path
    record: Record
    found: tuple[Found, ...]


def entries(run: Path) -> tuple[Entry, ...]:
    """All records of the run directory `run`, live or over; their text is written to files in it."""
    console = pstore.console_of(run)
    return tuple(Entry(run / one.path, one.record, _found(one.record, console)) for one in pstore.collect(run).stored)


def _found(record: Record, console: Sequence[str]) -> tuple[Found, ...]:
    if record.kind == "pmsg":
        return ()
    text = plain(record.text)
    begun = {crash.start_line for _, crash in lost(console, {"": text})}
    return tuple(Found(crash, crash.start_line not in begun) for crash in parse_console(text.split("\n")))
