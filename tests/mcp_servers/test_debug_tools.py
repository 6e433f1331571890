# SPDX-License-Identifier: Apache-2.0
"""The server `debug`: a report in few tokens, page by page, and how it is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import bpe_openai
import pytest
from agent import Agent, anyio_backend, here, over_stdio

from kernloop import runs
from kernloop.present import outcome_json
from kernloop.report.advice import topics
from kernloop.verdict import Evidence, Outcome, Verdict
from support import ROOT

__all__ = ["anyio_backend"]

pytestmark = pytest.mark.anyio
CONSOLES = sorted((ROOT / "tests/fixtures/console").glob("*.log"))
PANIC = ROOT / "tests/fixtures/console/sysrq-crash-7.3.4.log"
ENCODING = bpe_openai.get_encoding("o200k_base")
MOST_OF_THIS_SERVER = 1800
MOST_OF_AN_ANSWER = 2000


def tokens(text: str) -> int:
    return len(ENCODING.encode(text))


def a_run() -> str:
    """A run that ended in the recorded panic; its id."""
    with runs.create("run", "kernloop.run/1", {"subject": "x"}) as run:
        (run.path / "console.log").write_bytes(PANIC.read_bytes())
        outcome = Outcome(Verdict.PANIC, "kernel panic", evidence=(Evidence("console.log", "the crash", (1, 2)),))
        run.judge(outcome_json("kernloop.run/1", run.path, outcome, exit_code=120))
        return run.id


async def test_the_tools_cost_few_tokens_and_most_only_read(capsys: pytest.CaptureFixture[str]) -> None:
    async with here("debug") as client:
        listed = await client.list_tools()
    cost = tokens(listed.model_dump_json(by_alias=True, exclude_unset=True))
    with capsys.disabled():
        print(f"\ntools/list of the server debug: {cost} tokens")
    assert cost <= MOST_OF_THIS_SERVER
    acting = {tool.name for tool in listed.tools if not (tool.annotations and tool.annotations.read_only_hint)}
    assert acting == {"control", "trace", "trace_wait"}


async def test_the_weightiest_comes_first() -> None:
    async with over_stdio("debug") as client:
        found = await Agent(client).call("report", source=str(PANIC))
    assert list(found)[:4] == ["title", "kind", "function", "next"]
    assert (found["kind"], found["function"]) == ("kernel-panic", "sysrq_handle_crash")
    assert found["console"].startswith("Kernel panic - not syncing: sysrq triggered crash")
    assert found["explain"] == "report_explain('kernel-panic')"


async def test_a_run_is_found_by_its_id_and_as_the_last() -> None:
    name = a_run()
    async with here("debug") as client:
        by_id = await Agent(client).call("report", source=name)
        assert await Agent(client).call("report") == {**by_id, "more": by_id["more"].replace(name, "last")}
    assert by_id["title"] == "kernel panic: sysrq triggered crash"


@pytest.mark.parametrize("console", CONSOLES, ids=lambda file: file.name)
async def test_no_answer_is_long_and_a_report_is_read_whole_page_by_page(console: Path) -> None:
    async with here("debug") as client:
        agent = Agent(client)
        done = await client.call_tool("report", {"source": str(console)})
        found: dict[str, Any] = done.structured_content or {}
        assert tokens(done.content[0].text) <= MOST_OF_AN_ANSWER  # type: ignore[union-attr]
        if not found.get("title"):
            return
        lines: list[str] = []
        line = found["from_line"]
        while line:
            page = await agent.call("report", source=str(console), line=line)
            assert tokens(str(page)) <= MOST_OF_AN_ANSWER
            lines += page["console"].split("\n")
            line = page.get("line")
    whole = console.read_text(errors="replace").split("\n")
    first = found["from_line"] - 1
    assert lines
    assert all(text.strip() in raw for text, raw in zip(lines, whole[first : first + len(lines)], strict=True))


@pytest.mark.parametrize("kind", topics())
async def test_every_topic_is_explained_in_few_tokens(kind: str) -> None:
    async with here("debug") as client:
        done = await client.call_tool("report_explain", {"kind": kind})
    assert not done.is_error
    assert tokens(done.content[0].text) <= MOST_OF_AN_ANSWER // 2  # type: ignore[union-attr]
    assert list(done.structured_content or {})[:3] == ["kind", "means", "first"]


async def test_a_log_without_a_crash_leads_on(tmp_path: Path) -> None:
    log = tmp_path / "clean.log"
    log.write_text("[    0.1] all is well\n")
    async with here("debug") as client:
        assert (await Agent(client).call("report", source=str(log)))["next"] == "report_explain('silent-hang')"


@pytest.mark.parametrize(
    ("tool", "arguments", "message", "hint"),
    [
        ("report", {"source": "nosuch"}, "neither a file, a run nor a VM: nosuch", ""),
        ("report", {"source": str(PANIC), "number": 99}, "has 1 report", "number"),
        ("report", {"source": str(PANIC), "number": 0}, "number: Input should be", "it takes source number line"),
        ("report_explain", {"kind": "bad luck"}, "there is no kind 'bad luck'", "hung-task"),
        ("backtrace", {"target": "nosuch"}, "nosuch", "vm_"),
        ("read", {"target": "nosuch", "what": "jiffies", "depth": 99}, "depth: Input should be", "it takes target"),
        ("tasks", {"target": str(PANIC), "by": "gdb"}, "gdb needs a VM that lives", "drgn reads it"),
        ("tasks", {"target": str(PANIC), "like": "("}, "no regular expression", "kworker"),
        ("read", {"target": str(PANIC), "what": "jiffies"}, "no dump", "vm_dump"),
        ("control", {"vm": "nosuch", "do": "wait"}, "nosuch", "vm_"),
        ("control", {"vm": "nosuch", "do": "break"}, "break needs a place", "scx_enable"),
        ("trace", {"vm": "nosuch", "program": "x"}, "nosuch", "vm_"),
        ("trace_wait", {"id": "nosuch/1"}, "nosuch", "vm_"),
        ("crash", {"vmcore": str(PANIC), "commands": ["bt"]}, "no vmcore", "vm_dump"),
        ("why", {"question": "oops", "target": "nosuch"}, "nosuch", ""),
        ("why", {"question": "triage", "target": "nosuch"}, "nosuch", ""),
    ],
)
async def test_a_mistake_is_answered_with_what_to_do(
    tool: str, arguments: dict[str, Any], message: str, hint: str
) -> None:
    async with here("debug") as client:
        text = await Agent(client).refused(tool, **arguments)
    said, _, then = text.partition("\nnext: ")
    assert message in said
    assert hint in then


async def test_a_refused_bpf_program_is_a_report_with_its_cure_first() -> None:
    log = ROOT / "tests/fixtures/verifier/7.3.4/possible_null__lookup.log"
    async with here("debug") as client:
        found = await Agent(client).call("report", source=str(log))
    assert list(found)[:3] == ["title", "kind", "verifier"]
    assert found["title"] == "verifier: possible_null__lookup: use of a pointer that may be NULL"
    assert "`if (!value) return 0;`" in found["verifier"]["cure"]
    assert tokens(json.dumps(found)) <= 600


async def test_a_long_file_is_read_page_by_page(tmp_path: Path) -> None:
    lines = [f"line {number} " + "x" * 60 for number in range(200)]
    file = tmp_path / "said.txt"
    file.write_text("\n".join(lines) + "\n")
    told = ""
    async with here("debug") as client:
        cursor: int | None = 0
        while cursor is not None:
            page = await Agent(client).call("page", path=str(file), since=cursor)
            assert tokens(json.dumps(page)) <= MOST_OF_AN_ANSWER
            told += page["text"]
            cursor = page["cursor"] if "next" in page else None
        assert (await Agent(client).call("page", path=str(file), grep="^line 7 "))["text"] == lines[7] + "\n"
    assert told == file.read_text()
