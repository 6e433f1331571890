# SPDX-License-Identifier: Apache-2.0
"""The server `sched`: check and verify sched_ext schedulers, look into one that runs in a VM, what each rule means."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from mcp.server.mcpserver import Context
from mcp_types import CallToolResult
from pydantic import Field

from kernloop import __version__
from kernloop.kernel import refs
from kernloop_mcp import sched_views
from kernloop_mcp.tools import Server, tool
from kernloop_mcp.verbs import VerbTools, again

__all__ = ["server"]

_INSTRUCTIONS = """sched_ext schedulers to a verdict, in guests, in virtual time: same input, same result. Edit,
`check`, `verify(quick=True)`, at the end `verify`; follow `next`. A call returns within 50 s; what takes longer goes
on, `wait` asks for it. Verdicts infra, inconclusive and unknown say nothing about the scheduler."""

Scheduler = Annotated[str, Field(description=".bpf.c, .bpf.o, folder, loader program, or kernel:scx_qmap")]
Vm = Annotated[str, Field(description="VM's name (server vm)")]


class Tools(VerbTools):
    """One method a tool; its docstring is what the agent reads."""

    verbs = sched_views.VERBS
    about = "verification"

    async def check(
        self,
        ctx: Context,
        scheduler: Annotated[str, Field(description=".bpf.c or .bpf.o")],
        kernel: str = refs.DEFAULT,
        skip: Annotated[int, Field(ge=0, description="findings seen")] = 0,
    ) -> CallToolResult:
        """Static checks, without a guest: what the BPF verifier lets through. must: wrong; may; unknown: undecided."""
        found = await self._call(ctx, ["sched", "check", _path(scheduler), "--kernel", kernel])
        return sched_views.check(found, skip) if found else again("checking")

    async def rules(
        self,
        ctx: Context,
        rule: Annotated[str, Field(description="id; empty: all")] = "",
    ) -> CallToolResult:
        """What a rule of `check` means: mistake, what the kernel says of it, cure."""
        found = await self._call(ctx, ["sched", "check", *(["--explain", rule] if rule else ["--rules"])])
        return sched_views.rules(found) if found else again("reading the rules")

    async def verify(
        self,
        ctx: Context,
        scheduler: Scheduler,
        args: Annotated[list[str], Field(description="for its own loader")] = [],  # noqa: B006 never changed
        kernel: Annotated[str, Field(description="several by commas")] = refs.DEFAULT,
        topology: Annotated[str, Field(description="1x2x1 2x4x2 numa4; several by commas")] = "",
        quick: bool = False,
        tests: Annotated[str, Field(description="only these, by commas")] = "",
        claims: Annotated[str, Field(description="weights,cgroups,...; seen of it if empty")] = "",
        seed: Annotated[int, Field(ge=0, description="another interleaving")] = 1,
    ) -> CallToolResult:
        """Compile, check, load, test in a guest, judge: a typed verdict, the cause, the figures against EEVDF."""
        several = {"--kernels" if "," in kernel else "--kernel": kernel, "--topology": topology}
        options = {**several, "--tests": tests, "--claims": claims, "--seed": str(seed)}
        words = [word for option, value in options.items() if value for word in (option, value)]
        words = ["verify", _path(scheduler), *words, *(["--quick"] if quick else [])]
        many = "," in kernel or "," in topology
        return await self._run(ctx, words, "verify-matrix" if many else "verify", args)

    async def show(
        self,
        ctx: Context,
        vm: Vm,
        skip: Annotated[int, Field(ge=0, description="rows seen")] = 0,
    ) -> CallToolResult:
        """The scheduler in a VM's memory, also when it is stuck: DSQs and their tasks, lost tasks, CPUs, BPF maps."""
        found = await self._call(ctx, ["sched", "show", vm])
        return sched_views.show(found, vm, skip) if found else again("reading the guest's memory")

    async def trace(
        self,
        ctx: Context,
        vm: Vm,
        seconds: Annotated[float, Field(gt=0, le=30)] = 3,
        task: Annotated[str, Field(description="regex of names")] = "",
    ) -> CallToolResult:
        """Record switches, wake-ups, DSQ moves in a VM: latencies by task, the worst first; a file for Perfetto."""
        words = ["sched", "trace", vm, "--seconds", f"{seconds:g}", *(["--task", task] if task else [])]
        found = await self._call(ctx, words)
        return sched_views.trace(found) if found else again("recording")


# A path of the caller's folder; a name, as in kernel:scx_qmap or scx_bpfland, as it is.
def _path(scheduler: str) -> str:
    path = Path(scheduler)
    return str(path.absolute()) if path.exists() else scheduler


def server() -> Server:
    """The server, ready to `run()`."""
    tools = Tools()
    return Server(
        "kernloop-sched",
        instructions=_INSTRUCTIONS,
        version=__version__,
        log_level="WARNING",
        tools=[
            tool(tools.check, reads=True),
            tool(tools.rules, reads=True),
            tool(tools.verify),
            tool(tools.wait, reads=True),
            tool(tools.stop, destroys=True),
            tool(tools.show, reads=True),
            tool(tools.trace),
        ],
    )
