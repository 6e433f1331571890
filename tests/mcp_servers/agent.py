# SPDX-License-Identifier: Apache-2.0
"""The servers, talked to by the client of the `mcp` package: in this process, or over stdio as an agent does."""

from __future__ import annotations

import os
import sys
from contextlib import AbstractAsyncContextManager
from importlib import import_module
from typing import Any

import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters
from mcp_types import TextContent

from kernloop_mcp.tools import Server
from support import python_env


class Agent:
    """A connected client. `call` gives the object of an answer, `refused` the text of an error."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.progress: list[str] = []

    async def call(self, tool: str, /, **arguments: Any) -> dict[str, Any]:
        done = await self.client.call_tool(tool, arguments, progress_callback=self._heard)
        assert not done.is_error, done.content
        assert isinstance(done.structured_content, dict)
        return done.structured_content

    async def refused(self, tool: str, /, **arguments: Any) -> str:
        done = await self.client.call_tool(tool, arguments)
        assert done.is_error, done.content
        [content] = done.content
        assert isinstance(content, TextContent)
        return content.text

    async def _heard(self, progress: float, total: float | None, message: str | None) -> None:
        self.progress.append(f"{progress:g} of {total}: {message}")


async def again(agent: Agent, tool: str, **arguments: Any) -> dict[str, Any]:
    """The same call until it is answered."""
    while "state" in (answer := await agent.call(tool, **arguments)):
        assert answer["next"] == "the same call again waits for it"
    return answer


async def finished(agent: Agent, answer: dict[str, Any]) -> dict[str, Any]:
    """What became of it: as an agent does, `wait` until there is a verdict."""
    while answer.get("state") == "running":
        answer = await agent.call("wait", id=answer["run"], since=answer["cursor"])
    return answer


def here(server: str = "vm") -> AbstractAsyncContextManager[Client]:
    """A server in this process."""
    made: Server = import_module(f"kernloop_mcp.{server}").server()
    return Client(made)


def over_stdio(server: str = "vm") -> AbstractAsyncContextManager[Client]:
    """A server as an agent starts it."""
    words = ["-m", "kernloop", "mcp", server]
    return Client(StdioServerParameters(command=sys.executable, args=words, env=python_env(**os.environ)))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
