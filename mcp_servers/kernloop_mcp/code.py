# SPDX-License-Identifier: Apache-2.0
"""The server `code`: configure, build, patch and check kernel source; selftests; the commit that broke something."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from mcp.server.mcpserver import Context
from mcp_types import CallToolResult
from pydantic import Field

from kernloop import __version__
from kernloop.errors import UsageError
from kernloop.kernel import refs
from kernloop_mcp import code_views
from kernloop_mcp.tools import Server, tool
from kernloop_mcp.verbs import VerbTools, again

__all__ = ["server"]

_INSTRUCTIONS = """From kernel source to a verdict: edit, `build`, run the kernel `tree:DIR` in a guest (server
kernloop-vm). Trees stay clean: objects lie elsewhere. A call returns within 50 s; builds, selftests and bisections go
on, and `wait` asks for them: follow `next`. Verdicts infra, inconclusive and unknown say nothing about the code."""

Tree = Annotated[str, Field(description="source folder")]
Profile = Literal["tiny", "test", "debug"]
Names = Annotated[list[str], Field(description="fragments by name (kasan lockdep kunit ...) or file")]
Settings = Annotated[list[str], Field(description="KASAN=y")]


class Tools(VerbTools):
    """One method a tool; its docstring is what the agent reads."""

    verbs = code_views.VERBS
    about = "build, selftest or bisection"

    async def build(
        self,
        ctx: Context,
        tree: Tree,
        profile: Annotated[Profile, Field(description="tiny: fastest; test: modules, host user space")] = "test",
        fragments: Names = [],  # noqa: B006 never changed; pydantic copies it
        config: Settings = [],  # noqa: B006
        base: Annotated[str, Field(description="whole .config instead of profile")] = "",
        llvm: bool = False,
        module: Annotated[str, Field(description="only fs/ext4, or a folder outside; loads it in a guest")] = "",
        command: Annotated[str, Field(description="with module: what uses it, for the guest's sh")] = "",
    ) -> CallToolResult:
        """Build a kernel, only what changed; it is then the kernel tree:DIR. Errors come as file, line, function."""
        words = ["kernel", "build", tree, *_wish(profile, fragments, config, base, llvm)]
        behind = ["sh", "-c", command] if command else []
        if module:
            return await self._run(ctx, [*words, "--module", module], "module", behind)
        return await self._run(ctx, words, "build", behind)

    async def config(
        self,
        ctx: Context,
        tree: Tree,
        why: Annotated[list[str], Field(description="symbols: why are they off, or on?")],
        profile: Profile = "test",
        fragments: Names = [],  # noqa: B006
        config: Settings = [],  # noqa: B006
        base: str = "",
        llvm: bool = False,
    ) -> CallToolResult:
        """Configure without building; why a symbol is as it is, to the unmet dependency."""
        words = ["kernel", "config", tree, *_wish(profile, fragments, config, base, llvm)]
        found = await self._call(ctx, [*words, *_each("--why", why)])
        return code_views.config(found) if found else again("configuring")

    async def patch(
        self,
        ctx: Context,
        tree: Tree,
        patch: Annotated[str, Field(description="diff, mail or mbox: text, or a file's path")] = "",
        action: Literal["apply", "check", "undo"] = "apply",
        allow_dirty: bool = False,
    ) -> CallToolResult:
        """Apply a patch whole or not at all, with checkpatch; rejects explained hunk by hunk; undo the last."""
        text = "\n" in patch
        file = "-" if text else str(Path(patch).absolute()) if patch else ""
        words = ["kernel", "patch", tree, *([file] if file else [])]
        words += [] if action == "apply" else [f"--{action}"]
        found = await self._call(ctx, [*words, *(["--allow-dirty"] if allow_dirty else [])], patch if text else "")
        return code_views.patch(found) if found else again("applying")

    async def series(
        self,
        ctx: Context,
        tree: Tree,
        commits: Annotated[str, Field(description="BASE..TIP; what upstream lacks")] = "",
        before: Annotated[str, Field(description="version before, for range-diff")] = "",
        build: Literal["none", "files", "full"] = "files",
    ) -> CallToolResult:
        """Is each commit fit to be sent: builds alone, signed, Fixes: resolves, checkpatch."""
        words = ["git", "series", "check", tree, *([commits] if commits else []), "--build", build]
        found = await self._call(ctx, [*words, *(["--before", before] if before else [])])
        return code_views.series(found) if found else again("checking commits")

    async def selftest(
        self,
        ctx: Context,
        tests: Annotated[list[str], Field(description="TARGET or TARGET:TEST; kunit: one pattern, or none")],
        suite: Literal["kselftest", "kunit"] = "kselftest",
        kernel: Annotated[str, Field(description="tree:DIR, debian:7.2, path:BZIMAGE")] = refs.DEFAULT,
        tree: Annotated[str, Field(description="source of the tests; kunit: also build it")] = "",
        timeout: Annotated[float, Field(gt=0, description="seconds for all")] = 1800,
    ) -> CallToolResult:
        """Run the kernel's own selftests or KUnit in a guest; what did not pass, and what it said."""
        if suite == "kunit" and len(tests) > 1:
            raise UsageError("kunit takes one pattern", hint="tests=['list*']")
        words = [suite, *tests, "--kernel", kernel, "--timeout", str(timeout)]
        return await self._run(ctx, [*words, *(["--tree", tree] if tree else [])], suite)

    async def bisect(
        self,
        ctx: Context,
        tree: Tree = ".",
        good: str = "",
        bad: str = "HEAD",
        command: Annotated[str, Field(description="for the guest's sh: 0 good, 125 skip, else bad")] = "",
        signature: Annotated[str, Field(description="only this failure: regex, KIND@FUNCTION, verdict:panic")] = "",
        runs: Annotated[int, Field(ge=1, description="of each commit, if flaky")] = 1,
        host: Annotated[bool, Field(description="command on this machine, no guest")] = False,
        profile: Profile = "test",
        fragments: Names = [],  # noqa: B006
        config: Settings = [],  # noqa: B006
        timeout: Annotated[float, Field(gt=0, description="of the command")] = 120,
        good_config: Annotated[str, Field(description="with bad_config: .config files; finds the symbol")] = "",
        bad_config: str = "",
        resume: Annotated[str, Field(description="run id, or last: go on with it")] = "",
    ) -> CallToolResult:
        """Find the first bad commit: each is built, booted and judged in a worktree of its own."""
        if resume:
            return await self._run(ctx, ["bisect", "--resume", resume], "bisect")
        words = ["bisect", tree, "--bad", bad, "--runs", str(runs), *(["--good", good] if good else [])]
        configs = {"--good-config": good_config, "--bad-config": bad_config}
        words += [word for option, file in configs.items() if file for word in (option, file)]
        words += [*_wish(profile, fragments, config, "", False), "--timeout", str(timeout)]
        words += [*(["--signature", signature] if signature else []), *(["--host"] if host else [])]
        return await self._run(ctx, words, "bisect", ["sh", "-c", command] if command else [])


def _wish(profile: str, fragments: list[str], config: list[str], base: str, llvm: bool) -> list[str]:
    words = ["--profile", profile, *_each("--fragment", fragments), *_each("--config", config)]
    return [*words, *(["--base", base] if base else []), *(["--llvm"] if llvm else [])]


def _each(option: str, values: Sequence[str]) -> list[str]:
    return [word for value in values for word in (option, value)]


def server() -> Server:
    """The server, ready to `run()`."""
    tools = Tools()
    return Server(
        "kernloop-code",
        instructions=_INSTRUCTIONS,
        version=__version__,
        log_level="WARNING",
        tools=[
            tool(tools.build),
            tool(tools.config),
            tool(tools.patch, destroys=True),
            tool(tools.series, reads=True),
            tool(tools.selftest),
            tool(tools.bisect),
            tool(tools.wait, reads=True),
            tool(tools.stop, destroys=True),
        ],
    )
