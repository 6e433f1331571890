# SPDX-License-Identifier: Apache-2.0
"""The server `debug`: what a kernel reports, and debuggers at VMs and vmcores in one call shape.

Nothing is kept here that a restart would lose: GDB, KGDB and drgn's sessions are processes of their own that any server
finds again, a recording is its VM's. crash is asked in a process for each question, which ends with the server.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Annotated, Any, Literal

from mcp.server.mcpserver import Context
from mcp_types import CallToolResult
from pydantic import Field

from kernloop import __version__
from kernloop.debug.questions import asked, steer
from kernloop.debug.questions.told import Told
from kernloop.debug.session import client as sessions
from kernloop.debug.tracers import pages
from kernloop.errors import HarnessError, UsageError
from kernloop.host import process
from kernloop.vm import client
from kernloop_mcp import debug_report, debug_views, recordings
from kernloop_mcp.tools import Server, Work, Works, answer, tool, within
from kernloop_mcp.verbs import again

__all__ = ["server"]

_INSTRUCTIONS = """Kernel debuggers at VMs (server vm) and vmcores. backtrace, read, tasks, locals go to gdb or kgdb
where it has stopped the guest, else to drgn, which reads memory and stops nothing; `by` and `still` say who answered
and whether the guest stood still. `control` stops and steps: gdb at any VM, also one that hangs; kgdb where vm_start
had kgdb. A stopped guest stays so until control continue or detach. Types, lines, locals need a kernel from a tree."""

_VERB_SECONDS = 600.0
_QUESTION_SECONDS = 120.0
_GRACE_SECONDS = 3.0

Target = Annotated[str, Field(description="VM or vmcore")]
By = Annotated[Literal["", "gdb", "kgdb", "drgn"], Field(description="empty: see above")]
Of = Annotated[str, Field(description="cpus, cpu 1, pid; empty: what stopped")]
What = Annotated[
    str,
    Field(description="place, expression, numbers, .ko files; command: info line, x/8i $pc; interrupt: kdb, no GDB"),
]
Skip = Annotated[int, Field(ge=0, description="rows seen")]
Frame = Annotated[int, Field(ge=0)]


class Tools:
    """One method a tool; its docstring is what the agent reads."""

    def __init__(self) -> None:
        self._works = Works()

    async def report(
        self,
        source: Annotated[str, Field(description="console log, run id, VM, or last")] = "last",
        number: Annotated[int, Field(ge=1, description="which report of the log")] = 1,
        line: Annotated[int, Field(ge=0, description="cursor: its lines from here")] = 0,
    ) -> CallToolResult:
        """What a console reports: kind, guilty function, decoded trace, evidence, next step."""
        return await asyncio.to_thread(debug_report.report, source, number, line)

    async def report_explain(
        self, kind: Annotated[str, Field(description="of a report, or: damaged, silent-hang")]
    ) -> CallToolResult:
        """How to read this kind of report, what to run, what to switch on next time."""
        return debug_report.explained(kind)

    async def backtrace(self, ctx: Context, target: Target, of: Of = "", by: By = "", skip: Skip = 0) -> CallToolResult:
        """Calls of a CPU, of all, or of a task."""
        words = {"subject": target, "of": of, "by": by}
        return await self._ask(ctx, "backtrace", target, skip, lambda: asked.backtrace(**words), words)

    async def read(
        self,
        ctx: Context,
        target: Target,
        what: Annotated[str, Field(description="C for gdb, kgdb: *p, p->scx; drgn: Python, -> too: ps(), help()")],
        of: Of = "",
        frame: Frame = 0,
        depth: Annotated[int, Field(ge=0, le=8)] = 1,
        size: Annotated[int, Field(ge=0, description="bytes at the address `what`")] = 0,
        by: By = "",
        skip: Skip = 0,
    ) -> CallToolResult:
        """An expression's value, struct members as rows; or memory."""
        words: dict[str, Any] = {"what": what, "of": of, "frame": frame, "depth": depth, "size": size, "by": by}
        return await self._ask(
            ctx, "read", target, skip, lambda: asked.read(target, skip=skip, **words), {"target": target, **words}
        )

    async def tasks(
        self,
        ctx: Context,
        target: Target,
        like: Annotated[str, Field(description="regex for rows")] = "",
        by: By = "",
        skip: Skip = 0,
    ) -> CallToolResult:
        """All tasks with what they wait in; those that wait for a CPU or in D first."""
        words = {"like": like, "by": by}
        return await self._ask(
            ctx, "tasks", target, skip, lambda: asked.tasks(target, skip=skip, **words), {"target": target, **words}
        )

    async def locals(
        self, ctx: Context, target: Target, of: Of = "", frame: Frame = 0, by: By = "", skip: Skip = 0
    ) -> CallToolResult:
        """Arguments and variables of a call of the backtrace."""
        words: dict[str, Any] = {"of": of, "frame": frame, "by": by}
        return await self._ask(
            ctx, "locals", target, skip, lambda: asked.local_variables(target, **words), {"target": target, **words}
        )

    async def control(
        self,
        ctx: Context,
        vm: str,
        do: Literal[
            "state", "interrupt", "wait", "continue", "step", "next", "stepi", "nexti", "finish", "until",
            "break", "tbreak", "watch", "breakpoints", "delete", "modules", "command", "detach",
        ],
        what: What = "",
        condition: Annotated[str, Field(description="break: C")] = "",
        count: Annotated[int, Field(ge=1, description="steps; break: stop at this hit")] = 1,
        timeout: Annotated[float, Field(ge=0, le=45, description="for a stop")] = 20,
        since: Annotated[int, Field(description="wait: for a stop after this of `stops`")] = -1,
        by: Annotated[Literal["", "gdb", "kgdb"], Field(description="empty: who is there, else gdb")] = "",
    ) -> CallToolResult:  # fmt: skip
        """Stop a VM's kernel, step, let it go on; attaches when needed. A breakpoint in a running guest is set and it
        runs on: then wait. detach at the end."""
        act = steer.Act(do, what, condition, count, timeout, since)
        seconds = timeout + _GRACE_SECONDS if do in ("wait", "continue") else None
        found = await self._join(ctx, ("control", vm, act, by), lambda: steer.steer(vm, act, by), seconds)
        return debug_views.standing(vm, found) if found else again(f"{do} at {vm}")

    async def why(
        self,
        ctx: Context,
        question: Literal["triage", "hung", "locks", "oops"],
        target: Annotated[str, Field(description="VM or vmcore; triage, oops: also a run")],
        skip: Skip = 0,
    ) -> CallToolResult:
        """Why it crashed or hangs, in one go (triage); who holds, who waits; what a crash's registers point to."""
        if question == "triage":
            text = await self._said(ctx, ["triage", target])
            return again("reading memory and console") if text is None else answer(text=text.rstrip("\n"))
        if question == "oops":
            value = await self._verb(ctx, _oops(target))
        else:
            session = await asyncio.to_thread(sessions.attach, target)
            ask = session.why_hung if question == "hung" else session.locks
            value = await self._join(ctx, ("why", question, target), lambda: ask(timeout=_QUESTION_SECONDS))
        if value is None:
            return again("reading the guest's memory")
        return debug_views.WHY[question](value, f"why({question!r}, {target!r}, skip={{}})", skip)

    async def trace(
        self,
        ctx: Context,
        vm: str,
        program: Annotated[str, Field(description="bpftrace; empty: ftrace")] = "",
        functions: Annotated[list[str], Field(description="globs")] = [],  # noqa: B006 never changed
        graph: Annotated[bool, Field(description="their times")] = False,
        tree: Annotated[list[str], Field(description="functions: all that they call")] = [],  # noqa: B006
        events: Annotated[list[str], Field(description="sched_switch, sched_switch:prev_pid==0")] = [],  # noqa: B006
        seconds: Annotated[float, Field(gt=0, le=3600)] = 2,
    ) -> CallToolResult:
        """Record with bpftrace or ftrace in a VM: maps, counts, times; the heaviest first, all lines in a file."""
        found = await asyncio.to_thread(client.find, vm)
        words = _traced(vm, program, functions, graph, tree, events)
        recording = recordings.begin(found, [*words, "--seconds", f"{seconds:g}"])
        try:
            return await self._recorded(ctx, recording, None)
        except asyncio.CancelledError:
            recording.end()
            raise

    async def trace_wait(
        self,
        ctx: Context,
        id: str,
        timeout: Annotated[float, Field(ge=0, le=45)] = 40,
        stop: Annotated[bool, Field(description="end it now")] = False,
        skip: Skip = 0,
    ) -> CallToolResult:
        """Wait for a recording; what it found."""
        recording = await asyncio.to_thread(recordings.find, id)
        if stop:
            recording.end()
        return await self._recorded(ctx, recording, timeout, skip)

    async def crash(
        self,
        ctx: Context,
        vmcore: str,
        commands: Annotated[list[str], Field(min_length=1, description="bt -a, log, struct ...")],
        fetch: Annotated[bool, Field(description="Debian's debug package, hundreds of MB")] = False,
    ) -> CallToolResult:
        """Ask crash about a vmcore whose vmlinux is known."""
        path = str(Path(vmcore).absolute())
        words = ["crash", path, *commands, "--limit", str(debug_views.of_each(len(commands)))]
        value = await self._verb(ctx, [*words, *(["--fetch-debug"] if fetch else [])])
        return debug_views.crash(value) if value else again("crash reads the dump")

    async def page(
        self,
        path: Annotated[str, Field(description="that an answer named")],
        since: Annotated[int, Field(ge=0, description="cursor")] = 0,
        grep: str = "",
    ) -> CallToolResult:
        """More of a long answer."""
        found = await asyncio.to_thread(pages.read, Path(path), since=since, limit=debug_views.PAGE, grep=grep)
        return debug_views.page(found, path, grep)

    async def _ask(
        self, ctx: Context, tool: str, target: str, skip: int, ask: Callable[[], Told], words: dict[str, Any]
    ) -> CallToolResult:
        words = {"target": target, **{name: value for name, value in words.items() if name != "subject"}}
        told = await self._join(ctx, (tool, skip, *words.items()), ask)
        return debug_views.told(told, tool, words, skip) if told else again(f"{tool} of {target}")

    # Late: the same call again waits for it.
    async def _join(self, ctx: Context, key: Hashable, call: Callable[[], Any], seconds: float | None = None) -> Any:
        return await self._works.join(ctx, key, call, seconds=seconds)

    # A verb of the command line that has no run directory, in a process that ends with us: what it prints.
    async def _said(self, ctx: Context, words: list[str]) -> str | None:
        def call() -> str:
            command = [sys.executable, "-m", "kernloop", "debug", *words]
            done = process.run(command, seconds=_VERB_SECONDS, what=f"debug {words[0]}", check=False)
            if not done.stdout:
                said = done.stderr.strip().splitlines()
                hint = next((line.partition("next:")[2].strip() for line in said if "next:" in line), "")
                first = said[0].removeprefix("kernloop: ") if said else f"exit {done.status}"
                raise (UsageError if done.status == UsageError.exit_code else HarnessError)(first, hint=hint)
            return done.stdout

        found: str | None = await self._join(ctx, tuple(words), call)
        return found

    async def _verb(self, ctx: Context, words: list[str]) -> dict[str, Any] | None:
        text = await self._said(ctx, [*words, "--json"])
        if text is None:
            return None
        try:
            value: dict[str, Any] = json.loads(text)
        except ValueError:
            raise HarnessError(f"debug {words[0]} ended without an answer", hint="the same call again") from None
        return value

    async def _recorded(
        self, ctx: Context, recording: recordings.Recording, seconds: float | None, skip: int = 0
    ) -> CallToolResult:
        waits = 3600.0 if seconds is None else seconds
        work = Work(lambda: recording.wait(waits), doing=lambda: recording.doing)
        if not await within(ctx, work, seconds) or not work.result():
            then = f"trace_wait({recording.id!r}); stop=True ends it now"
            return answer(state="running", id=recording.id, doing=recording.doing, next=then)
        return debug_views.recorded(recording.answer(), recording.id, skip)


