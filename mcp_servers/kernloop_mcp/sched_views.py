# SPDX-License-Identifier: Apache-2.0
"""What the server `sched` answers of its verbs' objects."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mcp_types import CallToolResult

from kernloop_mcp.fitted import Json, Parts, cut, fitted, refuse
from kernloop_mcp.tools import answer, in_tools
from kernloop_mcp.views import excerpt

__all__ = ["VERBS", "check", "rules", "show", "trace"]

_FINDINGS = 6
_TASKS = 6
_ORDER = ("fail", "inconclusive", "skipped", "pass")
_OF_A_RULE = ("id", "title", "mistake", "exactness", "why", "at_run_time", "kind", "cure", "since")


# How it ended and where it was wrong, then each test with its figure.
def _verify(value: Json) -> Parts:
    ended = value.get("exit") or {}
    head = {
        "exit": {name: ended.get(name) for name in ("kind_name", "kind", "message")} if ended.get("kind") else {},
        "cause": (value.get("known") or {}).get("cause"),
        "during": value.get("during"),
        "task": cut((value.get("guilty") or {}).get("text", "").strip().partition("\n")[0]),
        "placed": value.get("placement"),
        "rejection": _rejection(value.get("rejection") or {}),
        "findings": [_finding(one) for one in value.get("findings", ())[:_FINDINGS]],
        "console": excerpt(value.get("evidence") or []),
    }
    errors = [_error(one) for one in value.get("diagnostics", ()) if "error" in one["severity"]]
    more = {
        "release": (value.get("kernel") or {}).get("guest_release"),
        "scheduler": value.get("scheduler"),
        "gates": [f"after {one['after']}: {one['why']}" for one in value.get("gates", ()) if not one["ok"]],
        "seed": value.get("seed"),
        "console_sha256": (value.get("console_sha256") or "")[:16],
        "folder": value.get("run"),
    }
    if errors:
        return Parts(head, "errors", errors, more)
    tests = sorted(value.get("tests", ()), key=lambda one: _ORDER.index(one["result"]))
    return Parts(head, "tests", [_test(one) for one in tests], more)


# The worst cells first: those that fail for the scheduler's sake, then those not judged.
def _matrix(value: Json) -> Parts:
    cells = sorted(value.get("cells", ()), key=lambda one: (one["verdict"] == "pass", one["ours"]))
    return Parts({}, "cells", [_cell(one) for one in cells], {"folder": value.get("run")})


VERBS: dict[str, Callable[[Json], Parts]] = {"verify": _verify, "verify-matrix": _matrix}


def _test(one: Json) -> str:
    if one["result"] == "skipped":
        return f"{one['name']}: skipped: {cut(one['why'], 120)}"
    figure = f"{one['figure']:.4g} {one['unit']}, limit {one['limit']:.4g}".replace(" ,", ",")
    beside = f", EEVDF {one['baseline']:.4g}" if one.get("baseline") is not None else ""
    return f"{one['name']}: {one['result']}: {figure}{beside}" + (f": {cut(one['why'])}" if one["why"] else "")


def _cell(one: Json) -> str:
    run = f", {Path(one['run']).name}" if one["run"] else ""
    return f"{one['topology']} {one['kernel']}: {one['verdict']}: {cut(one['summary'], 160)}{run}"


def _error(one: Json) -> Json:
    place = f"{one['file']}:{one['line']}:{one['column']}"
    return {"at": place, "message": cut(one["message"]), "source": cut(one["source"].strip(), 120)}


def _rejection(found: Json) -> Json:
    place = f"{found['source_file']}:{found['source_line']}" if found.get("source_file") else ""
    names = ("program", "cause", "source_text", "explanation")
    return {"at": place, **{name: cut(str(found[name])) for name in names if found.get(name)}}


def _finding(one: Json) -> Json:
    return {name: one[name] for name in ("level", "rule")} | {
        "at": f"{one['file']}:{one['line']}",
        "program": one["program"],
        "source": cut(one["source"].strip(), 120),
        "why": cut(one["why"]),
        "cure": cut(one["cure"]),
    }


def check(value: Json, skip: int = 0) -> CallToolResult:
    """Of `sched check`."""
    refuse(value)
    head = {name: value.get(name) for name in ("verdict", "summary")}
    head["next"] = in_tools(str(value.get("next") or ""))
    rest = f"check({str(value.get('subject'))!r}, skip={{}})"
    if errors := value["diagnostics"]:
        return fitted(head, "errors", [_error(one) for one in errors], {}, skip, rest)
    return fitted(head, "findings", [_finding(one) for one in value["findings"]], {}, skip, rest)


def rules(value: Json) -> CallToolResult:
    """Of `sched check --rules` and `--explain`."""
    if "verdict" in value:
        refuse(value)
    found = value["rules"]
    if len(found) == 1:
        return answer(**{name: found[0].get(name) for name in _OF_A_RULE})
    return fitted({}, "rules", [f"{one['id']}: {one['title']}" for one in found], {"next": "rules(ID)"})


def show(value: Json, vm: str, skip: int = 0) -> CallToolResult:
    """Of `sched show`: who is lost or waits comes first."""
    if "verdict" in value:
        refuse(value)
    head = {name: value.get(name) for name in ("summary", "next", "vm_state", "release", "notes")}
    # `state` is that of a call.
    head["sched_ext"] = value["state"]
    head["schedulers"] = [
        {name: one[name] for name in ("name", "path", "flags", "timeout", "exit") if one.get(name)}
        for one in value["schedulers"]
    ]
    lost = [{"on_no_dsq": _task(one)} for one in value["off_queue"]]
    queues = [
        {"dsq": f"{one['name'] or hex(one['id'])} {one['owner']} {one['order']}".strip(), "tasks": one["count"]}
        | {"first": [_task(task) for task in one["tasks"][:_TASKS]]}
        for one in value["queues"]
    ]
    cpus = [
        {"cpu": one["cpu"], "runs": f"{one['current']}/{one['current_pid']} {one['current_class']}"}
        | {"runnable": one["running"], "flags": " ".join(one["flags"])}
        for one in value["cpus"]
        if one["online"]
    ]
    maps = [
        {"map": one["name"], "type": one["type"], "entries": one["entries"]}
        | ({"variables": one["variables"]} if one.get("variables") else {})
        for one in value["maps"]
    ]
    more = f"show({vm!r}, skip={{}})"
    return fitted(head, "rows", [*lost, *queues, *cpus, *maps], {}, skip, more)


def trace(value: Json) -> CallToolResult:
    """Of `sched trace`: the task that waited longest comes first."""
    if "verdict" in value:
        refuse(value)
    head = {name: value.get(name) for name in ("summary", "next", "scheduler", "seconds", "queue_moves_why", "note")}
    if not value["complete"]:
        head["lost"] = value["lost"]
    tasks = [
        {"task": f"{one['comm']}/{one['pid']}", "ran_us": one["ran_us"], "migrations": one["migrations"]}
        | {name: _spread(one[name]) for name in ("wakeup_us", "delay_us") if one[name]["count"]}
        for one in value["tasks"]
    ]
    return fitted(head, "tasks", tasks, {"perfetto": value["trace"]})


def _task(one: Json) -> str:
    waits = f", waits {one['waiting']:.3g} s" if one["waiting"] else ""
    held = f", {one['held']} has it" if one["held"] not in ("dsq", "") else ""
    return f"{one['comm']}/{one['pid']} CPU {one['cpu']} of {one['cpus']}, weight {one['weight']}{waits}{held}"


def _spread(one: Json) -> str:
    return " ".join(f"{name} {one[name]:.4g}" for name in ("p50", "p99", "max")) + f" of {one['count']}"
