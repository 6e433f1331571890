# SPDX-License-Identifier: Apache-2.0
"""What the servers share: tools that cost few tokens, calls that end in time, answers, and errors with their hint."""

from __future__ import annotations

import asyncio
import codecs
import concurrent.futures
import inspect
import json
import re
import threading
import time
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.tools import Tool
from mcp_types import CallToolResult, InputRequiredResult, TextContent, ToolAnnotations
from pydantic import ValidationError

from kernloop.errors import HarnessError
from kernloop.host import progress
from kernloop.vm.pieces import ConsolePiece

__all__ = ["CALL_SECONDS", "Server", "Work", "Works", "answer", "decoded", "tool", "within"]

# Codex ends a call after 60 s, others later; with what a tool does before and after, 50 s are never passed.
CALL_SECONDS = 40.0
_TICK_SECONDS = 2.0
T = TypeVar("T")

# The library's hints name verbs of the command line; an agent that calls tools is told of the tool.
_VERBS = {"sysrq": "control", "nmi": "control", "pause": "control", "resume": "control", "snapshots": "list"}
_ALSO = {
    "kernloop kernel list": "kernels",
    "kernloop runs list": "runs",
    " --name NAME": "",
    "--timeout": "timeout",
    " --kgdb": " kgdb=True",
}
_CALLS = (
    (re.compile(r"kernloop debug kgdb (\S+) enter"), r"control('\1', 'interrupt', by='kgdb')"),
    (re.compile(r"kernloop debug kgdb (\S+) end"), r"control('\1', 'detach')"),
    (re.compile(r"kernloop debug kgdb (\S+) kdb (\w+)"), r"control('\1', 'command', '\2')"),
    (re.compile(r"kernloop debug gdb (\S+) attach"), r"control('\1', 'interrupt')"),
    (re.compile(r"kernloop debug k?gdb (\S+) (\w+)"), r"control('\1', '\2')"),
    (re.compile(r"kernloop debug page (\S+)(?: --since (\d+))?"), r"page('\1', since=\2)"),
    (re.compile(r"kernloop debug (?:why-)?(hung|locks|oops|triage) ([^\s,;]+)"), r"why('\1', '\2')"),
    (re.compile(r"(?:kernloop )?debug (?:why-)?(hung|locks|oops|triage)\b"), r"why('\1')"),
    (re.compile(r"kernloop report (\S+?)(?: --all)?(?=[,;]|$)"), r"report('\1')"),
    (re.compile(r"kernloop kernel build (\S+) --profile (\w+) --fragment (\w+)"), r"build('\1', '\2', ['\3'])"),
    (re.compile(r"kernloop run --kernel (\S+) -- (.+)"), r"run('\2', kernel='\1')"),
    (re.compile(r"kernloop kernel config (\S+) --why (\w+)"), r"config('\1', why=['\2'])"),
    (re.compile(r"kernloop bisect --resume (\S+)"), r"bisect(resume='\1')"),
    (re.compile(r"kernloop kernel patch (\S+) --undo"), r"patch('\1', action='undo')"),
)


class Server(MCPServer[Any]):
    """An MCPServer whose tools answer a HarnessError, and arguments that do not fit, with what to do next."""

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: Context[Any, Any] | None = None
    ) -> CallToolResult | InputRequiredResult:
        known = {tool.name: tool.input_schema["properties"] for tool in await self.list_tools()}
        if name not in known:
            raise ToolError(f"there is no tool {name!r}\nnext: {' '.join(known)}")
        if strange := sorted(set(arguments) - set(known[name])):
            raise ToolError(f"{name} takes no {' '.join(strange)}\nnext: it takes {' '.join(known[name])}")
        try:
            return await super().call_tool(name, arguments, context)
        except ToolError as error:
            cause = error.__cause__
            if isinstance(cause, HarnessError):
                raise ToolError(_told(cause)) from cause
            if isinstance(cause, ValidationError):
                wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in cause.errors())
                raise ToolError(f"{name}: {wrong}\nnext: it takes {' '.join(known[name])}") from cause
            raise


def _told(error: HarnessError) -> str:
    evidence = f"\nevidence: {error.evidence}" if error.evidence else ""
    return f"{error.message}\nnext: {in_tools(error.hint)}{evidence}" if error.hint else f"{error.message}{evidence}"


def in_tools(hint: str) -> str:
    """`hint`, with tools named instead of the command line's verbs."""
    for words, name in _ALSO.items():
        hint = hint.replace(words, name)
    for call, told in _CALLS:
        hint = call.sub(told, hint)
    return re.sub(r"(?:kernloop )?\bvm ([a-z]+)\b", lambda m: f"vm_{_VERBS.get(m[1], m[1])}", hint)


