# SPDX-License-Identifier: Apache-2.0
"""How a run is done again: kernloop's own command lines, from what its run directory recorded."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kernloop.runs import read_json, timeline

__all__ = ["Repeat", "of_run"]

# Of a VM that lived long, so many of its last commands are told.
_MOST = 20
# How the answer is given, not what is done.
_TELLING = {"--json": 0, "--junit": 1}


@dataclass(frozen=True)
class Repeat:
    """Command lines in their order, and the folder that they are relative to; `left_out` came before them."""

    commands: tuple[str, ...] = ()
    folder: str = ""
    left_out: int = 0


def of_run(run: Path) -> Repeat:
    """What was called to make the run at `run`; nothing where it does not say."""
    spec, events = read_json(run / "spec.json"), timeline(run)
    if spec.get("verb") == "vm":
        return _vm(spec, events)
    start = next((event for event in events if event["event"] == "start"), {})
    words = start.get("argv")
    if not words:
        return Repeat()
    return Repeat((_line(_asked(words)),), str(start.get("cwd") or ""))


def _line(words: Sequence[str]) -> str:
    return shlex.join(["kernloop", *words])


# The words without the options about the form of the answer; behind -- is the guest's command.
def _asked(words: Sequence[str]) -> list[str]:
    end = words.index("--") if "--" in words else len(words)
    kept: list[str] = []
    skip = 0
    for word in words[:end]:
        name, _, value = word.partition("=")
        if skip:
            skip -= 1
        elif name in _TELLING:
            skip = 0 if value else _TELLING[name]
        else:
            kept.append(word)
    return [*kept, *words[end:]]


# A VM is started by a client of the library, and used by others: each did what a command line would do.
def _vm(spec: dict[str, Any], events: list[dict[str, Any]]) -> Repeat:
    name = str(spec.get("name") or spec.get("subject") or "")
    done = [_line(["vm", *words]) for event in events if (words := _act(name, event))]
    return Repeat((_line(["vm", *_started(name, spec)]), *done[-_MOST:]), str(spec.get("folder") or ""),
                  max(len(done) - _MOST, 0))  # fmt: skip


def _act(name: str, event: dict[str, Any]) -> list[str]:
    match event["event"]:
        case "exec":
            return ["exec", name, "--", *event.get("argv", [])]
        case "sysrq":
            return ["sysrq", name, str(event.get("keys"))]
        case "nmi":
            return ["nmi", name]
    return []


def _started(name: str, spec: dict[str, Any]) -> list[str]:
    if spec.get("tag"):
        return ["restore", str(spec["tag"]), "--name", name]
    topology = spec.get("topology") or {}
    words = ["start", "--name", name, "--kernel", str(spec.get("kernel"))]
    words += ["--cpus", _cpus(topology), "--memory", f"{spec.get('memory', 512)}M", *_numa(topology)]
    words += [word for text in spec.get("append") or () for word in ("--append", str(text))]
    words += ["--seed", str(spec["seed"]), "--shift", str(spec.get("shift"))] if spec.get("seed") is not None else []
    words += ["--backend", str(spec["backend"])] if spec.get("backend", "micro") != "micro" else []
    return [*words, *(f"--{name}" for name in ("cold", "writable") if spec.get(name))]


# As --cpus takes it: a number, and how the CPUs are grouped where that was asked for.
def _cpus(topology: dict[str, Any]) -> str:
    levels = [f"{level}={topology[level]}" for level in ("sockets", "dies", "cores", "threads") if topology.get(level)]
    return ",".join([str(topology.get("cpus", 2)), *levels])


def _numa(topology: dict[str, Any]) -> list[str]:
    words: list[str] = []
    for node in topology.get("nodes") or ():
        cpus = "-".join(map(str, node["cpus"])) if node["cpus"] else ""
        words += ["--numa", f"{cpus}:{node['memory']}M"]
    for one, other, distance in topology.get("distances") or ():
        words += ["--distance", f"{one}-{other}:{distance}"] if one < other else []
    return words
