# SPDX-License-Identifier: Apache-2.0
"""What scxsuite and scxload say in the guest, as JSON lines, read into one picture of the run.

guest/scxsuite.c and guest/scxload.c are the other end. Lines are read as they come, so that a progress display and the
final judgement see the same thing; a line cut off by a crash is left out.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from kernloop.report.scx import ScxExit, make_exit, parse_loader_stderr

__all__ = ["Gate", "SuiteReader", "TestResult"]


@dataclass(frozen=True)
class TestResult:
    """One test: `figure` was measured, `limit` is its threshold, both in `unit`; `seconds` are the guest's."""

    name: str
    ok: bool
    figure: float
    limit: float
    unit: str
    seconds: float
    why: str
    detail: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Gate:
    """The global check after a test: scheduler still enabled, nothing bad in the kernel log."""

    after: str
    ok: bool
    why: str


@dataclass
class SuiteReader:
    """Feed it the suite's stdout; `on_event` hears each event as it comes."""

    on_event: Callable[[dict[str, Any]], None] = lambda event: None
    tests: list[TestResult] = field(default_factory=list)
    gates: list[Gate] = field(default_factory=list)
    counters: dict[str, int] = field(default_factory=dict)
    planned: list[str] = field(default_factory=list)
    running: str = ""
    ops: str = ""
    enabled: bool = False
    not_enabled: str = ""
    ejected_after: str | None = None
    done: bool | None = None
    loader_exit: dict[str, Any] | None = None
    load_errno: int | None = None
    attach_errno: int | None = None
    unusable: str = ""
    stderr: list[str] = field(default_factory=list)
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
        own = parse_loader_stderr("\n".join(self.stderr))
        known = [*self._exits, *([own] if own else [])]
        return next((one for one in known if one.is_error), known[-1] if known else None)

    def _take(self, event: dict[str, Any]) -> None:
        match event.get("event"):
            case "start":
                self.planned = list(event.get("tests", []))
            case "loader":
                self._loader(str(event.get("stream", "")), str(event.get("line", "")))
            case "enabled":
                self.enabled, self.ops = True, str(event.get("ops", ""))
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
            case "ejected":
                self.ejected_after = str(event.get("after", ""))
            case "loader-exit":
                self.loader_exit = event
            case "done":
                self.done = bool(event["ok"])

    def _loader(self, stream: str, line: str) -> None:
        if stream == "stderr":
            self.stderr.append(line)
            return
        try:
            event = json.loads(line)
        except ValueError:
            return
        # A scheduler's own loader may print JSON of another kind.
        if isinstance(event, dict):
            with contextlib.suppress(KeyError, ValueError, TypeError):
                self._loader_event(event)

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
    )
