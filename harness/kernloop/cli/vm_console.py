# SPDX-License-Identifier: Apache-2.0
"""`kernloop vm console / wait / sysrq / nmi / pause / resume`: a VM from outside."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from kernloop.cli.output import JsonFlag, err, escape, out, print_json
from kernloop.cli.vm_shared import NameArgument, answer_at, done, told, writer
from kernloop.errors import HarnessError
from kernloop.vm import client

__all__ = ["console", "nmi", "pause", "resume", "sysrq", "wait"]


def console(
    name: NameArgument,
    since: Annotated[int, typer.Option(help="From this byte on; negative: so many from the end.")] = 0,
    size: Annotated[int, typer.Option("--bytes", min=1, help="At most so many bytes.")] = 16384,
    grep: Annotated[str, typer.Option(help="Only lines that fit this regular expression.")] = "",
    follow: Annotated[bool, typer.Option("--follow", help="Go on as it comes, until the VM ends.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """The VM's serial console."""
    schema = "kernloop.vm-console/1"
    with told(as_json, schema):
        vm = client.find(name)
        piece = vm.console(since=since, limit=size, grep=grep)
        if as_json:
            print_json(
                {"schema": schema, "text": piece.text, "start": piece.start, "cursor": piece.cursor, "more": piece.more}
            )
            return
        writer(1)(piece.data)
        if follow:
            _follow(vm, piece.cursor, grep)
        elif piece.more:
            err.print(f"there is more: --since {piece.cursor}")


def _follow(vm: client.VM, cursor: int, grep: str) -> None:
    write = writer(1)
    alive = True
    while True:
        piece = vm.console(since=cursor, limit=1 << 20, grep=grep)
        write(piece.data)
        cursor = piece.cursor
        if not piece.more:
            if not alive:
                return
            try:
                alive = vm.wait_for("", since=cursor, timeout=30).state not in ("panicked", "hung", "stopped")
            except HarnessError:
                alive = False


def wait(
    name: NameArgument,
    what: Annotated[str, typer.Option("--for", help="report, exit, or a regular expression for a console line.")],
    since: Annotated[int, typer.Option(help="Look at the console from this byte on.")] = 0,
    timeout: Annotated[float, typer.Option(min=0, help="Seconds to wait.")] = 50.0,
    as_json: JsonFlag = False,
) -> None:
    """Wait for a console line, a kernel report, or the end.

    Exits 124 when it did not come in time.
    """
    schema = "kernloop.vm-wait/1"
    with told(as_json, schema):
        vm = client.find(name)
        if what == "report":
            found = vm.wait_report(timeout=timeout)
        elif what == "exit":
            found = vm.wait_exit(timeout=timeout)
        else:
            found = vm.wait_for(what, since=since, timeout=timeout)
        if as_json:
            print_json({"schema": schema, **dataclasses.asdict(found)})
        elif found.matched:
            out.print(escape(found.line) or f"{name} is {found.state}")
        else:
            err.print(f"not within {timeout:g} s; {escape(name)} is {found.state}; go on with --since {found.cursor}")
    raise typer.Exit(0 if found.matched else 124)


def sysrq(
    name: NameArgument,
    keys: Annotated[str, typer.Argument(help="l CPUs' backtraces, w blocked tasks, t all tasks, c crash, ...")],
    as_json: JsonFlag = False,
) -> None:
    """Magic SysRq: works while user space hangs."""
    with told(as_json, "kernloop.vm-sysrq/1"):
        cursor = client.find(name).sysrq(keys)
        answer_at(name, cursor, as_json, "kernloop.vm-sysrq/1")


def nmi(name: NameArgument, as_json: JsonFlag = False) -> None:
    """An NMI: the kernel panics with a backtrace.

    Even one whose interrupts are off.
    """
    with told(as_json, "kernloop.vm-nmi/1"):
        answer_at(name, client.find(name).nmi(), as_json, "kernloop.vm-nmi/1")


def pause(name: NameArgument, as_json: JsonFlag = False) -> None:
    """Stop a VM's vCPUs."""
    with told(as_json, "kernloop.vm-pause/1"):
        client.find(name).pause()
        done(as_json, "kernloop.vm-pause/1", state="paused")


def resume(name: NameArgument, as_json: JsonFlag = False) -> None:
    """Let a paused VM go on."""
    with told(as_json, "kernloop.vm-resume/1"):
        client.find(name).resume()
        done(as_json, "kernloop.vm-resume/1", state="running")
