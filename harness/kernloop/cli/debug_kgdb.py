# SPDX-License-Identifier: Apache-2.0
"""`kernloop debug kgdb VM COMMAND`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kernloop.cli.output import JsonFlag, err, escape, fail, out, print_json
from kernloop.errors import HarnessError, UsageError

if TYPE_CHECKING:
    from kernloop.debug.kgdb import Answer, Breakpoint, Frame, Thread, Value
    from kernloop.vm.client import VM

__all__ = ["kgdb"]

_SCHEMA = "kernloop.debug-kgdb/1"
# The command and what it is followed by.
_COMMANDS = {
    "state": "",
    "enter": "",
    "threads": "",
    "backtrace": "",
    "locals": "",
    "evaluate": "EXPRESSION",
    "break": "WHERE",
    "breakpoints": "",
    "delete": "NUMBER",
    "step": "",
    "next": "",
    "stepi": "",
    "nexti": "",
    "finish": "",
    "continue": "",
    "kdb": "COMMAND",
    "end": "",
}
_HOWS = ("step", "next", "stepi", "nexti", "finish", "continue")


@dataclass(frozen=True)
class _Words:
    timeout: float
    thread: str
    frame: int
    depth: int
    limit: int
    condition: str
    temporary: bool
    kdb: bool


def kgdb(
    vm: Annotated[str, typer.Argument(help="The VM, started with vm start --kgdb.")],
    command: Annotated[
        str, typer.Argument(help=", ".join(f"{name} {rest}".strip() for name, rest in _COMMANDS.items()))
    ],
    words: Annotated[list[str] | None, typer.Argument(help="What the command takes.")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds until a stop, or an answer, is waited for no longer.")] = 30.0,
    thread: Annotated[str, typer.Option(help="A thread by its number; for backtrace also: cpus, all.")] = "",
    frame: Annotated[int, typer.Option(min=0, help="Locals and expressions of this frame.")] = 0,
    depth: Annotated[int, typer.Option(min=0, help="Structs to this depth.")] = 2,
    limit: Annotated[int, typer.Option(min=1, help="So many calls of each thread.")] = 16,
    condition: Annotated[str, typer.Option("--if", help="The breakpoint counts when this is true.")] = "",
    temporary: Annotated[bool, typer.Option("--temporary", help="The breakpoint goes when it was hit.")] = False,
    kdb: Annotated[bool, typer.Option("--kdb", help="Enter without GDB: kdb COMMAND only, no vmlinux.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """KGDB in a VM, by a GDB in tmux that a person can watch.

    enter stops the guest, end lets it go, state tells at any time.

    Exit status: 0, 124 it did not stop in time and runs, 2 bad input or no KGDB, 125 GDB or tmux failed.
    """
    given = _Words(timeout, thread, frame, depth, limit, condition, temporary, kdb)
    try:
        status = _do(vm, command, " ".join(words or ()), given, as_json)
    except HarnessError as error:
        raise fail(error, as_json=as_json, schema=_SCHEMA) from None
    raise typer.Exit(status)


def _do(name: str, command: str, rest: str, given: _Words, as_json: bool) -> int:
    from kernloop.debug import kgdb as library
    from kernloop.vm import client

    if command not in _COMMANDS:
        raise UsageError(f"there is no {command!r}", hint=" ".join(_COMMANDS))
    if bool(rest) != bool(_COMMANDS[command]):
        raise UsageError(f"{command} takes {_COMMANDS[command] or 'no words'}", hint="kernloop debug kgdb --help")
    vm: VM = client.last(name) if command == "state" else client.find(name)
    base = {"schema": _SCHEMA, "vm": name, "command": command}
    seconds = given.timeout
    match command:
        case "state":
            _tell_state(base, library.state(vm), as_json)
        case "enter":
            _tell_state(base, library.enter(vm, gdb=not given.kdb, timeout=seconds), as_json)
        case "end":
            _tell_state(base, library.end(vm, timeout=seconds), as_json)
        case _ if command in _HOWS:
            answer = library.go(vm, command, timeout=seconds)
            _tell_state(base, answer, as_json)
            return 0 if answer.stop else 124
        case "threads":
            _tell_threads(base, library.threads(vm), as_json)
        case "backtrace":
            _tell_threads(base, library.backtrace(vm, given.thread, limit=given.limit), as_json)
        case "locals":
            found = library.local_variables(vm, frame=given.frame, thread=given.thread, depth=given.depth)
            _tell_values(base, found, as_json)
        case "evaluate":
            value = library.evaluate(vm, rest, frame=given.frame, thread=given.thread, depth=given.depth)
            _tell_values(base, (value,), as_json)
        case "break":
            point = library.set_break(vm, rest, condition=given.condition, temporary=given.temporary)
            _tell_points(base, (point,), as_json)
        case "breakpoints":
            _tell_points(base, library.breakpoints(vm), as_json)
        case "delete":
            if not rest.isdecimal():
                raise UsageError(
                    f"{rest!r} is no number of a breakpoint", hint=f"kernloop debug kgdb {name} breakpoints"
                )
            _tell_points(base, library.delete(vm, int(rest)), as_json)
        case "kdb":
            text = library.kdb(vm, rest, timeout=seconds)
            _tell(base, {"text": text}, as_json, text.rstrip().splitlines())
    return 0


def _tell(base: dict[str, Any], found: dict[str, Any], as_json: bool, lines: list[str]) -> None:
    if as_json:
        print_json({**base, **found})
        return
    for line in lines:
        out.print(escape(line))


def _tell_state(base: dict[str, Any], answer: Answer, as_json: bool) -> None:
    row = asdict(answer)
    row.pop("result")
    lines = [f"{answer.state}{f': {answer.why}' if answer.why else ''}"]
    if answer.stop:
        stop = answer.stop
        numbers = " ".join(map(str, stop.breakpoints))
        lines.append(f"{stop.reason} {numbers}".strip() + f" in {_called(stop.thread)}")
        lines += [_line(stop.frame)] if stop.frame else []
    _tell(base, row, as_json, lines)
    if as_json:
        return
    out.print(f"[dim]next: {escape(answer.next)}[/]")
    if answer.watch:
        err.print(f"  [bold]watch:[/] {escape(answer.watch)}")


def _tell_threads(base: dict[str, Any], found: tuple[Thread, ...], as_json: bool) -> None:
    lines = []
    for one in found:
        lines.append(f"{one.thread:4}  {_called(one)}")
        lines += [f"      {_line(frame)}" for frame in one.frames]
    _tell(base, {"threads": [asdict(one) for one in found]}, as_json, lines)


def _tell_values(base: dict[str, Any], found: tuple[Value, ...], as_json: bool) -> None:
    lines = [f"{one.type} {one.name} = {one.value if one.value is not None else f'<{one.why}>'}" for one in found]
    _tell(base, {"values": [asdict(one) for one in found]}, as_json, lines)


def _tell_points(base: dict[str, Any], found: tuple[Breakpoint, ...], as_json: bool) -> None:
    lines = [
        f"{one.number}  {one.where}{f' if {one.condition}' if one.condition else ''}  hit {one.hits} times"
        for one in found
    ]
    _tell(base, {"breakpoints": [asdict(one) for one in found]}, as_json, lines)


def _called(one: Thread) -> str:
    return f"CPU {one.cpu}" if one.cpu is not None else f"{one.name} ({one.pid})"


def _line(frame: Frame) -> str:
    place = f"  {frame.file}:{frame.line}" if frame.file else ""
    inlined = "  [inlined]" if frame.inlined else ""
    return f"#{frame.level}  {frame.function or frame.pc}{place}{inlined}"
