# SPDX-License-Identifier: Apache-2.0
"""What several tests need: kernloop as a process, waiting for a condition, looking for what was left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

ROOT = Path(__file__).parent.parent
SCHEDULERS = ROOT / "examples/schedulers"
T = TypeVar("T")


@dataclass(frozen=True)
class Done:
    """A finished kernloop; `out` and `err` as bytes, for a guest may print anything."""

    status: int
    out: bytes
    err: bytes

    @property
    def text(self) -> str:
        return self.err.decode(errors="replace")

    @property
    def json(self) -> dict[str, Any]:
        value = json.loads(self.out)
        assert isinstance(value, dict)
        return value


def until(condition: Callable[[], T], seconds: float, what: str) -> T:
    """The first true value of `condition`; fails when there is none within `seconds`."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what}")
        time.sleep(0.02)
    return value


def python_env(**more: str) -> dict[str, str]:
    """The environment in which a child Python finds this kernloop."""
    return {**os.environ, "PYTHONPATH": f"{ROOT / 'harness'}:{ROOT / 'mcp_servers'}", **more}


def start(
    *words: str | Path, cwd: Path | None = None, stdout: int = subprocess.PIPE, env: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """kernloop as a user starts it, in a process group of its own, its output in pipes."""
    return subprocess.Popen(
        [sys.executable, "-m", "kernloop", *map(str, words)],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        env=python_env(**(env or {})),
        cwd=cwd,
        start_new_session=True,
    )


def kernloop(*words: str | Path, seconds: float = 120, cwd: Path | None = None, **env: str) -> Done:
    """kernloop run to its end."""
    process = start(*words, cwd=cwd, env=env)
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    return Done(process.returncode, out, err)


def child(script: str, *words: str | Path) -> subprocess.Popen[str]:
    """A Python process of ours that runs `script`; it talks over its stdout."""
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, words)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=python_env(),
    )


def said(process: subprocess.Popen[str]) -> str:
    """The next line of what `child` prints; "" when it has ended."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def alive(pid: int) -> bool:
    """Whether process `pid` runs: a zombie does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def command_lines() -> dict[int, list[str]]:
    """What runs on this machine beside us, zombies left out."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
        except OSError:
            continue
        if words and alive(int(entry.name)):
            found[int(entry.name)] = words
    return found


def processes_naming(text: str | Path) -> list[int]:
    """Processes other than this one that have `text` in their command line."""
    return [pid for pid, words in command_lines().items() if any(str(text) in word for word in words)]


def parent(pid: int) -> int:
    """Whose child process `pid` is; 0 when it is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def server_of(name: str) -> int:
    """The MCP server `name` that this process has started."""
    [pid] = [
        pid for pid, words in command_lines().items() if words[-2:] == ["mcp", name] and parent(pid) == os.getpid()
    ]
    return pid


def keeper_of(pid: int) -> int:
    """The keeper that kernloop's process `pid` started."""

    def found() -> list[int]:
        return [of for of, words in command_lines().items() if "keeper.py" in words[-2:][0] and words[-1] == str(pid)]

    # Its parent may go on a moment before the kernel shows its new command line.
    [keeper] = until(found, 10, f"a keeper of {pid}")
    return keeper


def runs_dir() -> Path:
    return Path(os.environ["XDG_STATE_HOME"]) / "kernloop/runs"


def the_run() -> Path | None:
    """The only run directory of this test, once it is there."""
    found = list(runs_dir().iterdir()) if runs_dir().exists() else []
    assert len(found) <= 1, found
    return found[0] if found else None


def verdict_of(run: Path) -> dict[str, Any]:
    value = json.loads((run / "verdict.json").read_text())
    assert isinstance(value, dict)
    return value


def events_of(run: Path) -> list[dict[str, Any]]:
    """The timeline as far as it is written."""
    path = run / "timeline.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]
