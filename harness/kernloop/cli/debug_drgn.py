# SPDX-License-Identifier: Apache-2.0
"""`kernloop debug why-hung`, `locks` and `drgn`: what the memory of a guest, or of a vmcore, says."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kernloop.cli.output import JsonFlag, escape, fail, out, print_json, progress
from kernloop.debug.session import client
from kernloop.errors import HarnessError, UsageError

if TYPE_CHECKING:
    from drgn import Program

    from kernloop.debug.target import Dwarf

__all__ = ["drgn", "locks", "opened", "why_hung"]

_Subject = Annotated[str, typer.Argument(metavar="VM|VMCORE", help="A VM of vm list, or a file of vm dump.")]
_Hold = Annotated[bool, typer.Option("--hold", help="Let the guest stand still while it is read.")]
_Files = Annotated[list[Path] | None, typer.Option("--symbols", help="A module's .ko, for the names of its data.")]
_SECONDS = client.SECONDS
_Timeout = Annotated[float, typer.Option(min=0.1, help="Seconds after which a question is ended.")]


def why_hung(
    subject: _Subject,
    hold: _Hold = False,
    symbols: _Files = None,
    timeout: _Timeout = _SECONDS,
    as_json: JsonFlag = False,
) -> None:
    """Why tasks or CPUs do not go on: locks, holders, waiters.

    Lost wake-ups and stalls of the scheduler as well.

    The guest need do nothing for it: it may hang, be paused or dead.

    Exit status: 0 also when nothing hangs, 2 no such VM or dump, 125 the memory cannot be read.
    """
    schema = "kernloop.why-hung/1"
    try:
        if symbols:
            with opened(subject, hold, symbols) as prog:
                from kernloop.debug import told, whyhung

                found = told.hung(whyhung.investigate(prog))
        else:
            found = client.attach(subject).why_hung(hold=hold, timeout=timeout)
    except HarnessError as error:
        raise fail(error, as_json=as_json, schema=schema) from None
    if as_json:
        print_json({"schema": schema, **found})
    else:
        _tell_hung(found)


def locks(
    subject: _Subject,
    hold: _Hold = False,
    symbols: _Files = None,
    timeout: _Timeout = _SECONDS,
    as_json: JsonFlag = False,
) -> None:
    """Locks that are waited for, with holder and queue.

    Exit status: 0 also when there is none, 2 no such VM or dump, 125 the memory cannot be read.
    """
    schema = "kernloop.locks/1"
    try:
        if symbols:
            with opened(subject, hold, symbols) as prog:
                from kernloop.debug import told

                found = told.locks(prog)
        else:
            found = client.attach(subject).locks(hold=hold, timeout=timeout)
    except HarnessError as error:
        raise fail(error, as_json=as_json, schema=schema) from None
    if as_json:
        print_json({"schema": schema, **found})
        return
    if not found["locks"] and not found["spinlocks"]:
        out.print("no task sleeps for a lock, no CPU spins for one")
    for lock in found["locks"]:
        held = f"held by {lock['holder']}" if lock["holder"] else "free" if lock["free"] else "of no known holder"
        unsure = " (not sure)" if lock["holder"] and not lock["sure"] else ""
        out.print(escape(f"{_named(lock['kind'], lock)}: {held}{unsure}; waits: {', '.join(lock['waiters'])}"))
    for one in found["spinlocks"]:
        held = ", ".join(f"{each['who']} ({each['why']})" for each in one["holders"]) or "of no known holder"
        spins = f"{one['waiter']} on CPU {one['cpu']} in {one['function']}"
        out.print(escape(f"{_named('spinlock', one)}: {held}; spins: {spins}"))
    _tell_target(found)


def drgn(
    subject: _Subject,
    script: Annotated[Path | None, typer.Argument(help="A script in Python; `prog` and all helpers are there.")] = None,
    expression: Annotated[str, typer.Option("--expr", "-e", help="An expression instead: its value is shown.")] = "",
    depth: Annotated[int, typer.Option(min=0, max=16, help="So deep into structures.")] = 3,
    limit: Annotated[int, typer.Option(min=1, help="So many elements of a sequence.")] = 32,
    since: Annotated[int, typer.Option(min=0, help="Of a sequence: from this element on.")] = 0,
    hold: _Hold = False,
    symbols: _Files = None,
    vmlinux: Annotated[
        Path | None, typer.Option("--vmlinux", metavar="FILE", help="Types and lines of DWARF, instead of BTF's.")
    ] = None,
    fetch: Annotated[bool, typer.Option("--fetch-debug", help="Fetch that for a kernel of Debian's.")] = False,
    timeout: _Timeout = _SECONDS,
    as_json: JsonFlag = False,
) -> None:
    """An expression or script on a guest's memory.

    The guest runs, or is a vmcore.

    Names: `prog`, drgn's own and its helpers for Linux, and kernloop's: ps(), runqueues(), waits(), stack(task) ...
    `-e 'help()'` lists them. Types and symbols are the kernel's own (BTF, kallsyms): no debugging package is needed.
    What a script leaves in `result` is its value.

    The first call opens a session, which answers the next ones sooner and ends by itself; with --symbols, --vmlinux
    and --fetch-debug there is none.

    Exit status: 0, 1 the expression or script failed, 2 no such VM or dump, 125 the memory cannot be read.
    """
    schema = "kernloop.drgn/1"
    try:
        if bool(script) == bool(expression):
            raise UsageError("a script, or an expression with -e", hint=f"kernloop debug drgn {subject} -e 'ps()'")
        if symbols or vmlinux or fetch:
            from kernloop.debug.target import Dwarf

            dwarf = Dwarf(vmlinux, fetch) if vmlinux or fetch else None
            with progress(quiet=as_json), opened(subject, hold, symbols, dwarf) as prog:
                from kernloop.debug import ask, told

                limits = ask.Limits(depth=depth, elements=limit)
                done = told.answer(
                    prog,
                    ask.evaluate(prog, expression, limits, since)
                    if expression
                    else ask.run(prog, script or Path(), as_json, limits, since),
                )
        else:
            session = client.attach(subject)
            if expression:
                done = session.evaluate(
                    expression, depth=depth, elements=limit, since=since, hold=hold, timeout=timeout
                )
            else:
                done = session.script(
                    script or Path(),
                    depth=depth,
                    elements=limit,
                    since=since,
                    hold=hold,
                    timeout=timeout,
                    printed=None if as_json else _write,
                )
    except HarnessError as error:
        raise fail(error, as_json=as_json, schema=schema) from None
    if as_json:
        print_json({"schema": schema, **{name: one for name, one in done.items() if name != "text"}})
        return
    if expression:
        _write(done["output"])
    if expression or done["value"] is not None:
        _write(done["text"] + "\n")
    if done["next"] is not None:
        of = f" of {done['count']}" if done["count"] is not None else ""
        _write(f"more{of}: --since {done['next']}\n")
    _tell_target(done)


@contextlib.contextmanager
def opened(subject: str, hold: bool, symbols: list[Path] | None, dwarf: Dwarf | None = None) -> Iterator[Program]:
    """The memory of a VM, or of a vmcore, for the block. Raises HarnessError for what makes no sense in it."""
    from drgn import FaultError

    from kernloop.debug import target
    from kernloop.sched.obj.btf import BtfError

    path = Path(subject)
    try:
        if path.is_file():
            yield target.open_core(path, files=symbols or (), dwarf=dwarf)
            return
        from kernloop.vm.client import find

        with target.open_live(find(subject), hold=hold, files=symbols or (), dwarf=dwarf) as prog:
            yield prog
    except (FaultError, LookupError, BtfError) as error:
        hint = "it changed while it was read: try again, or with --hold; or it is damaged"
        raise HarnessError(f"the memory of {subject} does not make sense: {error}", hint=hint) from None


def _tell_hung(found: dict[str, Any]) -> None:
    number = len(found["findings"])
    out.print(escape(found["summary"]) if not number else f"{number} found")
    for one in found["findings"]:
        out.print(f"[bold]{one['kind']}[/]{'' if one['sure'] else ' (likely)'}: {escape(one['text'])}")
        for line in one["evidence"]:
            out.print(escape(f"  {line}"))
    for cpu in found["cpus"]:
        what = "idle" if cpu["idle"] else cpu["current"]
        where = "in user space" if cpu["user"] else " < ".join(cpu["stack"][:4])
        off = ", interrupts off" if cpu["interrupts"] is False and not cpu["idle"] else ""
        out.print(escape(f"CPU {cpu['cpu']}: {what}{off}, {where}"))
    _tell_target(found)


# Whether what was told is of one moment.
def _tell_target(found: dict[str, Any]) -> None:
    how = found["state"]
    if found["held"]:
        how += ", stood still to be read"
    elif not found["still"]:
        how += ", went on while it was read (--hold: stands still)"
    sys.stderr.write(f"  {found['subject']}, {found['release']}: {how}\n")


def _named(kind: str, one: dict[str, Any]) -> str:
    return f"{kind} {one['name']}" if one["name"] else f"{kind} at {one['address']}"


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
