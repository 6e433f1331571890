# SPDX-License-Identifier: Apache-2.0
"""Why a sched_ext scheduler ended: exit kinds, exit codes, the kernel's messages, and what loaders print of them.

Kinds and reasons are `enum scx_exit_kind` and `scx_exit_reason()`, codes `enum scx_exit_code` (kernel/sched/ext/
internal.h and ext.c in 7.3, kernel/sched/ext.c before). Loaders print `UEI_REPORT()` of tools/sched_ext/
include/scx/user_exit_info.h or `UserExitInfo::report()` of the Rust crate scx_utils. The messages, each with cause and
cure, are in data/scx_messages.json.

>>> match_message("sh[42] failed to run for 5.060s").id
'stall'
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources

from .lines import read_line, split_lines

__all__ = [
    "ExitMessage",
    "KmsgEvent",
    "ScxExit",
    "decode_exit_code",
    "make_exit",
    "match_message",
    "parse_kmsg",
    "parse_loader_stderr",
]

# kind, name, reason
_KINDS = (
    (0, "SCX_EXIT_NONE", ""),
    (1, "SCX_EXIT_DONE", ""),
    (64, "SCX_EXIT_UNREG", "unregistered from user space"),
    (65, "SCX_EXIT_UNREG_BPF", "unregistered from BPF"),
    (66, "SCX_EXIT_UNREG_KERN", "unregistered from the main kernel"),
    (67, "SCX_EXIT_SYSRQ", "disabled by sysrq-S"),
    (68, "SCX_EXIT_PARENT", "parent exiting"),
    (69, "SCX_EXIT_PARENT_KILL", "killed by parent scheduler"),
    (1024, "SCX_EXIT_ERROR", "runtime error"),
    (1025, "SCX_EXIT_ERROR_BPF", "scx_bpf_error"),
    (1026, "SCX_EXIT_ERROR_STALL", "runnable task stall"),
    (1027, "SCX_EXIT_ERROR_REENQ", "reenqueue limit"),
    (1028, "SCX_EXIT_ERROR_RESCUE", "rescue bandwidth overload"),
)
_NAMES = {kind: name for kind, name, _ in _KINDS}
_BY_REASON = {reason: kind for kind, _, reason in _KINDS if reason}
_FIRST_ERROR = 1024

_CODE_REASONS = {1: "hotplug", 2: "cgroup offline"}
_CODE_ACTIONS = {1: "restart"}

_RULE = re.compile(r"^={40,}\s*$")
# anyhow puts the cause of an error in lines of its own, numbered where there are several.
_EXIT = re.compile(r"^(?:.*(?:Error: |\] )|\s+(?:\d+: )?)?EXIT: (?P<why>.*)$")
_EXIT_END = re.compile(r"\)(?: on CPU \d+)?\s*$")
_EXIT_WHY = re.compile(r"^(?P<reason>[^(]*?)(?: \((?P<message>.*)\))?(?: on CPU (?P<cpu>\d+))?\s*$", re.DOTALL)
_MAX_MESSAGE_LINES = 20

_KMSG_STATE = re.compile(
    r'^sched_ext: BPF (?:sub-)?scheduler "(?P<name>[^"]*)" (?P<state>enabled|disabled)(?: \((?P<reason>.*)\))?\s*$'
)
_KMSG_MESSAGE = re.compile(r"^sched_ext: (?P<name>[\w.]+): (?P<message>.*\S)")


@dataclass(frozen=True)
class ExitMessage:
    """A message that the kernel is known to write: what brings it about, and what to change in the scheduler."""

    id: str
    kind_name: str
    cause: str
    cure: str
    groups: tuple[tuple[str, str], ...]

    def group(self, name: str) -> str | None:
        """What the message says of `name` (`comm`, `pid`, `cpu`, `dsq`, `err`, ...)."""
        return next((value for key, value in self.groups if key == name), None)


@dataclass(frozen=True)
class ScxExit:
    """How a scheduler ended; `kind` and `code` are None where only text was seen and it does not tell."""

    kind: int | None
    kind_name: str
    code: int | None
    code_text: str
    reason: str
    message: str
    dump: str = ""
    cpu: int | None = None

    @property
    def is_error(self) -> bool:
        """The kernel threw the scheduler out; an unknown reason counts as an error."""
        return self.kind is None or self.kind >= _FIRST_ERROR


@dataclass(frozen=True)
class KmsgEvent:
    """A scheduler came or went, by the kernel log; `message` is the error's own sentence, `line` counts from 1."""

    scheduler: str
    state: str
    partial: bool
    reason: str
    message: str
    is_error: bool
    timestamp: float | None
    line: int


def make_exit(kind: int | None, code: int | None, reason: str, message: str, dump: str = "") -> ScxExit:
    """An exit from what is known of it; the kind is taken from the reason where the number is missing."""
    return _exit(kind, code, reason, message, dump, None)


