# SPDX-License-Identifier: Apache-2.0
"""An answer of a verb: verdict, summary and next first, then what stands in the way, as much as there is room for; the
rest page by page."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcp_types import CallToolResult

from kernloop.errors import HarnessError, UsageError
from kernloop_mcp.tools import answer, in_tools

__all__ = ["Json", "Parts", "cut", "fitted", "over", "refuse", "under_way"]

Json = dict[str, Any]
# Bytes of an answer; its lists of errors, steps and tests have some 2.3 bytes a token at worst.
_ROOM = 4400
_TEXT = 240
_EVENTS = 20


@dataclass(frozen=True)
class Parts:
    """Of an answer: what comes before its long list, the list's name, the list, and what comes behind it."""

    head: Json
    name: str
    items: list[Any]
    more: Json


def over(value: Json, view: Callable[[Json], Parts], skip: int = 0) -> CallToolResult:
    """The answer of a run that is over, from its object; of its long list the items from `skip` on.

    Raises UsageError, HarnessError when it never began.
    """
    refuse(value)
    head = {name: value.get(name) for name in ("verdict", "summary")}
    head["next"] = in_tools(str(value.get("next") or ""))
    parts = view(value)
    run = Path(str(value.get("run") or "")).name
    rest = f"wait({run!r}, skip={{}})" if run else ""
    return fitted({**head, **parts.head}, parts.name, parts.items, {**parts.more, "run": run}, skip, rest)


def under_way(path: Path, doing: str, since: int = 0) -> CallToolResult:
    """A run that goes on: what it is at, and what has happened in it behind the cursor `since`."""
    events, cursor = _events(path, since)
    return answer(
        state="running",
        doing=doing,
        events=events,
        cursor=cursor,
        run=path.name,
        next=f"wait({path.name!r}, since={cursor})",
    )


def fitted(head: Json, name: str, items: Sequence[Any], more: Json, skip: int = 0, rest: str = "") -> CallToolResult:
    """`head`, as many of `items` from `skip` on as there is room for, then `more`.

    `rest` is the call for the others, the number to skip left open.
    """
    room = _ROOM - len(json.dumps([head, more], default=str))
    shown: list[Any] = []
    for item in items[skip:]:
        room -= len(json.dumps(item, ensure_ascii=False))
        if room < 0 and shown:
            break
        shown.append(item)
    left = len(items) - skip - len(shown)
    left_out = f"{left} more" if left > 0 else ""
    if left_out and rest:
        left_out += f": {rest.format(skip + len(shown))}"
    return answer(**head, **{name: shown}, cut=left_out, **more)


def refuse(value: Json) -> None:
    """Raise UsageError, HarnessError: bad input is an error of the tool, as it is one of the command line."""
    if value.get("verdict") is None:
        raise UsageError(str(value.get("summary")), hint=str(value.get("next") or ""))
    if value["verdict"] == "infra" and not value.get("run"):
        raise HarnessError(str(value.get("summary")), hint=str(value.get("next") or ""))


# What has happened in a run behind byte `since` of its timeline, and the cursor behind that.
def _events(path: Path, since: int) -> tuple[list[str], int]:
    try:
        data = (path / "timeline.jsonl").read_bytes()
    except OSError:
        return [], since
    end = data.rfind(b"\n") + 1
    told = []
    for line in data[since:end].splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if entry.get("event") not in ("start", "tools"):
            detail = " ".join(cut(str(value), 60) for key, value in entry.items() if key not in ("t", "event"))
            told.append(f"{entry.get('t', 0):.0f} s {entry.get('event')} {detail}".rstrip())
    return told[-_EVENTS:], max(end, since)


def cut(text: str, most: int = _TEXT) -> str:
    """`text`, or its beginning."""
    return text if len(text) <= most else f"{text[:most]}..."
