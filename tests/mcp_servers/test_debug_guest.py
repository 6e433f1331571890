# SPDX-License-Identifier: Apache-2.0
"""The server `debug` with guests, by nothing but tools: what an agent sees of a kernel that it stops and lets go on."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from agent import Agent, again, anyio_backend, over_stdio
from mcp.shared.exceptions import MCPError

import trees
from kernloop.kernel import source
from kernloop.sched import compile as compiling
from kernloop.sched import programs
from kernloop.vm import client
from support import ROOT, server_of

__all__ = ["anyio_backend"]

pytestmark = [pytest.mark.anyio, pytest.mark.vm]
SCHEDULER = "fifo"
LOAD = f"printf x | ./scxload {SCHEDULER}.bpf.o; exec sleep 1000"


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    yield
    for info in client.listing():
        client.VM(info.name, info.run).stop()


async def start(vm: Agent, folder: Path) -> None:
    """The VM `a` of the tests' own kernel, with a scheduler and its loader in /root."""
    kernel = trees.kernel()
    kit = source.kit(kernel)
    built = folder / f"{SCHEDULER}.bpf.o"
    compiled = compiling.compile_scheduler(ROOT / f"examples/schedulers/{SCHEDULER}.bpf.c", kit, built)
    assert compiled.object is not None, compiled.text
    assert (await vm.call("vm_start", name="a", kernel=f"tree:{trees.linux()}", kgdb=True))["state"] == "running"
    for file in (programs.loader(kit), built):
        await vm.call("vm_push", name="a", source=str(file))


async def stopped(agent: Agent, **words: Any) -> dict[str, Any]:
    """`wait` until the guest stands still."""
    with anyio.fail_after(180):
        while not (found := await again_by_state(agent, do="wait", timeout=40, **words))["still"]:
            pass
    return found


async def again_by_state(agent: Agent, **words: Any) -> dict[str, Any]:
    """`control`, which is asked again as long as it is under way."""
    while (found := await agent.call("control", vm="a", **words)).get("state") == "under way":
        assert found["next"] == "the same call again waits for it"
    return found


async def alive(vm: Agent) -> None:
    done = await vm.call("vm_exec", name="a", command="echo alive")
    assert done["stdout"] == "alive\n"


async def seen_in_scx_enable(debug: Agent, by: str) -> None:
    calls = await debug.call("backtrace", target="a")
    assert (calls["by"], calls["still"]) == (by, True)
    assert "scx_enable" in calls["frames"][0]
    assert "kernel/sched/ext/ext.c:" in calls["frames"][0]
    found = await debug.call("locals", target="a")
    assert (found["by"], found["still"]) == (by, True)
    assert any(row.startswith("cmd = ") for row in found["locals"])
    name = await debug.call("read", target="a", what="cmd->ops->name")
    assert (name["by"], name["still"]) == (by, True)
    assert SCHEDULER in name["value"][0]
    rows = (await debug.call("read", target="a", what="*cmd->ops", depth=0))["value"]
    assert any(row.startswith("enqueue = ") for row in rows)
    memory = await debug.call("read", target="a", what="&cmd->ops->name", size=8)
    assert memory["bytes"][0].endswith(f"{SCHEDULER.encode().hex()}00000000")
    # drgn reads what gdb and kgdb do not know, of the same guest that stands still.
    listed = await debug.call("tasks", target="a", like="scxload")
    assert (listed["by"], listed["still"]) == ("drgn", True)
    assert "scxload" in listed["tasks"][0]


async def test_a_scheduler_that_loads_is_seen_in_scx_enable_by_gdb_and_by_kgdb(tmp_path: Path) -> None:
    async with over_stdio() as first, over_stdio("debug") as second:
        vm, debug = Agent(first), Agent(second)
        await start(vm, tmp_path)

        begun = await again_by_state(debug, do="tbreak", what="scx_enable")
        assert (begun["state"], begun["by"], begun["still"]) == ("running", "gdb", False)
        job = await vm.call("vm_exec", name="a", command=LOAD, background=True)
        hit = await stopped(debug, since=begun["stops"])
        assert (hit["by"], hit["reason"]) == ("gdb", "breakpoint")
        assert hit["where"].startswith("scx_enable(")
        assert "control" in await vm.refused("vm_exec", name="a", command="true")
        await seen_in_scx_enable(debug, "gdb")
        await again_by_state(debug, do="break", what="enqueue_task_scx", count=3)
        queued = await again_by_state(debug, do="continue", timeout=40)
        queued = queued if queued["still"] else await stopped(debug, since=hit["stops"])
        assert queued["where"].startswith("enqueue_task_scx(")
        assert (await debug.call("read", target="a", what="p->comm"))["value"][0].startswith('"')
        assert (await again_by_state(debug, do="detach"))["state"] == "detached"
        await alive(vm)
        await vm.call("vm_control", name="a", action="kill", job=job["job"])

        entered = await again_by_state(debug, do="interrupt", by="kgdb")
        assert (entered["state"], entered["still"]) == ("in-kgdb", True)
        assert "tmux" in entered["watch"]
        assert "scx_enable" in (await again_by_state(debug, do="break", what="scx_enable"))["found"]["breakpoint"]
        assert not (await again_by_state(debug, do="continue", timeout=0))["still"]
        job = await vm.call("vm_exec", name="a", command=LOAD, background=True)
        hit = await stopped(debug)
        assert (hit["by"], hit["reason"], hit["breakpoint"]) == ("kgdb", "breakpoint", [1])
        assert hit["where"].startswith("scx_enable ")
        await seen_in_scx_enable(debug, "kgdb")
        stepped = await again_by_state(debug, do="next", timeout=40)
        assert stepped["reason"] == "end of step"
        assert (await again_by_state(debug, do="detach"))["state"] == "off"
        await alive(vm)
        await asked_of_kdb(debug)
        await alive(vm)


