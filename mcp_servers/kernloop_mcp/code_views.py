# SPDX-License-Identifier: Apache-2.0
"""What the server `code` answers: verdict, summary and next first, then what stands in the way, as much as there is
room for; the rest page by page."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcp_types import CallToolResult

from kernloop.errors import HarnessError, UsageError
from kernloop_mcp.tools import answer, in_tools
from kernloop_mcp.views import excerpt

__all__ = ["VERBS", "config", "over", "patch", "series", "under_way"]

Json = dict[str, Any]
# Bytes of an answer; its lists of errors, steps and tests have some 2.3 bytes a token at worst.
_ROOM = 4400
_TEXT = 240
_EVENTS = 20


@dataclass(frozen=True)
class _Parts:
    """Of an answer: what comes before its long list, the list's name, the list, and what comes behind it."""

    head: Json
    name: str
    items: list[Any]
    more: Json


def over(verb: str, value: Json, skip: int = 0) -> CallToolResult:
    """The answer of a run that is over, from its object; of the long list the items from `skip` on."""
    _refuse(value)
    head = {name: value.get(name) for name in ("verdict", "summary")}
    head["next"] = in_tools(str(value.get("next") or ""))
    parts = VERBS[verb](value)
    run = Path(str(value.get("run") or "")).name
    rest = f"wait({run!r}, skip={{}})" if run else ""
    return _fitted({**head, **parts.head}, parts.name, parts.items, {**parts.more, "run": run}, skip, rest)


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


def config(value: Json) -> CallToolResult:
    """Of `kernel config`."""
    if "verdict" in value:
        return over("build", value)
    symbols = [_symbol(one) for one in value["symbols"]]
    head = {"dropped": [_dropped(one) for one in value["dropped"]]}
    return _fitted(head, "symbols", symbols, {name: value[name] for name in ("built_in", "modules", "config")})


def patch(value: Json) -> CallToolResult:
    """Of `kernel patch`."""
    _refuse(value)
    reject = value.get("reject") or {}
    bad = [hunk for hunk in reject.get("hunks", ()) if hunk["status"] not in ("applies", "offset")]
    head = {name: value.get(name) for name in ("verdict", "state", "summary")}
    head["next"] = in_tools(str(value.get("next") or ""))
    head["notes"] = [_cut(note) for note in value.get("notes", ())]
    more = {
        "three_way": reject.get("three_way"),
        "commits": [f"{one['commit'][:12]} {_cut(one['subject'], 80)}" for one in value["messages"] if one["commit"]],
        "files": value["files"][:20],
    }
    if bad:
        return _fitted(head, "rejects", [_hunk(hunk) for hunk in bad], more)
    return _fitted(head, "findings", [_finding(one) for one in value["findings"]], more)


def series(value: Json) -> CallToolResult:
    """Of `git series check`."""
    _refuse(value)
    found = [_problem(one) for one in value["problems"]]
    for commit in value["commits"]:
        found += [{"commit": commit["commit"][:12], **_problem(one)} for one in commit["problems"]]
    # What must be cured comes first; the sort leaves the commits in their order.
    found.sort(key=lambda one: ("error", "warning", "note").index(one["level"]))
    head = {name: value.get(name) for name in ("verdict", "summary")}
    head["next"] = in_tools(str(value.get("next") or ""))
    changed = [
        f"{pair['old_number'] or '-'} -> {pair['new_number'] or '-'} {pair['state']} {_cut(pair['subject'], 80)}"
        for pair in value["range_diff"][:20]
    ]
    return _fitted(head, "problems", found, {"range_diff": changed, "notes": value["notes"]})


# Errors, also those that the build before had, then new warnings.
def _build(value: Json) -> _Parts:
    new, all_ = value.get("new", []), value.get("diagnostics")
    errors = [one for one in all_ if "error" in one["severity"]] if isinstance(all_, list) else []
    told = [*errors, *(one for one in new if "error" not in one["severity"])]
    found = value.get("kernel") or {}
    return _Parts(
        {"dropped": [_dropped(one) for one in value.get("dropped", ())]},
        "diagnostics",
        [{**_diagnostic(one), **({} if one in new else {"known": True})} for one in told],
        {
            "kernel": {name: found.get(name) for name in ("ref", "release", "build_id", "image")},
            "seconds": value.get("seconds"),
            "log": value.get("log"),
        },
    )


