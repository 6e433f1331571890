# SPDX-License-Identifier: Apache-2.0
"""A crash with all that is known around it, for the page and for a mail: how to repeat it, on which kernel, with which
configuration, its trace and its structure. What is not known is left out.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kernloop.errors import HarnessError
from kernloop.present.outcome import plain
from kernloop.present.repeat import Repeat, of_run
from kernloop.report import logfacts
from kernloop.report.advice import Advice, Place, advice, next_step
from kernloop.report.causes import causes
from kernloop.report.crash import Crash
from kernloop.report.frames import Frame, rip_function
from kernloop.runs import read_json

__all__ = ["Account", "Part", "account", "configuration", "place"]

Pairs = tuple[tuple[str, str], ...]

# What every reader of a report wants to know of a configuration, whatever the report is about.
_ALWAYS = (
    *("SMP", "PREEMPT", "PREEMPT_LAZY", "PREEMPT_VOLUNTARY", "PREEMPT_RT", "PREEMPT_DYNAMIC"),
    *("KASAN", "PROVE_LOCKING", "RANDOMIZE_BASE", "UNWINDER_ORC", "DEBUG_INFO"),
)
# Fields of a crash's structure by the words that stand above them.
_HEADINGS = {
    "wanted": "wanted",
    "held": "held meanwhile",
    "cycle": "order of the locks",
    "places": "each lock was taken in",
    "waiting": "waits",
    "owner": "who has it",
    "all_held": "locks held",
    "stall": "stall",
    "pool": "pool",
    "stuck_seconds": "stuck for seconds",
    "works": "work",
}


@dataclass(frozen=True)
class Part:
    """A piece of a report's structure: what it is, and its lines."""

    heading: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Account:
    """`kernel` and `config` are pairs of name and value, `trace` lines, `others` the titles of the log's other reports.

    `decoded`: the trace has files and lines. `source` is the log or the run that it was read from.
    """

    crash: Crash
    source: str
    repeat: Repeat
    kernel: Pairs
    config: Pairs
    trace: tuple[str, ...]
    decoded: bool
    structure: tuple[Part, ...]
    advice: Advice
    next: str
    others: tuple[str, ...] = ()


def account(
    crash: Crash,
    log: bytes,
    source: str,
    *,
    run: Path | None = None,
    others: Sequence[Crash] = (),
    config: Mapping[str, str] | None = None,
    structure: object = None,
) -> Account:
    """All that `log`, the `run` that it is from and the kernel's `config` say.

    `structure` is more of the report's own, beside `crash.details`.
    """
    where = place(run, source)
    found = advice(crash, where)
    return Account(
        crash,
        run.name if run else source,
        of_run(run) if run else Repeat(),
        _kernel(run, logfacts.of_log(log, crash.start, crash.end or None)),
        _config(config, found.facts),
        tuple(_plain_trace(crash)),
        False,
        (*_parts(crash.details), *_parts(structure)),
        found,
        next_step(crash, where, decoded=False),
        tuple(_others(crash, others)),
    )


# The log's other reports: what only follows from another says so.
def _others(crash: Crash, others: Sequence[Crash]) -> Iterator[str]:
    for other, cause in zip(others, causes(others), strict=True):
        follows = f", follows from line {others[cause.report].start_line}: {cause.why}" if cause else ""
        if other is not crash:
            yield f"{other.title} (line {other.start_line}{follows})"


def place(run: Path | None, source: str = "") -> Place:
    """Where a report is from, for the commands that are advised."""
    if run is None:
        return Place(source if source != "-" else "")
    spec = read_json(run / "spec.json")
    kernel = str(spec.get("kernel") or "")
    command = spec.get("command") or ()
    return Place(
        run.name,
        kernel.removeprefix("tree:") if kernel.startswith("tree:") else "",
        str(spec.get("name") or "") if spec.get("verb") == "vm" else "",
        tuple(map(str, command)) if spec.get("verb") == "run" else (),
    )


# The run knows which kernel was asked for and which one ran; the log what it said of itself.
def _kernel(run: Path | None, said: logfacts.LogFacts) -> Pairs:
    seen = (read_json(run / "verdict.json").get("kernel") if run else None) or {}
    asked = (read_json(run / "spec.json").get("kernel") if run else "") or ""
    found = {
        "release": seen.get("guest_release") or said.release or seen.get("release"),
        "version": said.version,
        "build-id": seen.get("guest_build_id") or seen.get("build_id"),
        "source": seen.get("ref") or asked,
        "banner": said.banner,
        "command line": said.command_line,
        "hardware": said.hardware,
    }
    return tuple((name, str(value)) for name, value in found.items() if value)


def _config(config: Mapping[str, str] | None, facts: Sequence[str]) -> Pairs:
    if config is None:
        return ()
    names = dict.fromkeys([*facts, *_ALWAYS])
    return tuple((f"CONFIG_{name}", config.get(name, "n")) for name in names)


# Without the frames that may be stale. Where the CPU was is none of them: x86 prints it as RIP, others as pc.
def _plain_trace(crash: Crash) -> list[str]:
    at = next((found for line in crash.excerpt if (found := rip_function(line))), None)
    first = [f"{_frame(at)}  (here)"] if at and at not in crash.frames[:1] else []
    return first + [_frame(frame) for frame in crash.frames if frame.reliable]


def _frame(frame: Frame) -> str:
    where = f"+{frame.offset:#x}/{frame.size:#x}" if frame.offset is not None and frame.size is not None else ""
    module = f" [{frame.module}]" if frame.module else ""
    return f"{frame.function}{where}{module}"


# A structure of any report: each field that is filled, with what is in it as lines.
def _parts(structure: object) -> list[Part]:
    fields = plain(structure) if structure is not None else {}
    if not isinstance(fields, dict):
        return []
    if chain := fields.get("cycle"):
        fields = {**fields, "cycle": " -> ".join(map(str, chain))}
    parts = [
        Part(_HEADINGS.get(name, name.replace("_", " ")), tuple(line for line in _lines(value) if line.strip()))
        for name, value in fields.items()
        if value not in (None, "", [], {})
    ]
    return [part for part in parts if part.lines]


def _lines(value: Any) -> list[str]:
    if isinstance(value, list):
        return [text for one in value for text in _lines(one)]
    return [_said(value)]


def _said(value: Any) -> str:
    if not isinstance(value, dict):
        return str(value)
    left = {name: one for name, one in value.items() if one not in (None, "", [], {})}
    who = f"{left.pop('comm', '?')}/{left.pop('pid')}" if "pid" in left and "comm" in left else ""
    words = [str(left.pop("name"))] if "name" in left else []
    words += [f"{left.pop('function')}()"] if "function" in left else []
    words += [who] if who else []
    words += [f"{name.replace('_', ' ')} {_short(one)}" for name, one in left.items()]
    return ", ".join(words)


def _short(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else _said(value)


def configuration(run: Path) -> Mapping[str, str] | None:
    """The configuration of the kernel that the run at `run` says it ran, if that is in the cache."""
    seen = read_json(run / "verdict.json").get("kernel") or {}
    build_id = seen.get("guest_build_id") or seen.get("build_id")
    # A damaged kernel in the cache is no reason to tell nothing of a crash.
    from kernloop.kernel import refs  # takes apt's and the trees' modules along, for those who ask

    with contextlib.suppress(HarnessError):
        found = refs.by_build_id(str(build_id)) if build_id else None
        return found.config if found else None
    return None
