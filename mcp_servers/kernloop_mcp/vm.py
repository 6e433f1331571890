# SPDX-License-Identifier: Apache-2.0
"""The server `vm`: kernels, runs, and VMs that live on between calls.

Nothing is kept here that a restart would lose: VMs belong to their supervisors, runs to processes of their own, and
both are found again by name or id. A cancelled `run` ends, a cancelled `vm_exec` kills its command; all else goes on.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from pathlib import Path
from typing import Annotated, Any, Literal

from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ResourceNotFoundError
from mcp_types import CallToolResult
from pydantic import Field

from kernloop import __version__, runs
from kernloop.errors import HarnessError, UsageError
from kernloop.kernel import refs
from kernloop.vm import client, saved, topology
from kernloop.vm.pieces import read_console
from kernloop.vm.request import IDLE_SECONDS, VmRequest, check_name
from kernloop_mcp import views
from kernloop_mcp.detached import Detached
from kernloop_mcp.tools import CALL_SECONDS, Server, Work, Works, answer, decoded, tool, within
from kernloop_mcp.views import OUTPUT_BYTES

__all__ = ["server"]

_INSTRUCTIONS = """Linux kernels in throw-away QEMU guests: this machine's kernel is never touched. `run` for one
command, `vm_start` and `vm_exec` for many. A call returns within 50 s; what takes longer goes on and is asked for
again: follow `next`. Verdicts lost, infra and unknown say nothing about the code under test."""

_WAIT_SECONDS = 40.0
_UP_SECONDS = 7.0

Name = Annotated[str, Field(description="VM")]
Kernel_ = Annotated[str, Field(description="debian:7.2, host, path:BZIMAGE")]
Seconds = Annotated[float, Field(gt=0, le=86400)]
Wait = Annotated[float, Field(ge=0, le=45)]
Bytes = Annotated[int, Field(ge=16, le=65536)]
Since = Annotated[int, Field(description="cursor; negative: from the end")]


class Tools:
    """One method a tool; its docstring is what the agent reads."""

    def __init__(self) -> None:
        self._works = Works()

    async def kernels(self, ctx: Context, ref: str = "") -> CallToolResult:
        """Kernels that are cached or can be fetched; with ref: fetch it, its facts."""
        if not ref:
            listed = await self._works.join(ctx, "kernels", views.listed_kernels)
            return answer(**listed) if listed else views.again("looking at what can be fetched")
        found = await self._works.join(ctx, ("kernel", ref), lambda: refs.resolve(ref))
        return answer(**views.kernel_facts(found)) if found else views.again(f"fetching {ref}")

    async def run(
        self,
        ctx: Context,
        command: Annotated[str, Field(description="for the guest's sh", min_length=1)],
        kernel: Kernel_ = refs.DEFAULT,
        cpus: str = "2",
        memory_mib: int = 512,
        timeout: Seconds = 120,
        files: Annotated[list[str], Field(description="host files to take along to /root")] = [],  # noqa: B006 never changed; pydantic copies it
        append: Annotated[str, Field(description="kernel command line")] = "",
        seed: Annotated[int, Field(description=">=0: virtual time, repeatable")] = -1,
    ) -> CallToolResult:
        """Boot a fresh guest, run one command, say the verdict: pass, command-failed, oops, panic, hang, ... There is
        busybox only."""
        words = ["run", "--json", "--kernel", kernel, "--cpus", cpus, "--memory", str(memory_mib)]
        words += ["--timeout", str(timeout), *(word for file in files for word in ("--with", file))]
        words += [*(word for text in append.split() for word in ("--append", text))]
        words += ["--seed", str(seed)] if seed >= 0 else []
        child = Detached([*words, "--", "sh", "-c", command])
        work = Work(child.wait, doing=lambda: child.doing)
        try:
            if await within(ctx, work):
                return views.run_verdict(work.result())
        except asyncio.CancelledError:
            child.end()
            raise
        path = await asyncio.to_thread(child.run)
        if path is None:
            raise HarnessError(f"the run has not begun: {child.doing}", hint="runs")
        return answer(state="running", run=path.name, doing=child.doing, next=f"runs(id={path.name!r})")

    async def runs(self, ctx: Context, id: str = "", timeout: Wait = _WAIT_SECONDS) -> CallToolResult:
        """Newest runs; with id (or "last"): wait for its verdict."""
        if not id:
            found = await asyncio.to_thread(runs.listing)
            return answer(runs=[views.run_line(run) for run in found[:12]], total=len(found))
        path = await asyncio.to_thread(runs.find, id)
        if not await within(ctx, Work(lambda: runs.wait_until_over(path, timeout)), timeout + 1) or runs.is_live(path):
            return answer(state="running", run=path.name, next=f"runs(id={path.name!r})")
        return views.run_verdict(runs.read_json(path / "verdict.json"))

    async def vm_start(
        self,
        ctx: Context,
        name: str = "",
        kernel: Kernel_ = refs.DEFAULT,
        backend: Annotated[Literal["micro", "vng"], Field(description="vng: this machine's user space")] = "micro",
        cpus: str = "2",
        memory_mib: int = 512,
        append: str = "",
        seed: int = -1,
        kgdb: Annotated[bool, Field(description="serial port for it")] = False,
        idle: Annotated[float, Field(gt=0, description="stop after so many idle seconds")] = IDLE_SECONDS,
    ) -> CallToolResult:
        """Start a VM that lives on between calls, until vm_stop."""
        shape = topology.numa(topology.parse_cpus(cpus), memory_mib, (), ())
        words = tuple(append.split())
        virtual = seed if seed >= 0 else None
        request = VmRequest(
            name, backend, kernel, shape, memory_mib, words, virtual, idle=idle, folder=str(Path.cwd()), kgdb=kgdb
        )
        return await self._start(ctx, request)

    async def vm_restore(self, ctx: Context, tag: str, name: str = "") -> CallToolResult:
        """Start a VM from a snapshot."""
        await asyncio.to_thread(saved.load, tag)
        return await self._start(ctx, VmRequest(name, tag=tag))

    async def _start(self, ctx: Context, request: VmRequest) -> CallToolResult:
        if request.name:
            check_name(request.name, "VM")
        name = request.name or f"vm-{secrets.token_hex(2)}"
        request = VmRequest.of_json({**request.as_json(), "name": name})
        work: Work[client.VM] = Work(lambda: client.start(request, say=lambda what: setattr(work, "said", what)))
        if not await within(ctx, work):
            return answer(state="starting", name=name, doing=work.said, next=f"vm_wait({name!r}, 'up')")
        info = await asyncio.to_thread(work.result().info)
        return answer(next=f"vm_exec({name!r}, ...)", **views.vm_row(info))

    async def vm_list(self, ctx: Context) -> CallToolResult:
        """VMs that run, and snapshots."""
        work = Work(client.listing)
        if not await within(ctx, work):
            raise HarnessError("the VMs do not answer", hint="vm_list again")
        tags = [{"tag": one.tag, "minutes_old": round(one.age / 60)} for one in saved.tags()]
        found = [views.vm_row(info) for info in work.result()]
        return answer(vms=found, snapshots=tags, next="" if found else "no VM runs: vm_start")

    async def vm_exec(
        self,
        ctx: Context,
        name: Name,
        command: Annotated[str, Field(description="for the guest's sh", min_length=1)],
        timeout: Annotated[float, Field(gt=0, le=86400, description="seconds, then killed")] = 120,
        background: bool = False,
        cwd: str = "/root",
    ) -> CallToolResult:
        """Run a command in a VM. What takes longer than 40 s becomes a job: vm_job."""
        vm = await self._vm(ctx, name)
        job = await asyncio.to_thread(vm.exec_background, ["sh", "-c", command], timeout=timeout, cwd=cwd)
        then = f"vm_job({name!r}, {job})"
        if background:
            return answer(state="running", job=job, next=then)
        try:
            if not await within(ctx, Work(lambda: vm.job(job, timeout=CALL_SECONDS))):
                return answer(state="running", job=job, next=then)
        except asyncio.CancelledError:
            Work(lambda: vm.kill(job), hold=True)
            raise
        return views.job_state(vm, job, "both", -OUTPUT_BYTES, OUTPUT_BYTES)

    async def vm_job(
        self,
        ctx: Context,
        name: Name,
        job: int,
        timeout: Wait = 0,
        stream: Literal["stdout", "stderr"] = "stdout",
        since: Since = 0,
        bytes: Bytes = OUTPUT_BYTES,
    ) -> CallToolResult:
        """Wait for a job; its output from a cursor on. Also after the VM's end."""
        vm = await asyncio.to_thread(client.last, name)
        if runs.is_live(vm.run):
            work = Work(lambda: vm.job(job, timeout=timeout))
            try:
                if await within(ctx, work, timeout + 2):
                    work.result()
            except UsageError:
                raise
            except HarnessError:
                if not await asyncio.to_thread(vm.ended):
                    raise
        return await asyncio.to_thread(views.job_state, vm, job, stream, since, bytes)

    async def vm_console(
        self,
        name: Annotated[str, Field(description="VM or run id")],
        since: Since = -OUTPUT_BYTES,
        bytes: Bytes = OUTPUT_BYTES,
        grep: Annotated[str, Field(description="regex for lines")] = "",
    ) -> CallToolResult:
        """Serial console, also of one that ended."""
        path = await asyncio.to_thread(_console_of, name)
        begin = 0 if grep and since == -OUTPUT_BYTES else since
        piece = await asyncio.to_thread(read_console, path, since=begin, limit=bytes, grep=grep)
        text, cursor = (decoded(piece)[0], piece.cursor) if grep else decoded(piece)
        return answer(cursor=cursor, more=piece.more, start=piece.start, text=text)

    async def vm_wait(
        self,
        ctx: Context,
        name: Name,
        until: Annotated[str, Field(description="up, report (oops, warning, stall), exit, or regex of a console line")],
        since: Annotated[int, Field(description="cursor; for report -1: only new ones")] = 0,
        timeout: Wait = _WAIT_SECONDS,
    ) -> CallToolResult:
        """Wait for something to happen in a VM."""
        began = time.monotonic()
        vm = await asyncio.to_thread(client.last, name)
        up = Work(lambda: runs.is_live(vm.run) and vm.wait_up(timeout=timeout))
        if not await within(ctx, up, timeout + 1) or (runs.is_live(vm.run) and not up.result()):
            return answer(matched=False, state="starting", next=f"vm_wait({name!r}, {until!r})")
        if not up.result():
            ended = runs.read_json(vm.run / "verdict.json")
            return answer(matched=until == "exit", state="ended", **views.ended(ended))
        if until == "up":
            return answer(
                matched=True, next=f"vm_exec({name!r}, ...)", **views.vm_row(await asyncio.to_thread(vm.info))
            )
        left = max(timeout - (time.monotonic() - began), 0.1)
        waits = {
            "report": lambda: vm.wait_report(timeout=left, new=since < 0),
            "exit": lambda: vm.wait_exit(timeout=left),
        }
        work = Work(waits.get(until, lambda: vm.wait_for(until, since=since, timeout=left)))
        if not await within(ctx, work, left + 3):
            raise HarnessError(f"the VM {name} does not answer", hint="vm_list")
        found = work.result()
        again = f"vm_wait({name!r}, {until!r}, since={found.cursor})"
        then = f"vm_console({name!r}, since={max(found.cursor - OUTPUT_BYTES, 0)})"
        return answer(
            matched=found.matched,
            line=found.line,
            cursor=found.cursor,
            state=found.state,
            next=then if found.matched or found.state != "running" else again,
        )

    async def vm_push(self, ctx: Context, name: Name, source: str, target: str = "/root/") -> CallToolResult:
        """Copy a host file or folder into a VM."""
        vm = await self._vm(ctx, name)

        def push() -> bool:
            vm.push(Path(source), target)
            return True

        done = await self._works.join(ctx, ("push", name, source, target), push)
        return answer(pushed=source, to=target) if done else views.again("copying")

    async def vm_pull(self, ctx: Context, name: Name, source: str, target: str = ".") -> CallToolResult:
        """Copy a guest file or folder to the host."""
        vm = await self._vm(ctx, name)

        def pull() -> bool:
            vm.pull(source, Path(target))
            return True

        done = await self._works.join(ctx, ("pull", name, source, target), pull)
        return answer(pulled=source, to=str(Path(target).absolute())) if done else views.again("copying")

    async def vm_snapshot(self, ctx: Context, name: Name, tag: str) -> CallToolResult:
        """Save a VM's state, to restore any number of times; it goes on."""
        vm = await self._vm(ctx, name)
        done = await self._works.join(ctx, ("snapshot", name, tag), lambda: vm.snapshot(tag))
        return answer(next=f"vm_restore({tag!r})", **done) if done else views.again("saving")

    async def vm_dump(self, ctx: Context, name: Name, path: str = "") -> CallToolResult:
        """Write a vmcore, also of a panicked VM."""
        vm = await self._vm(ctx, name)
        done = await self._works.join(ctx, ("dump", name, path), lambda: vm.dump(Path(path) if path else None))
        return answer(**done) if done else views.again("dumping")

    async def vm_control(
        self,
        ctx: Context,
        name: Name,
        action: Literal["sysrq", "nmi", "pause", "resume", "kill"],
        keys: Annotated[str, Field(description="sysrq: l w t c ...")] = "l",
        job: Annotated[int, Field(description="to kill")] = 0,
    ) -> CallToolResult:
        """SysRq (answers on the console), NMI (the kernel panics), pause or resume the vCPUs, kill a job."""
        vm = await self._vm(ctx, name)
        acts: dict[str, Any] = {
            "sysrq": lambda: vm.sysrq(keys),
            "nmi": vm.nmi,
            "pause": vm.pause,
            "resume": vm.resume,
            "kill": lambda: vm.kill(job),
        }
        work = Work(acts[action])
        if not await within(ctx, work):
            return answer(state="under way", next=f"vm_console({name!r}) shows what it says; do not send it again")
        cursor = work.result()
        then = f"vm_console({name!r}, since={cursor})" if cursor is not None else ""
        return answer(done=action, cursor=cursor, next=then)

    async def vm_stop(self, name: Name) -> CallToolResult:
        """Stop a VM; its memory is lost, console and outputs stay."""
        vm = await asyncio.to_thread(client.find, name)
        return answer(**views.ended(await asyncio.to_thread(vm.stop)))

    # The live VM; one that is starting is waited for.
    async def _vm(self, ctx: Context, name: str) -> client.VM:
        try:
            vm = await asyncio.to_thread(client.find, name)
        except UsageError:
            vm = await asyncio.to_thread(client.last, name)
            ended = runs.read_json(vm.run / "verdict.json")
            raise UsageError(
                f"the VM {name} has ended: {ended.get('verdict')}: {ended.get('summary')}",
                hint=f"vm_console({name!r}) shows how; vm_start another",
            ) from None
        up = Work(lambda: vm.wait_up(timeout=_UP_SECONDS))
        if not await within(ctx, up, _UP_SECONDS + 1) or not up.result():
            raise HarnessError(f"the VM {name} is still starting", hint=f"vm_wait({name!r}, 'up')")
        return vm


