# SPDX-License-Identifier: Apache-2.0
"""The server `code` without guests: patches, bisections on this machine, what an agent is told and how it is paged."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import anyio
import bpe_openai
import pytest
from agent import Agent, anyio_backend, here, over_stdio
from mcp.shared.exceptions import MCPError

from histories import BAD, GOOD, Made, linear, make
from kernloop import runs
from kernloop.git.history import History
from kernloop.present import plain
from kernloop.report.compiler import Diagnostic
from kernloop_mcp import SERVERS, tools
from repos import Repo, numbered
from support import server_of

__all__ = ["anyio_backend"]

pytestmark = pytest.mark.anyio
ENCODING = bpe_openai.get_encoding("o200k_base")
MOST_OF_THIS_SERVER = 1500
MOST_OF_ALL_SERVERS = 6000
MOST_OF_AN_ANSWER = 2000


@pytest.fixture(autouse=True)
def compiled_once(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Each test starts kernloop, with an empty cache: what it imports is compiled once for all."""
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "")
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path_factory.getbasetemp() / "bytecode"))


def tokens(text: str) -> int:
    return len(ENCODING.encode(text))


def history(folder: Path, count: int, culprit: str) -> Made:
    """Commits in a row; from `culprit` on there is a file `bug`."""
    parents = linear(count)
    bad = {name for name in parents if culprit in History(parents).ancestors(name)}
    return make(folder / "repository", parents, lambda name: {"bug": "x\n"} if name in bad else {})


def ends(made: Made) -> dict[str, Any]:
    return {"tree": str(made.path), "good": made.sha[GOOD], "bad": made.sha[BAD], "host": True}


async def test_all_tools_together_cost_few_tokens(capsys: pytest.CaptureFixture[str]) -> None:
    cost = {}
    for server in SERVERS:
        async with here(server) as client:
            listed = await client.list_tools()
        cost[server] = tokens(listed.model_dump_json(by_alias=True, exclude_unset=True))
    with capsys.disabled():
        print(f"\ntools/list: {cost}")
    assert cost["code"] <= MOST_OF_THIS_SERVER
    assert sum(cost.values()) <= MOST_OF_ALL_SERVERS


async def test_tools_are_described_and_say_what_they_may_destroy() -> None:
    async with here("code") as client:
        found = {tool.name: tool for tool in (await client.list_tools()).tools}
    assert all(tool.description and tool.annotations for tool in found.values())
    reads = {name for name, tool in found.items() if tool.annotations and tool.annotations.read_only_hint}
    destroys = {name for name, tool in found.items() if tool.annotations and tool.annotations.destructive_hint}
    assert reads == {"series", "wait"}
    assert destroys == {"patch", "stop"}