def _suite(value: Json) -> _Parts:
    good = ("pass", "skip", "xfail")
    bad = [one for one in value.get("results", ()) if one["status"] not in good]
    failed = [
        {
            "test": one["name"],
            "status": one["status"],
            "reason": _cut(one.get("reason", "")),
            "said": [_cut(line, 120) for line in one.get("said", ())[-8:]],
        }
        for one in bad
    ]
    errors = [_diagnostic(one) for one in value.get("diagnostics", ()) if "error" in one["severity"]]
    head = {
        "totals": {name: count for name, count in (value.get("totals") or {}).items() if count},
        "running": value.get("running"),
        "console": excerpt(value.get("evidence") or []),
    }
    more = {
        "problems": value.get("problems", [])[:5],
        "release": (value.get("kernel") or {}).get("guest_release"),
        "folder": value.get("run"),
    }
    return _Parts(head, "errors", errors, more) if errors else _Parts(head, "failed", failed, more)


def _bisect(value: Json) -> _Parts:
    first = value.get("first_bad")
    candidates = [] if first else [f"{one['sha'][:12]} {one['subject'][:60]}" for one in value.get("candidates", ())]
    head = {
        "first_bad": first and {"sha": first["sha"], "subject": first["subject"], "author": first["author"]},
        "symbols": value.get("symbols"),
        "candidates": candidates[:20],
    }
    evidence = [f"{one['path']}: {one['what']}" for one in value.get("evidence", ())]
    return _Parts(head, "steps", [_step(one) for one in value.get("steps", ())], {"evidence": evidence})


VERBS: dict[str, Callable[[Json], _Parts]] = {
    "build": _build,
    "module": _suite,
    "kselftest": _suite,
    "kunit": _suite,
    "bisect": _bisect,
}


def _step(one: Json) -> str:
    commit = one["commit"]
    seen = f"{one['standing']} {one['shown']}/{one['shown'] + one['clean']}"
    return f"{seen} {commit['sha'][:12]} {_cut(commit['subject'], 60)}: {_cut(one['why'], 120)}"


def _diagnostic(one: Json) -> Json:
    place = {name: one[name] for name in ("severity", "file", "line", "function") if one.get(name)}
    return {**place, "message": _cut(one["message"]), "source": _cut(one.get("source", "").strip(), 120)}


def _dropped(one: Json) -> str:
    return f"{one['symbol']}={one['asked']} came out as {one['got']}: {_cut(one['why'])} {one['place']}".rstrip()


def _symbol(one: Json) -> Json:
    if not one["type"]:
        return {"symbol": one["name"], "why": one["why"]}
    can = f"nothing keeps it off: config=['{one['name']}=y']" if one["value"] == "n" else ""
    return {
        "symbol": one["name"],
        "value": one["value"],
        "why": _cut(one["why"], 500) or can,
        "depends": _cut(one["depends"]),
        "place": one["place"],
    }


def _hunk(one: Json) -> Json:
    return {
        "file": one["file"],
        "hunk": f"{one['number']} of {one['total']}",
        "line": one["wanted"],
        "status": one["status"],
        "message": _cut(one["message"]),
        "differences": [
            {
                "line": part["line"],
                "wanted": [_cut(line, 120) for line in part["wanted"][:6]],
                "found": [_cut(line, 120) for line in part["found"][:6]],
            }
            for part in one["differences"][:4]
        ],
    }


def _finding(one: Json) -> str:
    return f"{one['file']}:{one['line']}: {one['level']} {one['type']}: {_cut(one['message'])}"


def _problem(one: Json) -> Json:
    return {
        "level": one["level"],
        "check": one["check"],
        "message": _cut(one["message"]),
        "file": f"{one['file']}:{one['line']}" if one["file"] else "",
    }


# Bad input is an error of the tool, as it is one of the command line.
def _refuse(value: Json) -> None:
    if value.get("verdict") is None:
        raise UsageError(str(value.get("summary")), hint=str(value.get("next") or ""))
    if value["verdict"] == "infra" and not value.get("run"):
        raise HarnessError(str(value.get("summary")), hint=str(value.get("next") or ""))


# `head`, as many of `items` from `skip` on as there is room for, then `more`.
def _fitted(head: Json, name: str, items: Sequence[Any], more: Json, skip: int = 0, rest: str = "") -> CallToolResult:
    room = _ROOM - len(json.dumps([head, more], default=str))
    shown: list[Any] = []
    for item in items[skip:]:
        room -= len(json.dumps(item, ensure_ascii=False))
        if room < 0 and shown:
            break
        shown.append(item)
    left = len(items) - skip - len(shown)
    cut = f"{left} more" if left > 0 else ""
    if cut and rest:
        cut += f": {rest.format(skip + len(shown))}"
    return answer(**head, **{name: shown}, cut=cut, **more)


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
            detail = " ".join(_cut(str(value), 60) for key, value in entry.items() if key not in ("t", "event"))
            told.append(f"{entry.get('t', 0):.0f} s {entry.get('event')} {detail}".rstrip())
    return told[-_EVENTS:], max(end, since)


def _cut(text: str, most: int = _TEXT) -> str:
    return text if len(text) <= most else f"{text[:most]}..."
