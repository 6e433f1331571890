# SPDX-License-Identifier: Apache-2.0
"""`skills install`: agents find skills and servers, the user's own stays as it was, and all of ours goes again."""

from __future__ import annotations

import hashlib
import json
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernloop import __version__, skills
from kernloop.errors import UsageError
from kernloop.host import agent_config
from kernloop_mcp import SERVERS
from support import ROOT, Done, kernloop

SCHEMAS = ROOT / "tests/schemas"
USERS_JSON = """\
{
    "mcpServers": {
        "other": {
            "command": "x",
            "args": []
        }
    },
    "naïve": 1
}
"""
USERS_TOML = """\
# mine
model = "gpt-5"   # the good one

[mcp_servers.other]
command = "x"  # do not touch

[projects."/home/me/a"]
trust_level = "trusted"
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "home"
    path.mkdir()
    monkeypatch.setenv("HOME", str(path))
    monkeypatch.delenv("CODEX_HOME", raising=False)
    return path


@pytest.fixture
def project(tmp_path: Path) -> Path:
    path = tmp_path / "project"
    path.mkdir()
    return path


def files(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def valid(value: Any, schema: str) -> None:
    jsonschema.validate(value, json.loads((SCHEMAS / f"{schema}.json").read_text()))


def install(*words: str | Path) -> Done:
    done = kernloop("skills", "install", *words)
    assert done.status == 0, done.text
    return done


def test_the_repository_is_a_plugin_and_a_marketplace() -> None:
    plugin = json.loads((ROOT / ".claude-plugin/plugin.json").read_text())
    market = json.loads((ROOT / ".claude-plugin/marketplace.json").read_text())
    own = json.loads((ROOT / ".mcp.json").read_text())
    valid(plugin, "claude-plugin")
    valid(market, "claude-marketplace")
    valid(own, "claude-mcp")
    assert plugin["version"] == __version__
    assert [entry["name"] for entry in market["plugins"]] == [plugin["name"]]
    assert (ROOT / market["plugins"][0]["source"] / ".claude-plugin/plugin.json").is_file()
    for servers in (plugin["mcpServers"], own["mcpServers"]):
        assert set(servers) == {f"kernloop-{server}" for server in SERVERS}
        for name, entry in servers.items():
            assert entry["args"] == ["mcp", name.removeprefix("kernloop-")]
            assert entry["command"].rpartition("/")[2] == "kernloop"


def test_both_agents_find_the_skills_and_the_servers_of_a_project(project: Path) -> None:
    install("--project", project)
    claude = json.loads((project / ".mcp.json").read_text())
    codex = tomllib.loads((project / ".codex/config.toml").read_text())
    valid(claude, "claude-mcp")
    valid(codex, "codex-config")
    for entry in (claude["mcpServers"]["kernloop-vm"], codex["mcp_servers"]["kernloop-vm"]):
        assert [entry["command"], *entry["args"]] == [str(ROOT / "kernloop"), "mcp", "vm"]
    for folder in (".claude/skills", ".agents/skills"):
        there = {path.parent.name for path in (project / folder).glob("*/SKILL.md")}
        assert there == {path.parent.name for path in (ROOT / "skills").glob("*/SKILL.md")}


def test_without_a_project_it_is_for_all_of_them(home: Path) -> None:
    install()
    valid(json.loads((home / ".claude.json").read_text()), "claude-mcp")
    valid(tomllib.loads((home / ".codex/config.toml").read_text()), "codex-config")
    assert (home / ".claude/skills/sched-ext/SKILL.md").is_file()
    assert (home / ".agents/skills/sched-ext/references/loop.md").is_file()


def test_codex_may_live_elsewhere(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODEX_HOME", str(tmp_path / "codex"))
    install("--agent", "codex")
    assert (tmp_path / "codex/config.toml").is_file()
    assert not (home / ".claude").exists()


def test_commands_in_an_installed_skill_work_from_any_folder(project: Path) -> None:
    install("--agent", "claude", "--project", project)
    text = "".join(path.read_text() for path in (project / ".claude/skills").rglob("*.md"))
    assert "./kernloop" not in text
    assert f"{ROOT}/kernloop run" in text
    assert f"verify {ROOT}/examples/schedulers/" in text
    assert " examples/" not in text


def test_again_it_changes_nothing(project: Path) -> None:
    install("--project", project)
    before = files(project)
    assert install("--project", project).out == b"nothing to do\n"
    assert files(project) == before


@pytest.mark.parametrize("agent", ["claude", "codex", "all"])
def test_uninstall_leaves_no_trace(agent: str, project: Path) -> None:
    install("--agent", agent, "--project", project)
    assert files(project)
    install("--agent", agent, "--project", project, "--uninstall")
    assert list(project.iterdir()) == []
    install("--agent", agent, "--project", project, "--uninstall")
    assert project.is_dir()


def test_the_users_own_comes_back_byte_for_byte(project: Path) -> None:
    (project / ".codex").mkdir()
    (project / ".mcp.json").write_text(USERS_JSON)
    (project / ".codex/config.toml").write_text(USERS_TOML)
    (project / ".claude/skills/mine").mkdir(parents=True)
    (project / ".claude/skills/mine/SKILL.md").write_text("mine\n")
    before = files(project)
    install("--project", project)
    text = (project / ".codex/config.toml").read_text()
    assert "# the good one" in text
    assert "# do not touch" in text
    assert text.index("model") < text.index("[mcp_servers.other]")
    assert set(json.loads((project / ".mcp.json").read_text())["mcpServers"]) == {
        "other",
        *(f"kernloop-{server}" for server in SERVERS),
    }
    install("--project", project)
    install("--project", project, "--uninstall")
    assert files(project) == before


def test_what_the_user_adds_to_our_entry_stays(project: Path) -> None:
    install("--agent", "codex", "--project", project)
    config = project / ".codex/config.toml"
    config.write_text(config.read_text() + 'enabled_tools = ["run"]\n\n[other]\nx = 1\n')
    install("--agent", "codex", "--project", project)
    assert tomllib.loads(config.read_text())["mcp_servers"][f"kernloop-{SERVERS[-1]}"]["enabled_tools"] == ["run"]
    install("--agent", "codex", "--project", project, "--uninstall")
    assert tomllib.loads(config.read_text()) == {"other": {"x": 1}}


def test_a_skill_that_the_user_changed_is_kept(project: Path) -> None:
    install("--agent", "claude", "--project", project)
    changed = project / ".claude/skills/sched-ext/SKILL.md"
    changed.write_text("mine now\n")
    assert f"kept      {changed}" in install("--agent", "claude", "--project", project).out.decode()
    assert changed.read_text() == "mine now\n"
    install("--agent", "claude", "--project", project, "--uninstall")
    assert files(project) == {".claude/skills/sched-ext/SKILL.md": hashlib.sha256(b"mine now\n").hexdigest()}


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        (".mcp.json", '{"a": 1,}', "is no valid JSON"),
        (".mcp.json", '{"a": 1, "a": 2}', "the key 'a' is there twice"),
        (".mcp.json", "[]", "is no JSON object"),
        (".mcp.json", '{"mcpServers": []}', "mcpServers is no table"),
        (".codex/config.toml", "a = \n", "is no valid TOML"),
        (".codex/config.toml", 'mcp_servers = "x"\n', "mcp_servers is no table"),
    ],
)
def test_a_file_that_cannot_be_edited_safely_is_not_touched_nor_anything_else(
    project: Path, file: str, text: str, message: str
) -> None:
    (project / file).parent.mkdir(exist_ok=True)
    (project / file).write_text(text)
    before = files(project)
    for more in ((), ("--uninstall",)):
        done = kernloop("skills", "install", "--project", project, *more)
        assert (done.status, message in done.text) == (2, True), done.text
    assert files(project) == before


def test_a_skill_of_somebody_else_with_our_name_is_not_overwritten(project: Path) -> None:
    theirs = project / ".agents/skills/sched-ext/SKILL.md"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("theirs\n")
    done = kernloop("skills", "install", "--project", project)
    assert done.status == 2
    assert "is there already, and not from here" in done.text
    assert list(files(project)) == [".agents/skills/sched-ext/SKILL.md"]


def test_a_link_to_a_configuration_stays_a_link(project: Path, tmp_path: Path) -> None:
    (tmp_path / "dotfiles.json").write_text("{}")
    (project / ".mcp.json").symlink_to(tmp_path / "dotfiles.json")
    install("--agent", "claude", "--project", project)
    assert (project / ".mcp.json").is_symlink()
    valid(json.loads((tmp_path / "dotfiles.json").read_text()), "claude-mcp")


def test_an_agent_or_a_project_that_is_not_there_is_named() -> None:
    with pytest.raises(UsageError, match="there is no agent 'emacs'"):
        skills.place("emacs", None)
    with pytest.raises(UsageError, match="there is no folder"):
        skills.place("claude", Path("/nosuch"))


_VALUES = st.recursive(
    st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=8), _VALUES, max_size=4), st.sampled_from([2, 4, "\t"]))
def test_any_json_comes_back(value: dict[str, Any], indent: int | str) -> None:
    value.pop("mcpServers", None)
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    edit = agent_config.Config(Path("x"), agent_config.Format.JSON, text)
    edit.put("mcpServers", "kernloop-vm", {"command": "x"})
    assert edit.remove("mcpServers", "kernloop-vm")
    edit.drop_if_empty("mcpServers")
    assert edit.rendered() == text