@pytest.mark.parametrize(
    ("tool", "arguments", "message", "hint"),
    [
        ("build", {"tree": "{tmp}"}, "{tmp} is no kernel source tree", "kernloop kernel source DIR fetches one"),
        ("build", {"tree": "{tmp}", "config": ["kasan"]}, "'kasan' sets no symbol", "--config KASAN=y"),
        ("build", {"tree": "{tmp}", "profile": "huge"}, "profile: Input should be", "it takes tree profile"),
        ("build", {"dir": "{tmp}"}, "build takes no dir", "it takes tree profile"),
        ("config", {"tree": "{tmp}", "why": ["KASAN"]}, "{tmp} is no kernel source tree", ""),
        ("patch", {"tree": "{tmp}"}, "takes a patch, or --undo", ""),
        ("patch", {"tree": "{tmp}", "patch": "nosuch.patch"}, "cannot read", "name a file"),
        ("patch", {"tree": "{tmp}", "action": "undo"}, "no patch of kernloop's is applied", ""),
        ("series", {"tree": "{tmp}"}, "{tmp} is no git tree", ""),
        ("selftest", {"tests": ["a", "b"], "suite": "kunit"}, "kunit takes one pattern", "tests=["),
        ("bisect", {"tree": "{tmp}", "command": "true"}, "no good revision", ""),
        ("bisect", {"resume": "nosuch"}, "there is no run called 'nosuch'", ""),
        ("wait", {"id": "nosuch"}, "there is no run called 'nosuch'", "runs"),
        ("wait", {}, "no build, selftest or bisection", "the newest"),
        ("stop", {"id": "nosuch"}, "there is no run called 'nosuch'", "runs"),
        ("make", {}, "there is no tool 'make'", "build config patch"),
    ],
)
async def test_a_mistake_is_answered_with_what_to_do(
    tmp_path: Path, tool: str, arguments: dict[str, Any], message: str, hint: str
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    filled = {name: value.replace("{tmp}", str(folder)) if isinstance(value, str) else value
              for name, value in arguments.items()}  # fmt: skip
    async with here("code") as client:
        text = await Agent(client).refused(tool, **filled)
    said, _, then = text.partition("\nnext: ")
    assert message.replace("{tmp}", str(folder)) in said
    assert hint in then
    assert "Traceback" not in text
    assert runs.listing() == []


async def test_a_patch_is_checked_applied_explained_and_taken_back(tmp_path: Path) -> None:
    repo = Repo(tmp_path / "tree")
    repo.commit("base", kernel__a_c=numbered())
    repo.replace("kernel/a.c", "line20;", "line20x;")
    text = repo.run("diff").stdout
    repo.git("checkout", "-q", ".")
    async with over_stdio("code") as client:
        agent = Agent(client)
        tree = str(repo.path)
        assert (await agent.call("patch", tree=tree, patch=text, action="check"))["state"] == "would-apply"
        assert "line20;" in repo.read("kernel/a.c")
        done = await agent.call("patch", tree=tree, patch=text)
        assert list(done)[:3] == ["verdict", "state", "summary"]
        assert (done["verdict"], done["state"], done["files"]) == ("pass", "applied", ["kernel/a.c"])
        assert "line20x;" in repo.read("kernel/a.c")
        assert (await agent.call("patch", tree=tree, action="undo", allow_dirty=True))["state"] == "undone"
        assert "line20;" in repo.read("kernel/a.c")
        repo.replace("kernel/a.c", "line21;", "line21z;")
        repo.commit("another")
        file = tmp_path / "late.patch"
        file.write_text(text)
        refused = await agent.call("patch", tree=tree, patch=str(file))
        [hunk] = refused["rejects"]
        assert (refused["verdict"], hunk["file"], hunk["hunk"]) == ("rejected", "kernel/a.c", "1 of 1")
        assert any("line21z;" in line for one in hunk["differences"] for line in one["found"])


async def test_a_series_is_told_commit_by_commit(tmp_path: Path) -> None:
    repo = Repo(tmp_path / "tree")
    base = repo.commit("base", kernel__a_c=numbered())
    repo.commit("a: unsigned", kernel__a_c=numbered(41))
    async with here("code") as client:
        found = await Agent(client).call("series", tree=str(repo.path), commits=f"{base}..HEAD", build="none")
    assert found["verdict"] == "rejected"
    assert found["problems"][0]["level"] == "error"
    assert found["problems"][0]["commit"] == repo.head[:12]


async def test_a_bisection_finds_the_commit(tmp_path: Path) -> None:
    made = history(tmp_path, 12, "c7")
    async with here("code") as client:
        done = await Agent(client).call("bisect", **ends(made), command="test ! -e bug")
        again = await Agent(client).call("wait")
    assert (done["verdict"], done["first_bad"]["sha"]) == ("pass", made.sha["c7"])
    assert list(done)[:4] == ["verdict", "summary", "next", "first_bad"]
    assert any(step.startswith("bad ") and made.sha["c7"][:12] in step for step in done["steps"])
    assert again == done


async def test_what_takes_longer_than_a_call_goes_on_in_another_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = history(tmp_path, 12, "c7")
    hold = tmp_path / "hold"
    hold.touch()
    monkeypatch.setattr(tools, "CALL_SECONDS", 8.0)
    monkeypatch.setattr(tools, "_TICK_SECONDS", 0.2)
    async with here("code") as client:
        agent = Agent(client)
        command = f"while test -e {hold}; do sleep 0.1; done; test ! -e bug"
        begun = await agent.call("bisect", **ends(made), command=command)
        assert begun["state"] == "running"
        assert any("step " in said for said in agent.progress)
    async with here("code") as client:
        agent = Agent(client)
        going = await agent.call("wait", id=begun["run"], timeout=0, since=begun["cursor"])
        assert going["state"] == "running"
        assert going["doing"].startswith("step ")
        hold.unlink()
        done = await agent.call("wait", id=begun["run"])
        assert done["first_bad"]["subject"] == "c7"
        told = await agent.call("wait", id=begun["run"], skip=2)
        assert told["steps"] == done["steps"][2:]


async def test_a_bisection_outlives_a_server_that_is_killed(tmp_path: Path) -> None:
    made = history(tmp_path, 6, "c3")
    async with over_stdio("code") as client, anyio.create_task_group() as group:

        async def ask() -> None:
            with pytest.raises(MCPError):
                await Agent(client).call("bisect", **ends(made), command="sleep 1; test ! -e bug")

        group.start_soon(ask)
        with anyio.fail_after(30):
            while not runs.listing():
                await anyio.sleep(0.05)
        os.kill(server_of("code"), signal.SIGKILL)
    async with over_stdio("code") as client:
        assert (await Agent(client).call("wait"))["first_bad"]["subject"] == "c3"


@pytest.mark.parametrize("by", ["stop", "cancel"])
async def test_a_bisection_that_was_stopped_or_cancelled_is_resumed(tmp_path: Path, by: str) -> None:
    made = history(tmp_path, 6, "c3")
    slow = tmp_path / "slow"
    slow.touch()
    command = f"test ! -e {slow} || sleep 30; test ! -e bug"
    async with here("code") as client:
        agent = Agent(client)
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: client.call_tool("bisect", {**ends(made), "command": command}))
            with anyio.fail_after(30):
                while not (known := runs.listing()) or "step" not in runs.doing(known[0].path):
                    await anyio.sleep(0.05)
            if by == "stop":
                stopped = await agent.call("stop", id=known[0].id)
                assert (stopped["verdict"], stopped["summary"]) == ("infra", "interrupted")
                assert stopped["next"] == f"bisect(resume={known[0].id!r})"
            else:
                group.cancel_scope.cancel()
        with anyio.fail_after(30):
            while runs.is_live(known[0].path):
                await anyio.sleep(0.05)
        assert runs.read_json(known[0].path / "verdict.json")["summary"] == "interrupted"
        slow.unlink()
        assert (await agent.call("bisect", resume="last"))["first_bad"]["subject"] == "c3"