def server() -> Server:
    """The server, ready to `run()`."""
    tools = Tools()
    made = Server(
        "kernloop-vm",
        instructions=_INSTRUCTIONS,
        version=__version__,
        log_level="WARNING",
        tools=[
            tool(tools.run),
            tool(tools.runs, reads=True),
            tool(tools.kernels, reads=True),
            tool(tools.vm_start),
            tool(tools.vm_list, reads=True),
            tool(tools.vm_exec),
            tool(tools.vm_job, reads=True),
            tool(tools.vm_console, reads=True),
            tool(tools.vm_wait, reads=True),
            tool(tools.vm_push),
            tool(tools.vm_pull, destroys=True),
            tool(tools.vm_snapshot, destroys=True),
            tool(tools.vm_restore),
            tool(tools.vm_dump),
            tool(tools.vm_control, destroys=True),
            tool(tools.vm_stop, destroys=True),
        ],
    )
    made.resource("kernloop://vm/{name}/console", name="console", description="The end of a VM's serial console")(
        _console
    )
    made.resource("kernloop://run/{id}/verdict", name="verdict", mime_type="application/json")(_result)
    return made


def _console(name: str) -> str:
    try:
        return decoded(read_console(_console_of(name), since=-16384))[0]
    except HarnessError as error:
        raise ResourceNotFoundError(error.message) from None


def _result(id: str) -> str:
    try:
        return json.dumps(runs.read_json(runs.find(id) / "verdict.json"), indent=2)
    except HarnessError as error:
        raise ResourceNotFoundError(error.message) from None


# The folder that has the console of a VM or of a run.
def _console_of(name: str) -> Path:
    try:
        return client.last(name).run
    except UsageError as error:
        try:
            return runs.find(name)
        except UsageError:
            raise error from None
