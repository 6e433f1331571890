# SPDX-License-Identifier: Apache-2.0
"""What the server `code` answers of its verbs' objects."""

from __future__ import annotations

from collections.abc import Callable

from mcp_types import CallToolResult

from kernloop_mcp.fitted import Json, Parts, cut, fitted, over, refuse
from kernloop_mcp.tools import in_tools
from kernloop_mcp.views import excerpt

__all__ = ["VERBS", "config", "patch", "series"]


def config(value: Json) -> CallToolResult:
    """Of `kernel config`."""
    if "verdict" in value:
        return over(value, VERBS["build"])
    symbols = [_symbol(one) for one in value["symbols"]]
    head = {"dropped": [_dropped(one) for one in value["dropped"]]}
    return fitted(head, "symbols", symbols, {name: value[name] for name in ("built_in", "modules", "config")})


def patch(value: Json) -> CallToolResult:
    """Of `kernel patch`."""
    refuse(value)
    reject = value.get("reject") or {}
    bad = [hunk for hunk in reject.get("hunks", ()) if hunk["status"] not in ("applies", "offset")]
    head = {name: value.get(name) for name in ("verdict", "state", "summary")}
    head["next"] = in_tools(str(value.get("next") or ""))
    head["notes"] = [cut(note) for note in value.get("notes", ())]
    more = {
        "three_way": reject.get("three_way"),
        "commits": [f"{one['commit'][:12]} {cut(one['subject'], 80)}" for one in value["messages"] if one["commit"]],
        "files": value["files"][:20],
    }
    if bad:
        return fitted(head, "rejects", [_hunk(hunk) for hunk in bad], more)
    return fitted(head, "findings", [_finding(one) for one in value["findings"]], more)


def series(value: Json) -> CallToolResult:
    """Of `git series check`."""
    refuse(value)
    found = [_problem(one) for one in value["problems"]]
    for commit in value["commits"]:
        found += [{"commit": commit["commit"][:12], **_problem(one)} for one in commit["problems"]]
    # What must be cured comes first; the sort leaves the commits in their order.
    found.sort(key=lambda one: ("error", "warning", "note").index(one["level"]))
    head = {name: value.get(name) for name in ("verdict", "summary")}
    head["next"] = in_tools(str(value.get("next") or ""))
    changed = [
        f"{pair['old_number'] or '-'} -> {pair['new_number'] or '-'} {pair['state']} {cut(pair['subject'], 80)}"
        for pair in value["range_diff"][:20]
    ]
    return fitted(head, "problems", found, {"range_diff": changed, "notes": value["notes"]})


# Errors, also those that the build before had, then new warnings.
def _build(value: Json) -> Parts:
    new, all_ = value.get("new", []), value.get("diagnostics")
    errors = [one for one in all_ if "error" in one["severity"]] if isinstance(all_, list) else []
    told = [*errors, *(one for one in new if "error" not in one["severity"])]
    found = value.get("kernel") or {}
    return Parts(
        {"dropped": [_dropped(one) for one in value.get("dropped", ())]},
        "diagnostics",
        [{**_diagnostic(one), **({} if one in new else {"known": True})} for one in told],
        {
            "kernel": {name: found.get(name) for name in ("ref", "release", "build_id", "image")},
            "seconds": value.get("seconds"),
            "log": value.get("log"),
        },
    )


def _suite(value: Json) -> Parts:
    good = ("pass", "skip", "xfail")
    bad = [one for one in value.get("results", ()) if one["status"] not in good]
    failed = [
        {
            "test": one["name"],
            "status": one["status"],
            "reason": cut(one.get("reason", "")),
            "said": [cut(line, 120) for line in one.get("said", ())[-8:]],
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
    return Parts(head, "errors", errors, more) if errors else Parts(head, "failed", failed, more)


def _bisect(value: Json) -> Parts:
    first = value.get("first_bad")
    candidates = [] if first else [f"{one['sha'][:12]} {one['subject'][:60]}" for one in value.get("candidates", ())]
    head = {
        "first_bad": first and {"sha": first["sha"], "subject": first["subject"], "author": first["author"]},
        "symbols": value.get("symbols"),
        "candidates": candidates[:20],
    }
    evidence = [f"{one['path']}: {one['what']}" for one in value.get("evidence", ())]
    return Parts(head, "steps", [_step(one) for one in value.get("steps", ())], {"evidence": evidence})


VERBS: dict[str, Callable[[Json], Parts]] = {
    "build": _build,
    "module": _suite,
    "kselftest": _suite,
    "kunit": _suite,
    "bisect": _bisect,
}


def _step(one: Json) -> str:
    commit = one["commit"]
    seen = f"{one['standing']} {one['shown']}/{one['shown'] + one['clean']}"
    return f"{seen} {commit['sha'][:12]} {cut(commit['subject'], 60)}: {cut(one['why'], 120)}"


def _diagnostic(one: Json) -> Json:
    place = {name: one[name] for name in ("severity", "file", "line", "function") if one.get(name)}
    return {**place, "message": cut(one["message"]), "source": cut(one.get("source", "").strip(), 120)}


def _dropped(one: Json) -> str:
    return f"{one['symbol']}={one['asked']} came out as {one['got']}: {cut(one['why'])} {one['place']}".rstrip()


def _symbol(one: Json) -> Json:
    if not one["type"]:
        return {"symbol": one["name"], "why": one["why"]}
    can = f"nothing keeps it off: config=['{one['name']}=y']" if one["value"] == "n" else ""
    return {
        "symbol": one["name"],
        "value": one["value"],
        "why": cut(one["why"], 500) or can,
        "depends": cut(one["depends"]),
        "place": one["place"],
    }


def _hunk(one: Json) -> Json:
    return {
        "file": one["file"],
        "hunk": f"{one['number']} of {one['total']}",
        "line": one["wanted"],
        "status": one["status"],
        "message": cut(one["message"]),
        "differences": [
            {
                "line": part["line"],
                "wanted": [cut(line, 120) for line in part["wanted"][:6]],
                "found": [cut(line, 120) for line in part["found"][:6]],
            }
            for part in one["differences"][:4]
        ],
    }


def _finding(one: Json) -> str:
    return f"{one['file']}:{one['line']}: {one['level']} {one['type']}: {cut(one['message'])}"


def _problem(one: Json) -> Json:
    return {
        "level": one["level"],
        "check": one["check"],
        "message": cut(one["message"]),
        "file": f"{one['file']}:{one['line']}" if one["file"] else "",
    }
