# SPDX-License-Identifier: Apache-2.0
"""What a kind of report means, how it is read, what to run next, what to switch on for the next time.

One table (data/advice.toml) for all who say so: `next` of the JSON, `kernloop report --explain`, the MCP tool, and the
skill panic-triage, whose references are `reference(...)`. A kind's own fields win over its family's.

>>> explain("hung-task").name, explain("rcu-stall").family
('hung-task', 'hang')
"""

from __future__ import annotations

import re
import shlex
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from .crash import Crash
from .kinds import family

__all__ = [
    "DAMAGED",
    "SILENT",
    "Advice",
    "Place",
    "Setting",
    "Step",
    "advice",
    "explain",
    "groups",
    "next_step",
    "reference",
    "topics",
]

# Topics that are no kind: a report that is not whole, and a machine that says nothing.
DAMAGED, SILENT = "damaged", "silent-hang"
_OTHER = "other"
_ASKS = re.compile(r"kernloop vm (?:sysrq|nmi) ")
_BLANK = re.compile(r"\{(function|kind|report|tree|vm|command)\}")


@dataclass(frozen=True)
class Place:
    """What is known of where a report is from; what is empty stands in a command as a word to be filled in."""

    report: str = ""
    tree: str = ""
    vm: str = ""
    command: tuple[str, ...] = ()


@dataclass(frozen=True)
class Step:
    """A command to run, and why. `asks`: a VM that lives answers it, and no other."""

    why: str
    command: str
    asks: bool = False


@dataclass(frozen=True)
class Setting:
    """What to switch on next time, as kernloop spells it (`--append WORD`, `--fragment NAME`), and what it gives."""

    setting: str
    gives: str


@dataclass(frozen=True)
class Advice:
    """`next` is what to do first, `read` the steps of reading, `facts` the symbols that decide what a report says."""

    name: str
    family: str
    means: str
    next: str
    read: tuple[str, ...]
    run: tuple[Step, ...]
    later: tuple[Setting, ...]
    facts: tuple[str, ...]
    docs: tuple[str, ...]


def topics() -> tuple[str, ...]:
    """What the table knows by name: kinds, families, `damaged` and `silent-hang`, in its order."""
    return tuple(_table())


def explain(topic: str, *, function: str | None = None, place: Place | None = None) -> Advice:
    """The advice on a kind, family or topic; on `other` where the table does not know it."""
    own, general, last = _table().get(topic, {}), _table().get(family(topic), {}), _table()[_OTHER]
    row: dict[str, Any] = {**last, **general, **own}
    where = place or Place()
    blanks = {
        "function": function or "FUNCTION",
        "kind": topic,
        "report": where.report or "LOG",
        "tree": where.tree or "DIR",
        "vm": where.vm or "NAME",
        "command": shlex.join(where.command) or "CMD",
    }
    named = {**blanks, "function": f"{function}()" if function else "the function"}

    def said(text: str) -> str:
        return _BLANK.sub(lambda match: named[match[1]], text)

    def filled(command: str) -> str:
        return _BLANK.sub(lambda match: blanks[match[1]], command)

    return Advice(
        topic if own else family(topic) if general else _OTHER,
        family(topic),
        said(row["means"]),
        said(row["next"]),
        tuple(map(said, row["read"])),
        tuple(Step(said(why), filled(command), bool(_ASKS.match(command))) for why, command in row["run"]),
        tuple(Setting(setting, said(gives)) for setting, gives in row["later"]),
        tuple(row["facts"]),
        tuple(row["docs"]),
    )


def advice(crash: Crash, place: Place | None = None) -> Advice:
    """The advice on a crash: on its kind, or on how to get the whole report where this one is damaged."""
    return explain(DAMAGED if crash.corrupted else crash.kind, function=crash.function, place=place)


def next_step(crash: Crash, place: Place | None = None, *, decoded: bool = False) -> str:
    """What to look at first, and the command to run: one that asks the VM only where there is one that lives, one that
    finds lines only where they are not there (`decoded`)."""
    found = advice(crash, place)
    lives = place is not None and bool(place.vm) and not crash.panicked
    run = [step for step in found.run if lives or not step.asks]
    step = next((step for step in run if not (decoded and " --vmlinux " in step.command)), None)
    return f"{found.next}; then {step.command}" if step else found.next


def groups() -> tuple[str, ...]:
    """The table's groups of topics, one page of the reference each."""
    return tuple(_file()["groups"])


def reference(group: str) -> str:
    """Markdown of a group of topics: a page that the skill panic-triage refers to. A kind says only what is its own."""
    about, *names = _file()["groups"][group]
    head = f"# {about}\n\nMade from kernloop's table; `./kernloop report --explain KIND` prints one of them.\n"
    return "\n".join([head, *map(_section, names)])


def _section(name: str) -> str:
    own, found = _table()[name], explain(name)
    about = f" ({found.family})" if found.family != name else ""
    lines = [f"## {name}{about}", "", " ".join([found.means] if "means" in own else []), f"First: {found.next}."]
    lines = [*lines[:2], " ".join(lines[2:]).strip()]
    if "read" in own:
        lines += ["", *(f"{number}. {step}" for number, step in enumerate(found.read, 1))]
    points = [f"- run, {step.why}: `{_here(step.command)}`" for step in found.run] if "run" in own else []
    points += [f"- next time `{one.setting}`: {one.gives}" for one in found.later] if "later" in own else []
    points += [f"- depends on {', '.join(found.facts)}"] if "facts" in own else []
    points += [f"- see {'; '.join(found.docs)}"] if "docs" in own else []
    return "\n".join([*lines, *([""] if points else []), *points]) + "\n"


# As documents spell it, to be run from a checkout's top.
def _here(command: str) -> str:
    return f"./{command}" if command.startswith("kernloop ") else command


def _table() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = _file()["topics"]
    return found


@cache
def _file() -> dict[str, Any]:
    text = resources.files(__package__).joinpath("data/advice.toml").read_text(encoding="utf-8")
    found = tomllib.loads(text)
    return {"groups": found.pop("groups"), "topics": found}
