# SPDX-License-Identifier: Apache-2.0
"""What a kernel's last words say, and how they are read: a console log's, a run's or a VM's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mcp_types import CallToolResult

from kernloop.errors import UsageError
from kernloop.kernel import debugfiles
from kernloop.present.account import Account
from kernloop.present.logs import Log, account_of, found_in, read, with_lines
from kernloop.present.refusal import next_step, refusal_object, refused
from kernloop.report import advice
from kernloop.report.advice import Advice
from kernloop.vm import client
from kernloop_mcp.tools import answer, in_tools

__all__ = ["explained", "report"]

# Bytes of an answer: a report's hex dump has 1.4 bytes a token.
_ROOM = 2700
_LEAST = 400
_FRAMES = 12
_TITLES = 6


def report(source: str, number: int, line: int) -> CallToolResult:
    """Of report `number`: the whole in short, or its lines from `line` on. Raises UsageError."""
    log = _log(source)
    found = found_in(log)
    if not found and (refusal := refused(log)):
        value = refusal_object(refusal.rejection)
        weighty = {name: value[name] for name in ("title", "kind", "verifier", "message")}
        return answer(**weighty, next=in_tools(next_step(refusal.rejection)))
    if not found:
        return answer(reports=0, source=log.name, next="report_explain('silent-hang')")
    if number > len(found):
        many = f"{len(found)} report{'s' if len(found) > 1 else ''}"
        raise UsageError(f"{log.name} has {many}", hint=f"number from 1 to {len(found)}")
    crash = found[number - 1]
    again = f"report({source!r}, number={number}, line={{}})"
    if line:
        kept = _fitting(log.lines(crash)[max(line - crash.start_line, 0) :], _ROOM)
        end = max(line, crash.start_line) + len(kept)
        left = end if kept and end <= crash.end_line else 0
        return answer(console="\n".join(kept), line=left or "", more=again.format(left) if left else "")
    one = with_lines(account_of(crash, log, found), log, debugfiles.noted(log.run) if log.run else None, brief=True)
    head = _head(one, number, len(found))
    kept = _fitting(crash.excerpt, max(_ROOM - len(str(head)), _LEAST))
    return answer(**head, console="\n".join(kept), from_line=crash.start_line, more=again.format(crash.start_line))


def _fitting(lines: Sequence[str], room: int) -> list[str]:
    kept: list[str] = []
    for text in lines:
        room -= len(text.encode()) + 1
        if room < 0 and kept:
            break
        kept.append(text)
    return kept


# The weightiest first.
def _head(one: Account, number: int, count: int) -> dict[str, Any]:
    crash = one.crash
    return {
        "title": crash.title,
        "kind": crash.kind,
        "function": crash.function,
        "next": in_tools(one.next),
        "damaged": crash.corrupted,
        "message": crash.message if crash.message not in crash.title else "",
        "task": f"{crash.comm}/{crash.pid}" if crash.comm and crash.pid is not None else "",
        "cpu": crash.cpu,
        "panicked": crash.panicked or "",
        "structure": {part.heading: list(part.lines[:_FRAMES]) for part in one.structure},
        # What is not decoded stands on the console in the same words.
        "trace": list(one.trace[:_FRAMES]) if one.decoded else [],
        "repeat": list(one.repeat.commands[-3:]),
        "kernel": dict(one.kernel[:4]),
        "report": f"{number} of {count}" if count > 1 else "",
        "others": list(one.others[:_TITLES]),
        "fingerprint": crash.fingerprint,
        "explain": f"report_explain({one.advice.name!r})",
    }


def explained(kind: str) -> CallToolResult:
    """How reports of `kind` are read. Raises UsageError."""
    found = advice.explain(kind)
    if found.name == "other" and kind != "other":
        raise UsageError(f"there is no kind {kind!r}", hint=", ".join(advice.topics()))
    return answer(**_explained(found))


def _explained(found: Advice) -> dict[str, Any]:
    return {
        "kind": found.name,
        "means": found.means,
        "first": found.next,
        "read": list(found.read),
        "run": [f"{step.command}  # {step.why}" for step in found.run],
        "next_time": [f"{one.setting}: {one.gives}" for one in found.later],
        "depends_on": " ".join(found.facts),
        "documents": list(found.docs),
    }


# A file, a run, or a VM by its name.
def _log(source: str) -> Log:
    if Path(source).is_file():
        return read(source)
    try:
        return read(client.last(source).run.name)
    except UsageError:
        try:
            return read(source)
        except UsageError:
            raise UsageError(
                f"neither a file, a run nor a VM: {source}", hint="runs, vm_list (server vm); or a console log's path"
            ) from None
