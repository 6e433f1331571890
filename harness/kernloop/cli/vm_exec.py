# SPDX-License-Identifier: Apache-2.0
"""`kernloop vm exec / job / push / pull`: commands and files in a VM that lives."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from kernloop.cli.output import JsonFlag, err, escape, mark, out, print_json
from kernloop.cli.vm_shared import NameArgument, done, told, writer
from kernloop.vm import client
from kernloop.vm.answers import ExecResult

__all__ = ["exec_", "job", "pull", "push"]

# Of a command's output so much goes into the JSON object; the job's folder has all of it.
_TAIL = 8192
CommandArgument = Annotated[list[str], typer.Argument(help="The command and its arguments, after --.")]


def exec_(
    name: NameArgument,
    command: CommandArgument,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds until it is killed.")] = 60.0,
    background: Annotated[bool, typer.Option("--background", help="Return at once with a job number.")] = False,
    stdin: Annotated[bool, typer.Option("--stdin", help="Pass our standard input on.")] = False,
    cwd: Annotated[str, typer.Option(help="The folder to run it in; /root, or the shared one of a vng guest.")] = "",
    as_json: JsonFlag = False,
) -> None:
    """Run a command in a VM, and exit as it did.

    120: the kernel crashed. 124: the deadline passed. 125: kernloop or QEMU failed.
    """
    schema = "kernloop.vm-exec/1"
    with told(as_json, schema):
        vm = client.find(name)
        if background:
            job = vm.exec_background(command, cwd=cwd)
            if as_json:
                print_json({"schema": schema, "job": job, "running": True})
            else:
                out.print(f"job {job}")
                err.print(f"  [bold]next:[/] kernloop vm job {escape(name)} {job}")
            return
        result = vm.exec(
            command,
            timeout=timeout,
            stdin=_our_stdin() if stdin else None,
            on_stdout=_ignore if as_json else writer(1),
            on_stderr=_ignore if as_json else writer(2),
            on_still=_still(name),
            cwd=cwd,
        )
        _tell_result(result, as_json, schema)
    raise typer.Exit(result.exit_code)


# Says once in what debugger the guest stands: it may be there by an oops, with nobody to let it go.
def _still(name: str) -> Callable[[str], None]:
    told: set[str] = set()

    def still(state: str) -> None:
        if state not in told:
            told.add(state)
            how = f"kernloop debug {state.removeprefix('in-')} {name}"
            err.print(f"{escape(name)} is {state}: the command and its time-out stand still; see {escape(how)} state")

    return still


def job(
    name: NameArgument,
    number: Annotated[int, typer.Argument(help="The job, as exec --background told.")],
    timeout: Annotated[float, typer.Option(min=0, help="Seconds to wait for its end.")] = 0.0,
    kill: Annotated[bool, typer.Option("--kill", help="Kill it first.")] = False,
    since: Annotated[int, typer.Option(help="Print its stdout from this byte on.")] = 0,
    as_json: JsonFlag = False,
) -> None:
    """How a background command ended, and what it wrote.

    Exits as the command did; 0 while it runs.
    """
    schema = "kernloop.vm-job/1"
    with told(as_json, schema):
        vm = client.find(name)
        if kill:
            vm.kill(number)
        result = vm.job(number, timeout=timeout)
        piece = vm.output(number, "stdout", since=since)
        if result is None:
            if as_json:
                value = {"schema": schema, "job": number, "running": True}
                print_json({**value, "stdout": piece.text, "cursor": piece.cursor, "more": piece.more})
            else:
                sys.stdout.buffer.write(piece.data)
                err.print(f"job {number} runs; its stdout goes on at --since {piece.cursor}")
            return
        if not as_json:
            sys.stdout.buffer.write(piece.data)
            sys.stdout.buffer.flush()
            sys.stderr.buffer.write(result.stderr)
        _tell_result(result, as_json, schema)
    raise typer.Exit(result.exit_code)


def push(
    name: NameArgument,
    source: Annotated[Path, typer.Argument(help="A file or folder of this machine.")],
    target: Annotated[str, typer.Argument(help="Where to in the guest; into it, if it ends with a slash.")] = "/root/",
    as_json: JsonFlag = False,
) -> None:
    """Copy a file or a folder into a VM."""
    with told(as_json, "kernloop.vm-push/1"):
        client.find(name).push(source, target)
        done(as_json, "kernloop.vm-push/1", source=str(source), target=target)


def pull(
    name: NameArgument,
    source: Annotated[str, typer.Argument(help="A file or folder of the guest.")],
    target: Annotated[Path, typer.Argument(help="Where to on this machine.")] = Path(),
    as_json: JsonFlag = False,
) -> None:
    """Copy a file or a folder out of a VM."""
    with told(as_json, "kernloop.vm-pull/1"):
        client.find(name).pull(source, target)
        done(as_json, "kernloop.vm-pull/1", source=source, target=str(target))


def _tell_result(result: ExecResult, as_json: bool, schema: str) -> None:
    if as_json:
        value = dataclasses.asdict(result)
        value["folder"] = str(result.folder)
        for stream in ("stdout", "stderr"):
            data: bytes = value[stream]
            size = (result.folder / stream).stat().st_size
            value[stream] = {
                "text": data[-_TAIL:].decode(errors="replace"),
                "bytes": size,
                "cut": size > _TAIL,
                "path": str(result.folder / stream),
            }
        print_json({"schema": schema, "running": False, **value})
    elif result.exit_code != result.status or result.status == 127:
        err.print(f"kernloop: {mark(result.verdict)}: {escape(result.summary)}")
        if result.next:
            err.print(f"  [bold]next:[/] {escape(result.next)}")


def _ignore(data: bytes) -> None:
    pass


def _our_stdin() -> Iterator[bytes]:
    while data := os.read(0, 1 << 16):
        yield data