def complaint(number: int, severity: str = "error") -> Diagnostic:
    text = f"passing argument {number} of 'scx_bpf_dsq_insert_vtime' makes pointer from integer without a cast " * 2
    return Diagnostic(
        f"kernel/sched/ext{number}.c", number, 7, severity, text, function="do_enqueue_task", source="\tx = y;" * 9
    )


def a_failed_build(count: int) -> str:
    with runs.create("build", "kernloop.build/1", {"subject": "x" * 300}) as run:
        found = [complaint(number) for number in range(count)]
        warnings = [complaint(number, "warning") for number in range(5)]
        run.judge(
            {
                "schema": "kernloop.build/1", "verdict": "build-failed", "summary": "building x failed",
                "next": "edit kernel/sched/ext0.c, line 0", "exit_code": 1, "run": str(run.path),
                "new": plain([*found[1:], *warnings]), "diagnostics": plain([*found, *warnings]), "log": "build.log",
            }
        )  # fmt: skip
        return run.id


async def test_a_build_that_failed_is_read_whole_page_by_page_errors_first() -> None:
    name = a_failed_build(30)
    told: list[dict[str, Any]] = []
    async with here("code") as client:
        answer = await Agent(client).call("wait", id=name)
        assert list(answer)[:4] == ["verdict", "summary", "next", "diagnostics"]
        while True:
            assert tokens(json.dumps(answer, ensure_ascii=False)) <= MOST_OF_AN_ANSWER
            told += answer["diagnostics"]
            if "cut" not in answer:
                break
            assert f"wait({name!r}, skip={len(told)})" in answer["cut"]
            answer = await Agent(client).call("wait", id=name, skip=len(told))
    assert [one["severity"] for one in told] == ["error"] * 30 + ["warning"] * 5
    assert told[0]["known"] and "known" not in told[1]  # the build before had it, too
    assert (told[3]["file"], told[3]["line"], told[3]["function"]) == ("kernel/sched/ext3.c", 3, "do_enqueue_task")


async def test_a_suite_that_failed_is_read_whole_page_by_page_with_the_crash() -> None:
    with runs.create("kselftest", "kernloop.kselftest/1", {"subject": "timers"}) as run:
        (run.path / "console.log").write_text("[    1.0] BUG: kernel NULL pointer dereference\n" * 90)
        failed = [
            {"name": f"timers:one_{number}", "status": "fail", "reason": "x" * 90, "said": ["# " + "y" * 300] * 20}
            for number in range(25)
        ]
        run.judge(
            {
                "schema": "kernloop.kselftest/1", "verdict": "oops", "summary": "while timers:one_3 ran: oops",
                "next": "", "exit_code": 1, "run": str(run.path), "totals": {"passed": 7, "failed": 25},
                "running": "timers:one_3", "results": [{"name": "well", "status": "pass"}, *failed],
                "evidence": [{"path": str(run.path / "console.log"), "what": "the crash", "lines": [1, 90]}],
            }
        )  # fmt: skip
    told: list[dict[str, Any]] = []
    async with here("code") as client:
        while True:
            answer = await Agent(client).call("wait", id=run.id, skip=len(told))
            assert tokens(json.dumps(answer, ensure_ascii=False)) <= MOST_OF_AN_ANSWER
            assert answer["running"] == "timers:one_3" and "NULL pointer" in answer["console"]
            told += answer["failed"]
            if "cut" not in answer:
                break
    assert [one["test"] for one in told] == [f"timers:one_{number}" for number in range(25)]


def test_hints_name_tools() -> None:
    for hint, told in {
        "kernloop run --kernel tree:/a/b -- uname -a": "run('uname -a', kernel='tree:/a/b')",
        "leave it out; kernloop kernel config DIR --why KASAN": "leave it out; config('DIR', why=['KASAN'])",
        "kernloop debug kgdb a enter": "control('a', 'interrupt', by='kgdb')",
        "kernloop debug gdb a continue, or detach": "control('a', 'continue'), or detach",
        "kernloop debug page /x/y.txt --since 70": "page('/x/y.txt', since=70)",
        "kernloop debug triage ID, or kernloop debug why-hung a": "why('triage', 'ID'), or why('hung', 'a')",
        "free some space; then: kernloop bisect --resume ID": "free some space; then: bisect(resume='ID')",
    }.items():
        assert tools.in_tools(hint) == told
