# SPDX-License-Identifier: Apache-2.0
"""What a scheduler is seen to do, by its object: no promise, but what it does it should not do backwards."""

from __future__ import annotations

from pathlib import Path

from kernloop.sched.obj import load
from kernloop.sched.obj.load import ObjectError
from kernloop.sched.obj.model import SchedObject

__all__ = ["of_file", "seen"]

# enum scx_ops_flags in kernel/sched/ext_internal.h (ext.c before 6.18).
_SWITCH_PARTIAL = 1 << 3


def of_file(path: Path | None) -> tuple[str, ...]:
    """What is seen in the object at `path`; nothing where there is none, or none that can be read."""
    try:
        return seen(load.load(path)) if path else ()
    except ObjectError:
        return ()


def seen(one: SchedObject) -> tuple[str, ...]:
    """Of `selection.CLAIMS` those that `one` has the means for."""
    members = {member for table in one.ops for member in table.members}
    flags = [table.scalars.get("flags", 0) for table in one.ops]
    found = {
        "weights": "set_weight" in members or _reads(one, "task_struct.scx.weight"),
        "cgroups": "cgroup_set_weight" in members,
        "partial": any(flag & _SWITCH_PARTIAL for flag in flags if isinstance(flag, int)),
        "hotplug": bool(members & {"cpu_online", "cpu_offline"}),
    }
    return tuple(name for name, there in found.items() if there)


def _reads(one: SchedObject, field: str) -> bool:
    return any(
        insn.core is not None and insn.core.name == field for program in one.programs.values() for insn in program.insns
    )