def _traced(vm: str, program: str, functions: list[str], graph: bool, tree: list[str], events: list[str]) -> list[str]:
    options = {"--functions": functions, "--tree": tree, "--events": events}
    words = [word for option, names in options.items() for name in names for word in (option, name)]
    words += ["--graph"] if graph else []
    if program and words:
        raise UsageError("a bpftrace program has its probes itself", hint="program, or functions, tree, events")
    return ["debug", "bpftrace", vm, program] if program else ["debug", "ftrace", vm, *words]


# A dump has its report in the run directory that it lies in; a VM in its own.
def _oops(target: str) -> list[str]:
    path = Path(target)
    if path.is_file() and (path.parent / "console.log").exists():
        return ["why-oops", str(path.absolute().parent / "console.log"), "--memory", str(path.absolute())]
    try:
        return ["why-oops", client.last(target).run.name]
    except UsageError:
        return ["why-oops", target]


def server() -> Server:
    """The server, ready to `run()`."""
    tools = Tools()
    return Server(
        "kernloop-debug",
        instructions=_INSTRUCTIONS,
        version=__version__,
        log_level="WARNING",
        tools=[
            tool(tools.report, reads=True),
            tool(tools.report_explain, reads=True),
            tool(tools.backtrace, reads=True),
            tool(tools.read, reads=True),
            tool(tools.tasks, reads=True),
            tool(tools.locals, reads=True),
            tool(tools.control),
            tool(tools.why, reads=True),
            tool(tools.trace),
            tool(tools.trace_wait),
            tool(tools.crash, reads=True),
            tool(tools.page, reads=True),
        ],
    )
