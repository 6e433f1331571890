# SPDX-License-Identifier: Apache-2.0
"""Verbs of the command line as tools: each call is a process of its own.

What has a run directory outlives the server, and `wait` finds it again. Whoever cancels the call that began one ends
it, as Ctrl-C does; a cancelled `wait` ends nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from mcp.server.mcpserver import Context
from mcp_types import CallToolResult
from pydantic import Field

from kernloop import runs
from kernloop.errors import HarnessError, UsageError
from kernloop_mcp.detached import Detached
from kernloop_mcp.fitted import Json, Parts, over, under_way
from kernloop_mcp.tools import Work, Works, answer, within

__all__ = ["VerbTools", "again"]

_WAIT_SECONDS = 40.0
_END_SECONDS = 30.0
_VERDICT_SECONDS = 5.0


class VerbTools:
    """What servers share whose tools are verbs, called `about`; `verbs` says what their objects answer."""

    verbs: Mapping[str, Callable[[Json], Parts]]
    about: str

    def __init__(self) -> None:
        self._works = Works()

    async def wait(
        self,
        ctx: Context,
        id: Annotated[str, Field(description="run; newest if empty")] = "",
        timeout: Annotated[float, Field(ge=0, le=45)] = _WAIT_SECONDS,
        since: Annotated[int, Field(ge=0, description="cursor")] = 0,
        skip: Annotated[int, Field(ge=0, description="errors, tests, steps seen")] = 0,
    ) -> CallToolResult:
        """Wait for what was begun: its progress, or its verdict."""
        path = await asyncio.to_thread(self._found, id)
        work = Work(lambda: runs.wait_until_over(path, timeout), doing=lambda: runs.doing(path))
        if not await within(ctx, work, timeout + 1) or runs.is_live(path):
            return await asyncio.to_thread(under_way, path, runs.doing(path), since)
        value = await asyncio.to_thread(runs.wait_for_verdict, path, _VERDICT_SECONDS)
        return over(value, self.verbs[runs.read_json(path / "spec.json")["verb"]], skip)

    async def stop(self, ctx: Context, id: str) -> CallToolResult:
        """End what was begun; what is built stays, a bisection can be resumed."""
        path = await asyncio.to_thread(self._found, id)
        await asyncio.to_thread(runs.end_owner, path)
        return await self.wait(ctx, path.name, _END_SECONDS)

    # A verb with a run directory. It goes on behind a call that is late, not behind one that is cancelled.
    async def _run(self, ctx: Context, words: list[str], verb: str, behind: Sequence[str] = ()) -> CallToolResult:
        child = Detached([*words, "--json", *(["--", *behind] if behind else [])])
        work = Work(child.wait, doing=lambda: child.doing)
        try:
            if await within(ctx, work):
                return over(work.result(), self.verbs[verb])
        except asyncio.CancelledError:
            child.end()
            raise
        path = await asyncio.to_thread(child.run)
        if path is None:
            raise HarnessError(f"it has not begun: {child.doing}", hint="wait")
        return under_way(path, child.doing)

    # A verb without one: the same call again waits for it.
    async def _call(self, ctx: Context, words: list[str], given: str = "") -> dict[str, Any] | None:
        begun: list[Detached] = []

        def run() -> dict[str, Any]:
            begun.append(Detached([*words, "--json"], given))
            return begun[0].wait()

        return await self._works.join(ctx, (*words, given), run, lambda: begun[0].doing if begun else "")

    # The run directory of a verb of this server.
    def _found(self, id: str) -> Path:
        known = [run for run in runs.listing() if run.verb in self.verbs]
        if not id and known:
            return known[0].path
        path = runs.find(id) if id else None
        if path is None or path not in [run.path for run in known]:
            raise UsageError(f"no {self.about} is called {id!r}", hint="wait without id: the newest")
        return path


def again(doing: str) -> CallToolResult:
    """The answer for a call that is not over."""
    return answer(state="under way", doing=doing, next="the same call again waits for it")
