# SPDX-License-Identifier: Apache-2.0
"""The server `sched` without guests: what its tools cost, its rules, what it refuses, how a verdict is told."""

from __future__ import annotations

import json
from pathlib import Path

import bpe_openai
import pytest
from agent import Agent, anyio_backend, here, over_stdio

from kernloop import runs

__all__ = ["anyio_backend"]

pytestmark = pytest.mark.anyio
ENCODING = bpe_openai.get_encoding("o200k_base")
MOST_OF_THIS_SERVER = 1000
MOST_OF_AN_ANSWER = 2000


def tokens(text: str) -> int:
    return len(ENCODING.encode(text))


async def test_the_tools_cost_few_tokens(capsys: pytest.CaptureFixture[str]) -> None:
    async with here("sched") as client:
        listed = await client.list_tools()
    cost = tokens(listed.model_dump_json(by_alias=True, exclude_unset=True))
    with capsys.disabled():
        print(f"\ntools/list of the server sched: {cost} tokens")
    assert cost <= MOST_OF_THIS_SERVER
    reading = {tool.name for tool in listed.tools if tool.annotations and tool.annotations.read_only_hint}
    assert reading == {"check", "rules", "wait", "show"}


async def test_every_rule_is_listed_and_explained() -> None:
    async with over_stdio("sched") as client:
        agent = Agent(client)
        listed = await agent.call("rules")
        assert tokens(json.dumps(listed)) <= MOST_OF_AN_ANSWER
        assert "lost-task: enqueue leaves the task nowhere" in listed["rules"]
        assert not listed.get("cut")
        rule = await agent.call("rules", rule="lost-task")
        assert (rule["id"], rule["mistake"]) == ("lost-task", 1)
        assert {"why", "at_run_time", "cure"} <= set(rule)
        assert "there is no rule 'lost'" in await agent.refused("rules", rule="lost")


async def test_what_cannot_be_is_refused_with_the_next_step(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no scheduler\n")
    async with here("sched") as client:
        agent = Agent(client)
        assert "next:" in await agent.refused("check", scheduler=str(tmp_path / "notes.txt"))
        assert "not there" in await agent.refused("verify", scheduler=str(tmp_path / "none.bpf.c"))
        assert "none" in await agent.refused("show", vm="none")
        assert "none" in await agent.refused("trace", vm="none")
        assert "no run called 'x'" in await agent.refused("wait", id="x")


async def test_a_verdict_names_the_cause_first_and_the_failing_tests_before_the_others() -> None:
    tests = [
        {"name": name, "result": result, "figure": 3.0, "limit": 2.0, "unit": "ms", "baseline": 1.0, "why": why}
        for name, result, why in [
            ("idle", "pass", ""),
            ("fairness", "fail", "unfair"),
            ("cpuset", "skipped", "no claim"),
        ]
    ]
    with runs.create("verify", "kernloop.verify/1", {"subject": "x"}) as run:
        value = {"verdict": "test-failed", "summary": "fairness: unfair", "next": "look", "run": str(run.path)}
        run.judge({**value, "schema": "kernloop.verify/1", "tests": tests, "evidence": [], "exit_code": 1})
    async with here("sched") as client:
        found = await Agent(client).call("wait")
    assert list(found)[:3] == ["verdict", "summary", "next"]
    assert found["tests"] == [
        "fairness: fail: 3 ms, limit 2, EEVDF 1: unfair",
        "cpuset: skipped: no claim",
        "idle: pass: 3 ms, limit 2, EEVDF 1",
    ]
