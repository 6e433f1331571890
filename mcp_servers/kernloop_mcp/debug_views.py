# SPDX-License-Identifier: Apache-2.0
"""Answers of the server `debug`: who answered and whether the guest stood still first, then what was asked for."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mcp_types import CallToolResult

from kernloop.debug.questions.steer import Standing
from kernloop.debug.questions.told import Told
from kernloop.debug.tracers.pages import Page
from kernloop.errors import HarnessError, UsageError
from kernloop.vm import client
from kernloop_mcp.fitted import Json, cut, fitted
from kernloop_mcp.tools import answer, in_tools

__all__ = ["PAGE", "WHY", "crash", "of_each", "page", "recorded", "standing", "told"]

# Bytes of a page, and of all answers of crash.
PAGE = 4000
_ROW = 700
_TEXT = 3000
_BUCKETS = 24
_REPORT = 10


def told(found: Told, tool: str, words: Json, skip: int) -> CallToolResult:
    """Of backtrace, read, tasks and locals."""
    given = [repr(words["target"]), *(f"{name}={value!r}" for name, value in words.items() if _given(name, value))]
    rest = f"{tool}({', '.join(given)}, skip={{}})"
    head = {"by": found.by, "still": found.still, **found.head}
    rows = [cut(row, _ROW) if isinstance(row, str) else row for row in found.rows]
    return fitted(head, found.name, rows, {"more": "there are more" if found.more else ""}, skip, rest)


def _given(name: str, value: Any) -> bool:
    return name != "target" and value != {"depth": 1}.get(name, 0) and value != ""


def standing(vm: str, found: Standing) -> CallToolResult:
    """Of control."""
    text, kept = found.text, {}
    if len(text) > _TEXT:
        path = _kept(vm, text)
        text, kept = text[:_TEXT].rpartition("\n")[0], {"more": f"page({str(path)!r})"}
    return answer(
        state=found.state,
        by=found.by,
        still=found.still,
        reason=found.reason,
        where=found.where,
        of=found.of,
        breakpoint=list(found.breakpoints),
        detail=found.detail,
        found=dict(found.found),
        text=text,
        **kept,
        stops=found.stops,
        watch=found.watch,
        next=_next(vm, found),
    )


def _next(vm: str, found: Standing) -> str:
    if found.next:
        return in_tools(found.next)
    if found.still and found.state != "off":
        return f"backtrace({vm!r}); locals({vm!r}); then control({vm!r}, 'continue')"
    match found.state:
        case "running":
            since = "" if found.stops is None else f", since={found.stops}"
            return f"control({vm!r}, 'wait'{since}), or 'interrupt'; 'detach' ends it"
        case "lost":
            return f"control({vm!r}, 'interrupt', by={str(found.by)!r}) begins anew"
        case "exited":
            return "vm_list: the VM has ended"
    return ""


# All of a long text, in the VM's run directory.
def _kept(vm: str, text: str) -> Path:
    with tempfile.NamedTemporaryFile(
        "w", dir=client.last(vm).run, prefix="command-", suffix=".txt", delete=False
    ) as file:
        file.write(text)
        return Path(file.name)


# Without what it should have it is an error: bad input, ours, or a program that is refused.
def _of_verb(value: Json, has: str) -> Json:
    if has not in value:
        if value.get("verdict") == "infra":
            raise HarnessError(str(value.get("summary")), hint=str(value.get("next") or ""))
        raise UsageError(str(value.get("summary")), hint=str(value.get("next") or ""))
    return value


def _hung(value: Json, rest: str, skip: int) -> CallToolResult:
    rows: list[Any] = [
        {"kind": one["kind"] + ("" if one["sure"] else " (likely)"), "text": one["text"], "evidence": one["evidence"]}
        for one in value["findings"]
    ]
    rows += [
        {"cpu": one["cpu"], "runs": "idle" if one["idle"] else one["current"], "interrupts": one["interrupts"]}
        | {"runnable": one["runnable"], "stack": one["stack"]}
        for one in value["cpus"]
    ]
    rows += [{"waits": one["task"], "for": one["for"], "stack": one["stack"]} for one in value["waits"]]
    return fitted({"summary": value["summary"], **_drgn(value)}, "rows", rows, {}, skip, rest)


def _locks(value: Json, rest: str, skip: int) -> CallToolResult:
    rows: list[Any] = []
    for one in value["locks"]:
        held = one["holder"] or ("nobody" if one["free"] else "not known")
        rows.append(
            {"lock": f"{one['kind']} {one['name'] or one['address']}", "holder": held, "sure": one["sure"]}
            | {"detail": one["detail"], "waiters": one["waiters"]}
        )
    for one in value["spinlocks"]:
        holders = [f"{each['who']}: {each['why']}" for each in one["holders"]]
        spins = f"{one['waiter']} on CPU {one['cpu']} in {one['function']}"
        rows.append({"spinlock": one["name"] or one["address"], "holder": holders, "spins": spins})
    summary = "" if rows else "no task sleeps for a lock, no CPU spins for one"
    return fitted({"summary": summary, **_drgn(value)}, "rows", rows, {}, skip, rest)


def _oops(value: Json, rest: str, skip: int) -> CallToolResult:
    _of_verb(value, "pointers")
    head = {name: value[name] for name in ("summary", "kind", "function", "task")}
    head["report"] = value.get("report", ())[:_REPORT]
    pointers = value["pointers"]
    if pointers is None:
        head["memory"] = "gone: keep the VM, or vm_dump before it is stopped"
    rows = [
        {"register": f"{one['register']} {one['value']}", "is": one["what"], "content": cut(_text(one["content"]))}
        for one in pointers or ()
    ]
    more = {"stack": value["stack"], "registers": value["registers"] if pointers is None else None}
    return fitted(head, "pointers", rows, more, skip, rest)


WHY: dict[str, Callable[[Json, str, int], CallToolResult]] = {"hung": _hung, "locks": _locks, "oops": _oops}


def _drgn(value: Json) -> Json:
    return {"by": "drgn", "still": value["still"]}


def recorded(value: Json, id: str, skip: int) -> CallToolResult:
    """Of trace."""
    _of_verb(value, "raw")
    head: Json = {"summary": value["summary"], "next": in_tools(str(value.get("next") or ""))}
    head |= {"by": "ftrace" if "tracer" in value else "bpftrace", "still": False}
    head |= {name: value.get(name) for name in ("stopped", "note", "lost", "complaints") if value.get(name)}
    rows: list[Any] = [_sum(one) for one in value.get("sums", ())]
    for one in value.get("maps", ()):
        rows += [_map_row(one["name"], row) for row in one["rows"]]
    rows += (
        [*value.get("values", ()), *value.get("lines", ())] if "maps" in value else map(_line, value.get("trace", ()))
    )
    return fitted(head, "rows", rows, {"path": value["raw"], "id": id}, skip, f"trace_wait({id!r}, skip={{}})")


def _sum(one: Json) -> str:
    took = f", {one['us']:.0f} us in all, {one['max_us']:.0f} at most" if one.get("us") is not None else ""
    return f"{one['name']}: {one['count']} times{took}"


def _line(one: Json) -> str:
    if one["kind"] == "lost":
        return f"CPU {one['cpu']}: {one['text']} events lost"
    marks = {
        "function": f" <- {one.get('caller', '')}",
        "event": f": {one.get('text', '')}",
        "enter": " {",
        "leave": " }",
    }
    took = f" {one['us']:.3f} us" if "us" in one else ""
    what = f"{'  ' * one.get('depth', 0)}{one['name']}{marks.get(one['kind'], '')}{took}"
    return cut(f"{one['time']:.6f} [{one['cpu']}] {one.get('comm', '')}-{one.get('pid', '')} {what}", _ROW)


def _map_row(name: str, row: Json) -> str:
    key = " <- ".join(filter(None, (str(row.get("key", "")), *row.get("stack", ()))))
    value = row["value"]
    if isinstance(value, list):
        buckets = (f"{_bound(one['low'])}..{_bound(one['high'])}: {one['count']}" for one in value[:_BUCKETS])
        value = "; ".join(buckets)
    return cut(f"{name}[{key}]: {value}" if key else f"{name}: {value}", _ROW)


def _bound(value: Any) -> str:
    return "" if value is None else str(value)


def crash(value: Json) -> CallToolResult:
    """Of crash."""
    _of_verb(value, "answers")
    answers = [
        {"command": one["command"], "text": one["text"]}
        | ({"more": f"page({one['path']!r}, since={one['cursor']})"} if one["more"] else {})
        for one in value["answers"]
    ]
    why = cut(str(value.get("why_not_crash") or ""))
    return answer(by=value["by"], still=True, why_not_crash=why, answers=answers, said=cut(value["said"]))


def of_each(number: int) -> int:
    """Bytes of each of so many answers of crash."""
    return max(PAGE // max(number, 1), 200)


def page(found: Page, path: str, grep: str) -> CallToolResult:
    """Of page."""
    words = f", grep={grep!r}" if grep else ""
    rest = f"page({path!r}, since={found.cursor}{words})" if found.more else ""
    return answer(text=found.text, next=rest, cursor=found.cursor, bytes=found.size)


def _text(value: Any) -> str:
    return "" if value is None else json.dumps(value, ensure_ascii=False)
