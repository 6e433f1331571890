# SPDX-License-Identifier: Apache-2.0
"""The server `vm` with guests: the loop as an agent goes through it, and what survives which end."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import anyio
import pytest
from agent import Agent, anyio_backend, here, over_stdio
from mcp.shared.exceptions import MCPError

from kernloop.errors import UsageError
from kernloop.vm import client
from kernloop_mcp import tools
from support import events_of, processes_naming, runs_dir, server_of, the_run, verdict_of
from vms import pids_of

__all__ = ["anyio_backend"]

pytestmark = [pytest.mark.anyio, pytest.mark.vm]


@pytest.fixture(autouse=True)
def nothing_stays() -> object:
    """Whatever VM a test leaves is stopped."""
    yield
    for info in client.listing():
        client.VM(info.name, info.run).stop()


async def test_the_loop_of_an_agent(tmp_path: Path) -> None:
    source = tmp_path / "hello.txt"
    source.write_text("hello\n")
    async with over_stdio() as connected:
        agent = Agent(connected)
        started = await agent.call("vm_start", name="a")
        assert (started["state"], started["cpus"]) == ("running", 2)
        assert (await agent.call("vm_push", name="a", source=str(source)))["to"] == "/root/"
        done = await agent.call("vm_exec", name="a", command="cat hello.txt; echo bad >&2; exit 3")
        assert list(done)[:3] == ["verdict", "exit_status", "summary"]
        assert (done["verdict"], done["exit_status"], done["stdout"], done["stderr"]) == (
            "command-failed", 3, "hello\n", "bad\n",
        )  # fmt: skip
        await agent.call("vm_exec", name="a", command="echo base > mark")
        assert (await agent.call("vm_snapshot", name="a", tag="base"))["next"] == "vm_restore('base')"
        await agent.call("vm_exec", name="a", command="echo changed > mark")
        assert (await agent.call("vm_restore", tag="base", name="b"))["name"] == "b"
        assert (await agent.call("vm_exec", name="b", command="cat mark"))["stdout"] == "base\n"
        await agent.call("vm_pull", name="a", source="/root/mark", target=str(tmp_path))
        assert (tmp_path / "mark").read_text() == "changed\n"
        listed = await agent.call("vm_list")
        assert {vm["name"] for vm in listed["vms"]} == {"a", "b"}
        assert [one["tag"] for one in listed["snapshots"]] == ["base"]
        assert (await agent.call("vm_stop", name="b"))["verdict"] == "pass"
        assert "the VM b has ended: pass" in await agent.refused("vm_exec", name="b", command="true")


async def test_a_crash_is_seen_explained_and_dumped(tmp_path: Path) -> None:
    async with here() as connected:
        agent = Agent(connected)
        await agent.call("vm_start", name="a")
        job = await agent.call("vm_exec", name="a", command="sleep 1; echo c > /proc/sysrq-trigger", background=True)
        found = await agent.call("vm_wait", name="a", until="report")
        assert found["matched"]
        assert "sysrq triggered crash" in found["line"]
        assert (await agent.call("vm_wait", name="a", until="exit"))["state"] == "panicked"
        over = await agent.call("vm_job", name="a", job=job["job"], timeout=20)
        assert over["verdict"] == "panic"
        page = await agent.call("vm_console", name="a", grep="Kernel panic")
        assert "sysrq triggered crash" in page["text"]
        assert "has panicked" in await agent.refused("vm_exec", name="a", command="true")
        dumped = await agent.call("vm_dump", name="a", path=str(tmp_path / "core"))
        assert (tmp_path / "core").stat().st_size == dumped["bytes"]
        assert (await agent.call("vm_stop", name="a"))["verdict"] == "panic"
        ended = await agent.call("vm_wait", name="a", until="exit")
        assert (ended["matched"], ended["state"], ended["verdict"]) == (True, "ended", "panic")


async def test_a_run_says_its_verdict() -> None:
    async with here() as connected:
        agent = Agent(connected)
        done = await agent.call("run", command="uname -r; exit 4")
        assert (done["verdict"], done["exit_status"], done["stdout"]) == (
            "command-failed", 4, done["release"] + "\n",
        )  # fmt: skip
        assert await agent.call("runs", id=done["run"]) == done
        crashed = await agent.call("run", command="echo c > /proc/sysrq-trigger")
        assert crashed["verdict"] == "panic"
        assert "Kernel panic" in crashed["console"]


async def test_vm_job_and_cursor_outlive_the_server() -> None:
    async with over_stdio() as connected:
        agent = Agent(connected)
        await agent.call("vm_start", name="a")
        begun = await agent.call("vm_exec", name="a", command="echo one; sleep 4; echo two", background=True)
        cursor = (await agent.call("vm_console", name="a"))["cursor"]
    async with over_stdio() as connected:
        agent = Agent(connected)
        await agent.call("vm_exec", name="a", command="echo later > /dev/kmsg; sleep 2")
        page = await agent.call("vm_console", name="a", since=cursor)
        # The kernel may have said something of its own.
        assert page["text"].count("later\n") == 1
        assert "Linux version" not in page["text"]
        over = await agent.call("vm_job", name="a", job=begun["job"], timeout=30)
        assert (over["verdict"], over["stdout"]) == ("pass", "one\ntwo\n")


async def test_a_job_whose_vm_is_killed_while_somebody_waits_is_told_as_lost() -> None:
    async with over_stdio() as connected:
        agent = Agent(connected)
        await agent.call("vm_start", name="a")
        job = (await agent.call("vm_exec", name="a", command="echo begun; sleep 1000", background=True))["job"]
        [info] = client.listing()
        told: dict[str, Any] = {}

        async def wait() -> None:
            told.update(await agent.call("vm_job", name="a", job=job, timeout=40))

        agent.progress.clear()
        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            with anyio.fail_after(60):
                while not agent.progress:  # it waits
                    await anyio.sleep(0.05)
            os.kill(pids_of(info.run)["supervisor"], signal.SIGKILL)
        assert (told["state"], told["stdout"]) == ("lost: the VM ended first", "begun\n")


async def known(name: str) -> None:
    """Until the supervisor of VM `name` has a run directory."""
    with anyio.fail_after(60):
        while True:
            with contextlib.suppress(UsageError):
                client.last(name)
                return
            await anyio.sleep(0.05)


async def test_what_takes_longer_than_a_call_goes_on_and_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    # In that time a process of ours makes its run directory, even on a loaded machine.
    monkeypatch.setattr(tools, "CALL_SECONDS", 5.0)
    async with here() as connected:
        agent = Agent(connected)
        begun = await agent.call("run", command="sleep 6; echo done")
        assert begun["state"] == "running"
        monkeypatch.setattr(tools, "CALL_SECONDS", 1.0)
        # A word that no snapshot of a boot was made with: it boots.
        starting = await agent.call("vm_start", name="a", append=f"quiet test={secrets.token_hex(4)}")
        assert starting["state"] == "starting"
        assert agent.progress
        await known("a")
    async with here() as connected:  # another server: nothing was kept in the first
        agent = Agent(connected)
        assert (await agent.call("runs", id=begun["run"]))["stdout"] == "done\n"
        assert (await agent.call("vm_wait", name="a", until="up", timeout=45))["matched"]
        job = await agent.call("vm_exec", name="a", command="sleep 2; echo slow")
        assert job["state"] == "running"
        assert (await agent.call("vm_job", name="a", job=job["job"], timeout=30))["stdout"] == "slow\n"


async def test_a_start_that_fails_later_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "CALL_SECONDS", 1.0)
    async with here() as connected:
        agent = Agent(connected)
        assert (await agent.call("vm_start", name="a", append="init=/nosuch rdinit=/nosuch"))["state"] == "starting"
        await known("a")
        text = await agent.refused("vm_wait", name="a", until="up", timeout=45)
    assert "the VM a did not start: kernel panic" in text
    assert "next: " in text


async def test_two_servers_use_one_vm() -> None:
    async with over_stdio() as one, over_stdio() as two:
        first, second = Agent(one), Agent(two)
        await first.call("vm_start", name="a")
        assert "runs already" not in str(await second.call("vm_list"))
        assert "is running already" in await second.refused("vm_start", name="a")
        found: list[str] = []

        async def ask(agent: Agent, word: str) -> None:
            done = await agent.call("vm_exec", name="a", command=f"sleep 1; echo {word}")
            found.append(done["stdout"])

        async with anyio.create_task_group() as both:
            both.start_soon(ask, first, "one")
            both.start_soon(ask, second, "two")
        assert sorted(found) == ["one\n", "two\n"]
        await first.call("vm_stop", name="a")
        assert "has ended" in await second.refused("vm_exec", name="a", command="true")


async def cancelled(call: Coroutine[Any, Any, object], when: Callable[[], bool]) -> None:
    """`call`, cancelled as soon as `when` is true."""
    async with anyio.create_task_group() as group:

        async def wait() -> None:
            await call
            raise AssertionError("it has ended by itself")

        group.start_soon(wait)
        with anyio.fail_after(60):
            while not when():
                await anyio.sleep(0.05)
        group.cancel_scope.cancel()


@pytest.mark.parametrize("place", [here, over_stdio])
async def test_a_cancelled_command_is_killed_and_the_server_goes_on(place: object) -> None:
    assert callable(place)
    async with place() as connected:
        agent = Agent(connected)
        await agent.call("vm_start", name="a")
        [info] = client.listing()
        told = info.run / "jobs/1/stdout"
        await cancelled(
            agent.call("vm_exec", name="a", command="echo begun; sleep 1000"),
            lambda: told.exists() and told.read_bytes() == b"begun\n",
        )
        over = await agent.call("vm_job", name="a", job=1, timeout=20)
        assert (over["verdict"], over["exit_status"], over["stdout"]) == ("command-failed", -9, "begun\n")
        assert (await agent.call("vm_exec", name="a", command="echo well"))["stdout"] == "well\n"


async def test_a_cancelled_run_ends_with_its_guest() -> None:
    async with over_stdio() as connected:
        agent = Agent(connected)
        await cancelled(
            agent.call("run", command="sleep 1000"),
            lambda: "guest-up" in {entry["event"] for entry in events_of(the_run() or runs_dir())},
        )
        [run] = runs_dir().iterdir()
        with anyio.fail_after(30):
            while verdict_of(run)["verdict"] == "unknown":
                await anyio.sleep(0.05)
        assert verdict_of(run)["summary"] == "interrupted"
        with anyio.fail_after(30):  # its verdict is there first
            while processes_naming(run):
                await anyio.sleep(0.05)
        assert (await agent.call("runs"))["total"] == 1


async def test_a_run_outlives_a_server_that_is_killed() -> None:
    async with over_stdio() as connected:
        agent = Agent(connected)
        async with anyio.create_task_group() as group:

            async def ask() -> None:
                with pytest.raises(MCPError):
                    await agent.call("run", command="sleep 3; echo survived")

            group.start_soon(ask)
            with anyio.fail_after(30):
                while not (runs_dir().exists() and list(runs_dir().iterdir())):
                    await anyio.sleep(0.05)
            os.kill(server_of("vm"), signal.SIGKILL)
    async with over_stdio() as connected:
        assert (await Agent(connected).call("runs", id="last"))["stdout"] == "survived\n"


async def test_bytes_that_are_no_utf8_do_not_move_the_cursor() -> None:
    async with here() as connected:
        agent = Agent(connected)
        await agent.call("vm_start", name="a")
        await agent.call("vm_exec", name="a", command="dmesg -n 1")  # the kernel says nothing in between
        before = (await agent.call("vm_console", name="a"))["cursor"]
        await agent.call("vm_exec", name="a", command=r"printf 'a\377\376b\303\251\n' > /dev/ttyS0; printf '\200'")
        found = await agent.call("vm_wait", name="a", until="^a", since=before)
        page = await agent.call("vm_console", name="a", since=before)
        assert page["text"] == "a\ufffd\ufffdbé\n"
        assert page["cursor"] == found["cursor"] == before + len(b"a\xff\xfeb\xc3\xa9\r\n")
        small = await agent.call("vm_console", name="a", since=before, bytes=16)
        assert small["cursor"] == page["cursor"]
        assert (await agent.call("vm_job", name="a", job=2))["stdout"] == "\ufffd"
        [content] = (await connected.read_resource("kernloop://vm/a/console")).contents
        assert content.text.endswith("a\ufffd\ufffdbé\n")  # type: ignore[union-attr]


async def test_a_vm_can_be_stopped_asked_and_made_to_go_on() -> None:
    async with here() as connected:
        agent = Agent(connected)
        await agent.call("vm_start", name="a")
        asked = await agent.call("vm_control", name="a", action="sysrq", keys="l")
        assert (await agent.call("vm_wait", name="a", until="backtrace", since=asked["cursor"]))["matched"]
        await agent.call("vm_control", name="a", action="pause")
        assert "a is paused" in await agent.refused("vm_exec", name="a", command="true")
        await agent.call("vm_control", name="a", action="resume")
        job = await agent.call("vm_exec", name="a", command="sleep 1000", background=True)
        await agent.call("vm_control", name="a", action="kill", job=job["job"])
        assert (await agent.call("vm_job", name="a", job=job["job"], timeout=10))["exit_status"] == -9
        assert "there is no job 9" in await agent.refused("vm_control", name="a", action="kill", job=9)


async def test_every_one_of_several_sysrq_keys_is_answered() -> None:
    async with here() as connected:
        agent = Agent(connected)
        await agent.call("vm_start", name="a")
        for _ in range(3):
            asked = await agent.call("vm_control", name="a", action="sysrq", keys="9mwl")
            await agent.call("vm_wait", name="a", until="backtrace of all", since=asked["cursor"])
            page = await agent.call("vm_console", name="a", since=asked["cursor"], grep="sysrq: ")
            # One that is slow to answer is asked twice.
            said = list(dict.fromkeys(line.partition("sysrq: ")[2] for line in page["text"].splitlines()))
            assert said[:5] == [
                "Changing Loglevel", "Loglevel set to 9", "Show Memory", "Show Blocked State",
                "Show backtrace of all active CPUs",
            ]  # fmt: skip