def decode_exit_code(code: int) -> str:
    """Bits 63:48 are the action asked for, 47:32 the kernel's reason, 31:0 the scheduler's; a negative code is all its.

    >>> decode_exit_code(1 << 48 | 1 << 32)
    'restart, hotplug'
    """
    bits = code & 0xFFFF_FFFF_FFFF_FFFF
    if bits >> 63:
        return f"user {bits - (1 << 64)}"
    action, reason, user = bits >> 48, bits >> 32 & 0xFFFF, bits & 0xFFFF_FFFF
    parts = [_CODE_ACTIONS.get(action, f"action {action:#x}")] if action else []
    parts += [_CODE_REASONS.get(reason, f"reason {reason:#x}")] if reason else []
    parts += [f"user {user:#x}"] if user else []
    return ", ".join(parts)


def match_message(message: str) -> ExitMessage | None:
    """The known message that this one is, or None (scx_bpf_error() texts are the scheduler's own)."""
    for pattern, row in _messages():
        if match := pattern.search(message.strip()):
            groups = tuple((name, value) for name, value in match.groupdict().items() if value is not None)
            return ExitMessage(row.id, row.kind_name, row.cause, row.cure, groups)
    return None


def parse_loader_stderr(text: str) -> ScxExit | None:
    """The last exit that a loader printed: `DEBUG DUMP`, the dump between two rules, `EXIT: REASON (MSG)`."""
    lines = split_lines(text)
    found: ScxExit | None = None
    dump: list[str] = []
    inside = rules = 0
    for number, line in enumerate(lines):
        if line.strip() == "DEBUG DUMP":
            inside, rules, dump = 1, 0, []
        elif inside and _RULE.match(line):
            rules += 1
            inside = int(rules < 2)
        elif exit_line := _EXIT.match(line):
            why = _exit_text(exit_line["why"], lines[number + 1 : number + 1 + _MAX_MESSAGE_LINES])
            found = _from_text(why, "\n".join(dump).strip("\n"))
            inside, dump = 0, []
        elif inside and rules:
            dump.append(line)
    return found


def parse_kmsg(lines: Iterable[str]) -> tuple[KmsgEvent, ...]:
    """Every scheduler that the kernel log says was enabled or disabled, in order."""
    events: list[KmsgEvent] = []
    for number, raw in enumerate(lines, 1):
        line = read_line(raw)
        if not line.text.startswith("sched_ext: "):
            continue
        if state := _KMSG_STATE.match(line.text):
            enabled, reason = state["state"] == "enabled", state["reason"] or ""
            error = not enabled and _exit(None, None, reason, "", "", None).is_error
            partial = enabled and reason == "partial"
            events.append(
                KmsgEvent(
                    state["name"], state["state"], partial, "" if enabled else reason, "", error, line.timestamp, number
                )
            )
        elif (said := _KMSG_MESSAGE.match(line.text)) and events:
            last = events[-1]
            if last.is_error and not last.message and last.scheduler == said["name"]:
                events[-1] = replace(last, message=said["message"])
    return tuple(events)


# One row of data/scx_messages.json.
@dataclass(frozen=True)
class _Row:
    id: str
    kind_name: str
    cause: str
    cure: str


@cache
def _messages() -> tuple[tuple[re.Pattern[str], _Row], ...]:
    text = resources.files(__package__).joinpath("data/scx_messages.json").read_text(encoding="utf-8")
    return tuple(
        (re.compile(row["regex"]), _Row(row["id"], row["kind"], row["cause"], row["cure"])) for row in json.loads(text)
    )


def _exit(kind: int | None, code: int | None, reason: str, message: str, dump: str, cpu: int | None) -> ScxExit:
    if kind is None:
        kind = _BY_REASON.get(reason)
    name = "unknown" if kind is None else _NAMES.get(kind, f"kind {kind}")
    return ScxExit(kind, name, code, decode_exit_code(code) if code else "", reason, message, dump, cpu)


# The text after `EXIT: `, with the lines that a message of several lines goes on to.
def _exit_text(first: str, rest: list[str]) -> str:
    if " (" not in first or _EXIT_END.search(first):
        return first
    for count in range(1, len(rest) + 1):
        if _EXIT_END.search(rest[count - 1]):
            return "\n".join([first, *rest[:count]])
    return first


def _from_text(why: str, dump: str) -> ScxExit:
    match = _EXIT_WHY.match(why)
    if not match:
        reason, _, message = why.partition(" (")
        return _exit(None, None, reason.strip(), message.strip(), dump, None)
    cpu = int(match["cpu"]) if match["cpu"] else None
    return _exit(None, None, match["reason"].strip(), match["message"] or "", dump, cpu)
