# SPDX-License-Identifier: Apache-2.0
"""The server `sched` as an agent goes through it: check, verify, see how a scheduler goes in a VM."""

from __future__ import annotations

import pytest
from agent import Agent, again, anyio_backend, finished, here

from kernloop.vm import client
from support import SCHEDULERS

__all__ = ["anyio_backend"]

pytestmark = [pytest.mark.anyio, pytest.mark.vm]


@pytest.fixture(autouse=True)
def nothing_stays() -> object:
    yield
    for info in client.listing():
        client.VM(info.name, info.run).stop()


async def test_a_mistake_is_found_before_and_in_the_guest() -> None:
    source = str(SCHEDULERS / "broken/uncreated_dsq.bpf.c")
    async with here("sched") as connected:
        agent = Agent(connected)
        checked = await again(agent, "check", scheduler=source)
        assert list(checked)[:3] == ["verdict", "summary", "next"]
        [found] = checked["findings"]
        assert (found["level"], found["rule"]) == ("must", "uncreated-dsq")
        verdict = await finished(agent, await agent.call("verify", scheduler=source, quick=True))
        assert verdict["verdict"] == "ejected"
        assert verdict["exit"]["message"].startswith("non-existent DSQ 0x1")


async def test_a_vm_is_looked_into_and_recorded() -> None:
    async with here("vm") as connected:
        await Agent(connected).call("vm_start", name="a")
    async with here("sched") as connected:
        agent = Agent(connected)
        assert "no scheduler" in (await again(agent, "show", vm="a"))["summary"]
        recorded = await again(agent, "trace", vm="a", seconds=0.5)
        assert recorded["perfetto"].endswith(".pftrace")
        assert recorded["tasks"]