async def asked_of_kdb(debug: Agent) -> None:
    """The kernel's own shell, without GDB."""
    entered = await again_by_state(debug, do="interrupt", what="kdb", by="kgdb")
    assert (entered["state"], entered["still"]) == ("in-kgdb", True)
    assert "control('a', 'command', 'COMMAND')" in entered["next"]
    assert "init" in (await again_by_state(debug, do="command", what="ps A"))["text"]
    assert (await again_by_state(debug, do="continue", timeout=0))["state"] == "running"
    assert (await again_by_state(debug, do="detach"))["state"] == "off"


async def test_a_guest_is_interrupted_and_a_killed_server_leaves_it_usable(tmp_path: Path) -> None:
    async with over_stdio() as first:
        vm = Agent(first)
        await vm.call("vm_start", name="a", kernel=f"tree:{trees.linux()}")
        async with over_stdio("debug") as second, anyio.create_task_group() as group:
            debug = Agent(second)
            still = await again_by_state(debug, do="interrupt")
            assert (still["by"], still["reason"], still["still"]) == ("gdb", "interrupted", True)
            cpus = await debug.call("backtrace", target="a", of="cpus")
            assert [one["of"] for one in cpus["stacks"]] == ["cpu 0", "cpu 1"]
            assert all(one["frames"] for one in cpus["stacks"])
            await again_by_state(debug, do="break", what="do_sys_openat2")
            going = await again_by_state(debug, do="continue", timeout=0)

            async def wait() -> None:
                with pytest.raises(MCPError):
                    await debug.call("control", vm="a", do="wait", since=going["stops"] + 9, timeout=40)

            debug.progress.clear()
            group.start_soon(wait)
            with anyio.fail_after(30):
                while not debug.progress:  # it waits
                    await anyio.sleep(0.05)
            os.kill(server_of("debug"), signal.SIGKILL)
        async with over_stdio("debug") as third:
            debug = Agent(third)
            known = await again_by_state(debug, do="state")
            assert known["by"] == "gdb"
            assert known["state"] in ("running", "stopped")
            [point] = (await again_by_state(debug, do="breakpoints"))["found"]["breakpoints"]
            assert "do_sys_openat2" in point
            assert (await again_by_state(debug, do="detach"))["state"] == "detached"
            await alive(vm)
            # And drgn, which stops nothing.
            listed = await debug.call("tasks", target="a", like="^1 init")
            assert (listed["by"], listed["still"]) == ("drgn", False)
            assert "nothing" in (await again(debug, "why", question="hung", target="a"))["summary"]
            dump = (await vm.call("vm_dump", name="a"))["path"]
            there = await debug.call("tasks", target=dump, like="^1 init")
            assert (there["by"], there["still"], there["count"]) == ("drgn", True, 1)
            assert (await debug.call("read", target=dump, what="prog['init_task'].comm"))["value"] == ["swapper/0"]


async def test_a_recording_outlives_its_server_and_a_kernel_that_panicked_is_read() -> None:
    async with over_stdio() as first:
        vm = Agent(first)
        await vm.call("vm_start", name="a")
        async with over_stdio("debug") as second, anyio.create_task_group() as group:

            async def trace() -> None:
                with pytest.raises(MCPError):
                    await Agent(second).call("trace", vm="a", events=["sched_switch"], seconds=600)

            group.start_soon(trace)
            on = "grep -qs 1 /sys/kernel/tracing/instances/kernloop-ftrace/tracing_on"
            with anyio.fail_after(120):
                while (await vm.call("vm_exec", name="a", command=on))["exit_status"]:
                    await anyio.sleep(0.2)
            os.kill(server_of("debug"), signal.SIGKILL)
        async with over_stdio("debug") as third:
            debug = Agent(third)
            assert (await debug.call("trace_wait", id="a/1", timeout=0))["state"] == "running"
            found = await debug.call("trace_wait", id="a/1", stop=True)
            assert (found["by"], found["stopped"], found["still"]) == ("ftrace", "asked", False)
            assert found["rows"][0].startswith("sched_switch: ")
            assert "prev_comm=" in Path(found["path"]).read_text()
            assert "no function vfs_raed" in await debug.refused("trace", vm="a", functions=["vfs_raed"], seconds=1)
            await vm.call("vm_exec", name="a", command="echo c > /proc/sysrq-trigger", background=True)
            with anyio.fail_after(120):
                while (await vm.call("vm_wait", name="a", until="exit"))["state"] != "panicked":
                    pass
            told = (await again(debug, "why", question="triage", target="a"))["text"]
            assert "sysrq triggered crash" in told
            assert (await again(debug, "why", question="oops", target="a"))["function"] == "sysrq_handle_crash"
            calls = await debug.call("backtrace", target="a")
            assert (calls["by"], calls["still"]) == ("drgn", True)
            assert any("sysrq_handle_crash" in frame for one in calls["stacks"] for frame in one["frames"])
