# SPDX-License-Identifier: Apache-2.0
"""The skills and MCP servers put into coding agents, and taken out again without a trace.

Claude Code   .claude/skills and .mcp.json of a project; else ~/.claude/skills and ~/.claude.json
              (code.claude.com/docs: skills, mcp)
Codex         .agents/skills and .codex/config.toml of a project; else ~/.agents/skills and $CODEX_HOME/config.toml
              (developers.openai.com/codex: skills, mcp, config-reference)

Skills are copied, with the commands in them naming this kernloop. A record beside them knows each file's checksum: what
the user has changed is never overwritten nor removed. Of a configuration only our servers' entries are touched.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kernloop import runs
from kernloop.errors import HarnessError, UsageError
from kernloop.host import agent_config
from kernloop.host.agent_config import Format
from kernloop_mcp import SERVERS

__all__ = ["AGENTS", "Change", "Place", "install", "place", "uninstall"]

AGENTS = ("claude", "codex")
_RECORD = ".kernloop-skills.json"
_ROOT = Path(__file__).resolve().parents[2]
# Codex passes on no others to a server.
_ENVIRONMENT = ["KERNLOOP_DEBIAN_MIRROR", "XDG_CACHE_HOME", "XDG_STATE_HOME"]


@dataclass(frozen=True)
class Place:
    """Where an agent looks, below `base`: a folder of skills, and a file that names MCP servers under `section`."""

    agent: str
    base: Path
    skills: Path
    config: Path
    format: Format
    section: str


@dataclass(frozen=True)
class Change:
    """What became of a file: written, unchanged, removed, or kept (as the user has changed it)."""

    path: Path
    what: str


def place(agent: str, project: Path | None) -> Place:
    """Raises UsageError for an agent that is not known, or a project that is not there."""
    if project is not None and not project.is_dir():
        raise UsageError(f"there is no folder {project}", hint="name the project's top folder")
    base = project.absolute() if project else Path.home()
    if agent == "claude":
        config = base / (".mcp.json" if project else ".claude.json")
        return Place(agent, base, base / ".claude/skills", config, Format.JSON, "mcpServers")
    if agent == "codex":
        home = base / ".codex" if project else Path(os.environ.get("CODEX_HOME") or base / ".codex")
        return Place(agent, base, base / ".agents/skills", home / "config.toml", Format.TOML, "mcp_servers")
    raise UsageError(f"there is no agent {agent!r}", hint=f"{', '.join(AGENTS)} or all")


def install(places: Iterable[Place]) -> list[Change]:
    """Put the skills and the servers there; again does no harm. Raises UsageError before anything is touched when a
    file there is not to be touched: a configuration that does not parse, a skill of that name by somebody else."""
    prepared = [_prepared(where) for where in places]
    return [change for job in prepared for change in _install(job)]


def uninstall(places: Iterable[Place]) -> list[Change]:
    """Take out what `install` put there; the rest stays as it is. Raises UsageError before anything is touched."""
    read = [(where, agent_config.read(where.config, where.format)) for where in places]
    return [change for where, edit in read for change in _uninstall(where, edit)]


@dataclass(frozen=True)
class _Job:
    where: Place
    edit: agent_config.Config
    wanted: dict[str, bytes]
    # What the last install left: its files' checksums; whether the configuration and its section were there before.
    ours: dict[str, str]
    before: dict[str, bool]


def _prepared(where: Place) -> _Job:
    record = runs.read_json(where.skills / _RECORD)
    ours: dict[str, str] = record.get("files", {})
    wanted = {str(path): data for path, data in _skills()}
    for name in sorted({Path(path).parts[0] for path in wanted}):
        if (where.skills / name).exists() and not any(path.startswith(f"{name}/") for path in ours):
            raise UsageError(f"{where.skills / name} is there already, and not from here", hint="move it away")
    edit = agent_config.read(where.config, where.format)
    before = record.get("before") or {"config": where.config.exists(), "section": edit.has(where.section)}
    for server in SERVERS:
        edit.put(where.section, f"kernloop-{server}", _entry(where, server))
    return _Job(where, edit, wanted, ours, before)


def _install(job: _Job) -> list[Change]:
    folder = job.where.skills
    with _writing(job.where):
        changes = [_write(folder, path, data, job.ours) for path, data in job.wanted.items()]
        changes += [_remove(folder, path, job.ours) for path in sorted(set(job.ours) - set(job.wanted))]
        kept = {change.path for change in changes if change.what == "kept"}
        files = {path: _sum(data) for path, data in job.wanted.items()}
        # What is kept is the user's, but its folder stays known as ours.
        files |= {path: job.ours.get(path, "") for path in {*job.ours, *files} if folder / path in kept}
        folder.mkdir(parents=True, exist_ok=True)
        runs.write_json(folder / _RECORD, {"files": files, "before": job.before})
        changes.append(Change(job.where.config, "written" if job.edit.save() else "unchanged"))
    return changes


def _uninstall(where: Place, edit: agent_config.Config) -> list[Change]:
    record = runs.read_json(where.skills / _RECORD)
    files, before = record.get("files", {}), record.get("before", {"config": True, "section": True})
    had = [edit.remove(where.section, f"kernloop-{server}") for server in SERVERS]
    if not before["section"]:
        edit.drop_if_empty(where.section)
    with _writing(where):
        changes = [_remove(where.skills, path, files) for path in sorted(files)]
        (where.skills / _RECORD).unlink(missing_ok=True)
        _prune(where.skills, where.base)
        if any(had):
            changes.append(Change(where.config, "removed"))
            if edit.empty and not before["config"]:
                where.config.unlink()
                _prune(where.config.parent, where.base)
            else:
                edit.save()
    return changes


class _writing:
    """An OSError inside becomes a HarnessError that names the place."""

    def __init__(self, where: Place) -> None:
        self._where = where

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            raise HarnessError(
                f"cannot write {error.filename or self._where.skills}: {error.strerror}",
                hint="is it yours, is there room?",
            ) from None


def _entry(where: Place, server: str) -> dict[str, Any]:
    command, *words = _command()
    entry: dict[str, Any] = {"command": command, "args": [*words, "mcp", server]}
    if where.agent == "claude":
        return {"type": "stdio", **entry}
    # A server that starts for the first time makes its Python environment; calls end within 50 s.
    return {**entry, "env_vars": _ENVIRONMENT, "startup_timeout_sec": 60, "tool_timeout_sec": 60}


# How an agent starts this kernloop, wherever it is.
def _command() -> list[str]:
    launcher = _ROOT / "kernloop"
    return [str(launcher)] if launcher.is_file() else [sys.executable, "-m", "kernloop"]


def _data() -> Path:
    return _ROOT if (_ROOT / "skills").is_dir() else Path(__file__).parent / "data"


# Every file of every skill; what is named relative to a checkout is named in full.
def _skills() -> Iterable[tuple[Path, bytes]]:
    data = _data()
    command = shlex.join(_command())
    for file in sorted((data / "skills").rglob("*")):
        if not file.is_file():
            continue
        content = file.read_bytes()
        if file.suffix == ".md":
            text = content.decode().replace("./kernloop", command)
            content = re.sub(r"(?<![\w./])examples/", f"{data}/examples/", text).encode()
        yield file.relative_to(data / "skills"), content


def _sum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _write(folder: Path, path: str, data: bytes, ours: dict[str, str]) -> Change:
    target = folder / path
    if target.exists():
        there = _sum(target.read_bytes())
        if there == _sum(data):
            return Change(target, "unchanged")
        if there != ours.get(path):
            return Change(target, "kept")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)
    return Change(target, "written")


def _remove(folder: Path, path: str, ours: dict[str, str]) -> Change:
    target = folder / path
    if target.exists() and _sum(target.read_bytes()) != ours[path]:
        return Change(target, "kept")
    target.unlink(missing_ok=True)
    if target.parent.is_dir():
        _prune(target.parent, folder)
    return Change(target, "removed")


# Empty folders below `stop`, from the inside out: they were made for what is gone now.
def _prune(folder: Path, stop: Path) -> None:
    while folder != stop and stop in folder.parents and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent
