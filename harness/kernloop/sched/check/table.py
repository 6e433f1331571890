# SPDX-License-Identifier: Apache-2.0
"""The table of rules: data/sched_rules.toml."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources

__all__ = ["Rule", "rules"]


@dataclass(frozen=True)
class Rule:
    """`mistake` is the number in the table of usual mistakes, 0 for others. `exactness`: E exact, H heuristic.

    `at_run_time` is what the kernel does about it; `messages` are ids of report/data/scx_messages.json, `kind` is the
    exit kind. `since`: the first release for which the rule holds.
    """

    id: str
    mistake: int
    title: str
    exactness: str
    at_run_time: str
    why: str
    cure: str
    kind: str = ""
    messages: tuple[str, ...] = ()
    since: str = "6.12"


@cache
def rules() -> dict[str, Rule]:
    """All rules by their id, in the order of the table."""
    text = resources.files("kernloop.sched.check").joinpath("data/sched_rules.toml").read_text()
    return {
        one["id"]: Rule(**{**one, "messages": tuple(one.get("messages", ()))}) for one in tomllib.loads(text)["rule"]
    }