def tool(call: Callable[..., Any], *, reads: bool = False, destroys: bool = False) -> Tool:
    """`call` as a tool, its docstring the description. The schema loses its titles, which say the names once more."""
    hints = ToolAnnotations(read_only_hint=True) if reads else ToolAnnotations(destructive_hint=destroys)
    made = Tool.from_function(
        call, description=" ".join((inspect.getdoc(call) or "").split()), annotations=hints, structured_output=False
    )
    made.parameters.pop("title", None)
    for schema in made.parameters["properties"].values():
        schema.pop("title", None)
    return made


def answer(**fields: object) -> CallToolResult:
    """`fields` in their order, the empty ones left out, as an object and as its JSON."""
    text = json.dumps(_filled(fields), ensure_ascii=False, separators=(",", ":"), default=str)
    return CallToolResult(content=[TextContent(type="text", text=text)], structured_content=json.loads(text))


def _filled(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _filled(field) for name, field in value.items() if field or field == 0}
    return [_filled(one) for one in value] if isinstance(value, list | tuple) else value


def decoded(piece: ConsolePiece) -> tuple[str, int]:
    """The piece's text, and the cursor behind it: what its end cuts in two is left for the next piece."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = decoder.decode(piece.data)
    pending = len(decoder.getstate()[0])
    if not text:  # nothing but the beginning of a character, which nobody has finished
        text, pending = decoder.decode(b"", final=True), 0
    if text.endswith("\r") and text != "\r":  # the other half of the line's end follows
        text, pending = text[:-1], pending + 1
    return text.replace("\r\n", "\n"), piece.cursor - pending


class Work(Generic[T]):
    """A library call in a thread of its own: it goes on when the tool call that began it is late or cancelled.

    What it says of its progress is `said`; or else `doing` tells it.
    """

    def __init__(self, call: Callable[[], T], *, hold: bool = False, doing: Callable[[], str] | None = None) -> None:
        self.said = ""
        self._doing = doing
        self._future: concurrent.futures.Future[T] = concurrent.futures.Future()
        self._call = call
        # The server ends without waiting for it (but with `hold`): what matters goes on in processes of its own.
        threading.Thread(target=self._run, daemon=not hold).start()

    def _run(self) -> None:
        def say(what: str, done: float | None = None, whole: float | None = None) -> None:
            self.said = what if whole is None or done is None else f"{what} ({100 * done / whole:.0f} %)"

        try:
            with progress.heard_by(say):
                self._future.set_result(self._call())
        except BaseException as error:  # noqa: BLE001 whoever asks for the result gets it
            self._future.set_exception(error)

    @property
    def done(self) -> bool:
        return self._future.done()

    @property
    def doing(self) -> str:
        return self.said or (self._doing() if self._doing else "")

    def result(self) -> T:
        """What the call returned, or raises what it raised; only when it is done."""
        return self._future.result(timeout=0)

    async def wait(self, seconds: float) -> None:
        if not self.done:
            waiting = asyncio.wrap_future(self._future)
            # What it raises is `result`'s to tell; asyncio would complain of an error that nobody asked for here.
            waiting.add_done_callback(lambda over: over.cancelled() or over.exception())
            await asyncio.wait({waiting}, timeout=seconds)


class Works:
    """Calls that may take longer than a tool call: the same call again waits for the one that is under way."""

    def __init__(self) -> None:
        self._under_way: dict[Hashable, Work[Any]] = {}

    async def join(
        self,
        ctx: Context,
        key: Hashable,
        call: Callable[[], T],
        doing: Callable[[], str] | None = None,
        seconds: float | None = None,
    ) -> T | None:
        """What `call` returns; None when that takes longer than `seconds`, or than a tool call may."""
        work: Work[T] = self._under_way.get(key) or Work(call, doing=doing)
        self._under_way[key] = work
        if not await within(ctx, work, seconds):
            return None
        del self._under_way[key]
        return work.result()


async def within(ctx: Context, work: Work[Any], seconds: float | None = None) -> bool:
    """Whether `work` is done within `seconds` (CALL_SECONDS); meanwhile the client hears that it goes on."""
    began = time.monotonic()
    seconds = CALL_SECONDS if seconds is None else seconds
    while not work.done and (passed := time.monotonic() - began) < seconds:
        await work.wait(min(_TICK_SECONDS, seconds - passed))
        if not work.done:
            await ctx.report_progress(round(time.monotonic() - began, 1), seconds, work.doing or None)
    return work.done
