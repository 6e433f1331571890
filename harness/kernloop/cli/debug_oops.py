# SPDX-License-Identifier: Apache-2.0
"""`kernloop debug why-oops`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from kernloop.cli.debug_drgn import opened
from kernloop.cli.output import JsonFlag, escape, fail, out, print_json
from kernloop.errors import HarnessError, UsageError

__all__ = ["why_oops"]

_SCHEMA = "kernloop.why-oops/1"
_CALLS = 12
_LINES = 24


def why_oops(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="A run's id, or: last; a console log with --memory.")
    ] = "last",
    memory: Annotated[
        str, typer.Option("--memory", metavar="VM|VMCORE", help="Whose memory; else the run's VM, or its vmcore.")
    ] = "",
    as_json: JsonFlag = False,
) -> None:
    """A crash, and what its registers point to.

    The report, the memory behind each register, the task's stack.

    Without a VM that lives and without a vmcore only what the report says is told.

    Exit status: 0 no crash, 1 there is one, 2 no such run or dump, 125 the memory cannot be read.
    """
    from kernloop.kernel import debugfiles
    from kernloop.present.decoded import brief_lines
    from kernloop.present.logs import decode_crash, found_in, read
    from kernloop.report.crash import most_severe

    try:
        log = read(run)
        crash = most_severe(found_in(log))
        if crash is None:
            raise UsageError(f"{log.name} has no crash", hint="kernloop debug why-hung, if it hangs")
        from kernloop.debug import whyoops

        decoded = decode_crash(crash, log, debugfiles.noted(log.run) if log.run else None)
        told = brief_lines(decoded) if decoded else [str(line) for line in crash.excerpt]
        registers = whyoops.registers_in(log.data[crash.start : crash.end].decode(errors="replace"))
        left = memory or (whyoops.memory_of(log.run) if log.run else None)
        found = None
        if left is not None:
            with opened(str(left) if isinstance(left, (str, Path)) else left.name, False, None) as prog:
                found = whyoops.investigate(prog, crash, registers)
    except HarnessError as error:
        raise fail(error, as_json=as_json, schema=_SCHEMA) from None
    answer: dict[str, Any] = {
        "schema": _SCHEMA,
        "summary": crash.title,
        "kind": crash.kind,
        "function": crash.function,
        "task": f"{crash.comm}[{crash.pid}]" if crash.comm else None,
        "lines": [crash.start_line, crash.end_line],
        "registers": {name: f"{value:#x}" for name, value in registers.items()},
        "report": told[:_LINES],
        "pointers": None,
        "stack": None,
    }
    if found is not None:
        rows = found.pointers
        answer["pointers"] = [
            {"register": one.register, "value": f"{one.value:#x}", "what": one.what, "content": one.content}
            for one in rows
        ]
        answer["stack"] = [str(call) for call in found.stack.calls[:_CALLS]] if found.stack else None
    if as_json:
        print_json(answer)
    else:
        _tell(answer, left)
    raise typer.Exit(1)


def _tell(answer: dict[str, Any], left: object) -> None:
    out.print(f"[bold]{escape(answer['summary'])}[/], {escape(answer['task'] or 'no task')}")
    for line in answer["report"]:
        out.print(escape(f"  {line}"))
    if left is None:
        out.print("its memory is gone: keep the VM (vm start), or take a vmcore of it (vm dump) before it is stopped")
    if answer["pointers"]:
        out.print("what its registers point to now:")
    for one in answer["pointers"] or ():
        out.print(escape(f"  {one['register']:>4} {one['value']}: {one['what']}"))
        if one["content"]:
            out.print(escape(f"       {one['content']}"[:400]))
    if answer["stack"]:
        out.print("where the task is now:")
    for call in answer["stack"] or ():
        out.print(escape(f"  in {call}"))
