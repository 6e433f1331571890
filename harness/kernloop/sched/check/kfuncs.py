# SPDX-License-Identifier: Apache-2.0
"""What data/sched_api.toml says of kfuncs and ops: who may call what, what may sleep, what took whose place."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from kernloop.sched.obj.model import essential, plain

__all__ = ["Heir", "callers", "heirs", "may_sleep", "releases_with", "sleeping_kfuncs"]

# Groups of kfuncs that any op may call.
_ANYWHERE = frozenset({"any", "idle", "cid"})


@dataclass(frozen=True)
class Heir:
    """`new` does what `old` did, from release `since` on; `note` says what else changed."""

    old: str
    new: str
    since: str
    note: str


def callers(kfunc: str) -> frozenset[str] | None:
    """The ops that may call a kfunc of sched_ext, which may have a flavour; None: all, or it is none of sched_ext.

    As scx_kf_allow_flags[] of the kernel has it from 7.1 on; an op of the cid form may what the one in its place may.
    """
    return _callers(_groups(kfunc))


def sleeping_kfuncs() -> frozenset[str]:
    """The kfuncs that may sleep."""
    return frozenset(_table()["sleepable_kfuncs"])


def may_sleep(op: str) -> bool:
    """Whether any kernel takes a sleepable program for that op."""
    return bool({op, _cpu_form(op)} & {one for ops in _table()["sleepable"].values() for one in ops})


@cache
def heirs() -> tuple[Heir, ...]:
    """The kfuncs that others took the place of."""
    return tuple(Heir(**row) for row in _table()["replaced"])


def releases_with(name: str) -> tuple[str, ...]:
    """The releases of the table that have it: a kfunc, or a constant or member of ops that not all of them have."""
    found = _table()["kfuncs"].get(essential(name)) or _table()["kfuncs"].get(plain(name))
    return tuple(found["in"]) if found else tuple(one for one, names in _table()["names"].items() if name in names)


def _groups(kfunc: str) -> frozenset[str]:
    known = _table()["kfuncs"]
    # A flavour that the kernel has itself (___v2) is a kfunc of its own; what else hangs on it is the scheduler's.
    name = kfunc
    while name not in known and name != essential(name):
        name = essential(name)
    found = known.get(name) or known.get(plain(kfunc))
    return frozenset(found["groups"]) if found else frozenset()


@cache
def _callers(groups: frozenset[str]) -> frozenset[str] | None:
    if not groups or groups & _ANYWHERE:
        return None
    found = {
        op
        for op, allowed in _table()["allowed"].items()
        if groups & {"enqueue_dispatch" if group == "enqueue" else group for group in allowed}
    }
    return frozenset(found | {form for op in found for form in _cid_forms(op)})


def _cid_forms(op: str) -> tuple[str, ...]:
    form = op.replace("cgroup_", "cpuctl_").replace("select_cpu", "select_cid").replace("cpu_o", "cid_o")
    return (form,) if form != op else ()


def _cpu_form(op: str) -> str:
    return op.replace("cpuctl_", "cgroup_").replace("cid_o", "cpu_o")


@cache
def _table() -> dict[str, Any]:
    return tomllib.loads((resources.files("kernloop.sched.check") / "data/sched_api.toml").read_text())
