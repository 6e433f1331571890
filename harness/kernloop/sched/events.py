# SPDX-License-Identifier: Apache-2.0
"""What scxsuite and scxload say in the guest, as JSON lines, read into one picture of the run.

guest/scxsuite.c and guest/scxload.c are the other end. Lines are read as they come, so that a progress display and the
final judgement see the same thing; a line cut off by a crash is left out.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from kernloop.report.scx import ScxExit, make_exit, parse_loader_stderr

__all__ = ["Gate", "Stats", "SuiteReader", "TestResult"]

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
# scx_layered tells some dozens for each layer and CPU; all of it stands in events.jsonl.
_MAX_FIGURES = 400
# Nothing counts so far; what is no number compares as false.
_LARGEST = 1e30


@dataclass(frozen=True)
class TestResult:
    """One test: `figure` was measured, `limit` is its threshold, both in `unit`; `seconds` are the guest's.

    `result` is pass, fail, inconclusive or skipped, and `why` says what of; `ok` only for a pass. `reason` is that of
    the limit, `baseline` EEVDF's figure in the same boot.
    """

    name: str
    ok: bool
    figure: float
    limit: float
    unit: str
    seconds: float
    why: str
    detail: tuple[tuple[str, float], ...] = ()
    result: str = "pass"
    reason: str = ""
    baseline: float | None = None


@dataclass(frozen=True)
class Gate:
    """The global check after a test: scheduler still enabled, nothing bad in the kernel log."""

    after: str
    ok: bool
    why: str


@dataclass(frozen=True)
class Stats:
    """What the scheduler's loader told of itself after a test, by scx_stats: figures by dotted names, or why none."""

    after: str
    figures: tuple[tuple[str, float], ...]
    why: str = ""


@dataclass
class SuiteReader:
    """Feed it the suite's stdout; `on_event` hears each event as it comes. `words` are the loader's, for people."""

    on_event: Callable[[dict[str, Any]], None] = lambda event: None
    tests: list[TestResult] = field(default_factory=list)
    gates: list[Gate] = field(default_factory=list)
    counters: dict[str, int] = field(default_factory=dict)
    stats: list[Stats] = field(default_factory=list)
    planned: list[str] = field(default_factory=list)
    running: str = ""
    ops: str = ""
    enabled: bool = False
    not_enabled: str = ""
    ejected_after: str | None = None
    restarted: float | None = None
    loader_stays: bool = False
    not_unloaded: str = ""
    done: bool | None = None
    loader_exit: dict[str, Any] | None = None
    load_errno: int | None = None
    attach_errno: int | None = None
    unusable: str = ""
    words: list[str] = field(default_factory=list)
    _exits: list[ScxExit] = field(default_factory=list)
    _rest: bytes = b""

    def feed(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict):
                self._take(event)
                self.on_event(event)

    @property
    def exit(self) -> ScxExit | None:
        """How the scheduler ended: an error if any of its loads ended in one, by our loader's word or its own."""
        own = parse_loader_stderr("\n".join(self.words))
        known = [*self._exits, *([own] if own else [])]
        return next((one for one in known if one.is_error), known[-1] if known else None)

    def is_record(self, ended: ScxExit) -> bool:
        """Whether `ended` was read from the scheduler's own memory, by our loader: no loader's words."""
        return ended in self._exits

    def _take(self, event: dict[str, Any]) -> None:
        match event.get("event"):
            case "start":
                self.planned = list(event.get("tests", []))
            case "loader":
                self._loader(str(event.get("stream", "")), str(event.get("line", "")))
            case "enabled":
                self.enabled, self.ops, self.loader_exit = True, str(event.get("ops", "")), None
            case "not-enabled":
                self.not_enabled = str(event.get("why", ""))
            case "test-start":
                self.running = str(event.get("name", ""))
            case "test":
                self.running = ""
                self.tests.append(_test(event))
            case "gate":
                self.gates.append(Gate(str(event["after"]), bool(event["ok"]), str(event.get("why", ""))))
            case "counters":
                self.counters = {str(key): int(value) for key, value in event.get("events", {}).items()}
            case "stats":
                self.stats.append(_stats(event))
            case "ejected":
                self.ejected_after = str(event.get("after", ""))
            case "restarted":
                self.restarted = float(event.get("seconds", 0))
            case "not-unloaded":
                what = "its loader does not end" if event.get("disabled") else "it is still not disabled"
                self.not_unloaded = f"{what} {event.get('seconds', 0):g} s after SIGINT"
            case "loader-stays":
                self.loader_stays = True
            case "loader-exit":
                self.loader_exit = event
            case "done":
                self.done = bool(event["ok"])

    def _loader(self, stream: str, line: str) -> None:
        event = None
        if stream == "stdout":
            with contextlib.suppress(ValueError):
                event = json.loads(line)
        # A scheduler's own loader may print JSON of another kind. Its log, and libbpf's words in it, can be on stdout.
        if isinstance(event, dict):
            with contextlib.suppress(KeyError, ValueError, TypeError):
                self._loader_event(event)
        else:
            self.words.append(_COLOUR.sub("", line))

    def _loader_event(self, event: dict[str, Any]) -> None:
        match event.get("event"):
            case "load-failed":
                self.load_errno = int(event["errno"])
            case "attach-failed":
                self.attach_errno = int(event["errno"])
            case "unusable":
                self.unusable = str(event["why"])
            case "exit":
                kind, code = int(event["kind"]), int(event["code"])
                texts = (str(event["reason"]), str(event["msg"]), str(event.get("dump", "")))
                self._exits.append(make_exit(kind, code, *texts))


def _test(event: dict[str, Any]) -> TestResult:
    detail = tuple((str(key), float(value)) for key, value in event.get("detail", {}).items())
    return TestResult(
        str(event["name"]),
        bool(event["ok"]),
        float(event.get("figure", 0)),
        float(event.get("limit", 0)),
        str(event.get("unit", "")),
        float(event.get("seconds", 0)),
        str(event.get("why", "")),
        detail,
        str(event.get("result") or ("pass" if event["ok"] else "fail")),
        str(event.get("reason", "")),
        None if event.get("baseline") is None else float(event["baseline"]),
    )


# rust/scx_stats: {"errno":0,"args":{"resp":{...}}}, with the text of the error in resp where errno is not 0.
def _stats(event: dict[str, Any]) -> Stats:
    after, why = str(event.get("after", "")), str(event.get("why", ""))
    try:
        answer = json.loads(str(event.get("answer", "{}")))
        told = answer.get("args", {}).get("resp")
    except (ValueError, AttributeError, RecursionError):
        return Stats(after, (), "the statistics socket gave no scx_stats answer")
    if answer.get("errno"):
        return Stats(after, (), str(told)[:200])
    return Stats(after, tuple(_flat(told))[:_MAX_FIGURES], why)


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(value, (int, float)) and abs(value) < _LARGEST:
        yield name, float(value)
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield from _flat(inner, f"{name}.{key}" if name else str(key))
