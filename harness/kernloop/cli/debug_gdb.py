# SPDX-License-Identifier: Apache-2.0
"""`kernloop debug gdb VM COMMAND`: one shape for all that a GDB session does."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kernloop.cli.output import JsonFlag, err, escape, fail, out, print_json
from kernloop.errors import HarnessError, UsageError

if TYPE_CHECKING:
    from kernloop.debug.gdb.client import Answer
    from kernloop.debug.gdb.state import Session

__all__ = ["gdb"]

_SCHEMA = "kernloop.gdb/1"
# Each command: the word that stands behind it, "" for none, with ? where it may be left out; and the options it takes.
_COMMANDS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "attach": ("", ()),
    "detach": ("", ()),
    "state": ("", ()),
    "wait": ("", ("since", "timeout")),
    "interrupt": ("", ()),
    "continue": ("", ("timeout",)),
    "step": ("", ("timeout", "count")),
    "next": ("", ("timeout", "count")),
    "stepi": ("", ("timeout", "count")),
    "nexti": ("", ("timeout", "count")),
    "finish": ("", ("timeout",)),
    "until": ("where", ("timeout",)),
    "break": ("where", ("condition", "ignore", "temporary", "software")),
    "watch": ("expression", ("access",)),
    "breakpoints": ("", ()),
    "delete": ("numbers", ()),
    "backtrace": ("", ("cpu", "limit")),
    "cpus": ("", ("limit",)),
    "locals": ("", ("cpu", "frame")),
    "evaluate": ("expression", ("cpu", "frame")),
    "print": ("expression", ("depth", "limit", "cpu", "frame")),
    "list": ("where?", ("lines", "cpu", "frame")),
    "disassemble": ("where?", ("count",)),
    "memory": ("address", ("size",)),
    "registers": ("names", ("cpu",)),
    "threads": ("", ()),
    "tasks": ("", ("pid", "limit")),
    "modules": ("files", ()),
    "command": ("text", ()),
}
_WAITS = 10.0


def gdb(
    vm: Annotated[str, typer.Argument(help="The VM, as in kernloop vm list.")],
    command: Annotated[str, typer.Argument(help=", ".join(_COMMANDS))],
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[WHAT]", help="A place, an expression, or numbers.")
    ] = None,
    timeout: Annotated[float | None, typer.Option(min=0, help="Wait so many seconds for a stop: 10.")] = None,
    since: Annotated[int | None, typer.Option(min=0, help="wait: for a stop after this one.")] = None,
    condition: Annotated[str | None, typer.Option("--if", help="break: only when this expression is not 0.")] = None,
    ignore: Annotated[int | None, typer.Option(min=0, help="break: not at the first so many hits.")] = None,
    temporary: Annotated[bool | None, typer.Option("--temporary", help="break: once.")] = None,
    software: Annotated[bool | None, typer.Option("--software", help="break: by an instruction in the code.")] = None,
    access: Annotated[str | None, typer.Option(help="watch: write, read or any.")] = None,
    cpu: Annotated[int | None, typer.Option(min=0, help="This vCPU, not the one that stopped.")] = None,
    frame: Annotated[int | None, typer.Option(min=0, help="This call of the backtrace.")] = None,
    depth: Annotated[int | None, typer.Option(min=0, help="print: members of members so deep: 2.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="So many frames, values or tasks.")] = None,
    count: Annotated[int | None, typer.Option(min=1, help="So many steps or instructions.")] = None,
    lines: Annotated[int | None, typer.Option(min=1, help="list: so many.")] = None,
    size: Annotated[int | None, typer.Option(min=1, help="memory: so many bytes.")] = None,
    pid: Annotated[int | None, typer.Option(min=1, help="tasks: this one, with its stack.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """GDB at a running VM: breakpoints, steps, stacks, variables.

    The first command attaches; the guest runs on until a breakpoint or `interrupt`. The session stays when you go.

    Exit status: 0 also when the guest still runs or the session is over (`state` says), 2 no such VM, or no sense in
    what was asked, 125 gdb does not answer.
    """
    given = {
        "timeout": timeout,
        "since": since,
        "condition": condition,
        "ignore": ignore,
        "temporary": temporary,
        "software": software,
        "access": access,
        "cpu": cpu,
        "frame": frame,
        "depth": depth,
        "limit": limit,
        "count": count,
        "lines": lines,
        "size": size,
        "pid": pid,
    }
    try:
        asked = _asked(command, words or [], {name: value for name, value in given.items() if value is not None})
        answer = _answer(vm, command, asked, say=lambda what: err.print(f"kernloop: {what}"))
    except HarnessError as error:
        raise fail(error, as_json=as_json, schema=_SCHEMA) from None
    if as_json:
        session = {**answer.session.as_json(), "next": _next(vm, answer.session)}
        print_json({"schema": _SCHEMA, "vm": vm, "command": command, **session, "found": dict(answer.found)})
    else:
        _tell(vm, answer)


def _asked(command: str, words: list[str], given: dict[str, Any]) -> dict[str, Any]:
    if command not in _COMMANDS:
        raise UsageError(f"gdb has no command {command!r} here", hint=", ".join(_COMMANDS))
    behind, options = _COMMANDS[command]
    if wrong := next((name for name in given if name not in options), ""):
        flag = "if" if wrong == "condition" else wrong
        raise UsageError(f"{command} takes no --{flag}", hint=" ".join(f"--{name}" for name in options) or "none")
    if "timeout" in options:
        given.setdefault("timeout", _WAITS)
    if behind == "numbers":
        if not all(word.isdigit() for word in words):
            raise UsageError("breakpoints have numbers", hint="breakpoints lists them")
        return {**given, "numbers": [int(word) for word in words]}
    if behind in ("names", "files"):
        return {**given, behind: [str(Path(word).absolute()) if behind == "files" else word for word in words] or None}
    if not behind and words:
        raise UsageError(f"{command} takes no {words[0]!r}", hint="kernloop debug gdb --help")
    if behind and not behind.endswith("?") and not words:
        raise UsageError(
            f"{command} needs {behind}", hint="as in: break scx_enable, print 'rq->scx', command 'info line'"
        )
    return {**given, behind.rstrip("?"): " ".join(words)} if words else given


def _answer(name: str, command: str, asked: dict[str, Any], *, say: Callable[[str], None]) -> Answer:
    from kernloop.debug.gdb import client
    from kernloop.vm import client as vms

    if command in ("state", "detach"):
        found = vms.last(name)
        if command == "detach" and client.find(found) is not None:
            return client.Answer(client.Gdb(found).detach(), {})
        return client.Gdb(found).ask("state")
    vm = vms.find(name)
    session = client.attach(vm, say=say)
    if command == "attach":
        return session.ask("modules")
    if command == "wait" and "since" not in asked:
        # Whoever names no stop wants the next one, or the one that it stands at.
        now = session.ask("state").session
        asked = {**asked, "since": max(now.stops - 1, 0) if now.state == "stopped" else now.stops}
    return session.ask(command, **asked)


def _next(vm: str, session: Session) -> str:
    base = f"kernloop debug gdb {vm}"
    return {
        "running": f"{base} wait, or {base} interrupt",
        "stopped": f"{base} backtrace; {base} locals; then {base} continue",
        "exited": f"kernloop runs show: how {vm} ended",
    }.get(session.state, f"{base} attach")


def _tell(vm: str, answer: Answer) -> None:
    session = answer.session
    said = f"[bold]{session.state}[/]"
    if session.reason:
        number = f" {session.breakpoint}" if session.breakpoint else ""
        said += f": {session.reason}{number}, CPU {session.cpu}"
    if session.frame:
        said += f" in {escape(_where(_row(session.frame)))}"
    out.print(said + (f"  [dim]{escape(session.detail or session.why)}[/]" if session.detail or session.why else ""))
    for name, value in answer.found.items():
        _tell_one(name, value)
    out.print(f"[dim]next: {escape(_next(vm, session))}[/]")


def _tell_one(name: str, value: Any) -> None:
    if isinstance(value, str) and "\n" in value:
        out.print(escape(value.rstrip("\n")))
    elif name in ("frames", "cpus") and isinstance(value, list):
        for row in value:
            if "frames" in row:
                out.print(f"CPU {row['cpu']}")
                _tell_one("frames", row["frames"])
            else:
                out.print(f"  #{row['level']} {escape(_where(row))}")
    elif name == "modules":
        for row in value:
            place = next((f" at {at}" for section, at in row["sections"].items() if section == ".text"), "")
            out.print(
                f"  {escape(row['name'] + place)}, {escape(row['file'] or 'names only: its file is not at hand')}"
            )
    elif name == "tree":
        _tell_tree(value, 0)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for row in value:
            out.print(
                "  " + escape(", ".join(f"{key} {_short(one)}" for key, one in row.items() if one not in ("", [])))
            )
    elif isinstance(value, list):
        for one in value:
            out.print(f"  {escape(_short(one))}")
    elif isinstance(value, dict):
        out.print(f"{name}: " + escape(", ".join(f"{key} {_short(one)}" for key, one in value.items())))
    else:
        out.print(f"{name}: {escape(_short(value))}")


def _tell_tree(tree: dict[str, Any], depth: int) -> None:
    value = f" = {tree['value']}" if "value" in tree else ""
    out.print("  " * depth + escape(f"{tree['type']} {tree['name']}{value}"))
    for member in tree.get("members", ()):
        _tell_tree(member, depth + 1)
    if tree.get("left_out"):
        out.print("  " * (depth + 1) + f"[dim]{tree['left_out']} more[/]")


def _row(frame: Any) -> dict[str, Any]:
    from kernloop.debug.gdb.state import told

    return told(frame)


def _where(row: Mapping[str, Any]) -> str:
    args = ", ".join(f"{name}={value}" for name, value in row.get("args") or ())
    place = f" at {row['file']}:{row['line']}" if row["file"] else f" at {row['address']}"
    return f"{row['function'] or '?'}({args}){place}"


def _short(value: Any) -> str:
    if isinstance(value, dict) and "function" in value:
        return _where(value)
    return value if isinstance(value, str) else json.dumps(value)
