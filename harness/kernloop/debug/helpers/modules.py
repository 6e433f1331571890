# SPDX-License-Identifier: Apache-2.0
"""The modules that are loaded, as /proc/modules has them."""

from __future__ import annotations

from dataclasses import dataclass

from drgn import FaultError, Program

from kernloop.debug.code import code_of

__all__ = ["ModuleRow", "modules"]

# enum module_state (include/linux/module.h), in the words of /proc/modules (kernel/module/procfs.c).
_STATES = ("Live", "Loading", "Unloading", "unformed")


@dataclass(frozen=True)
class ModuleRow:
    """`base` is where its code begins, `size` all of its areas; `users` as module_refcount() counts."""

    name: str
    state: str
    base: int
    size: int
    users: int


def modules(prog: Program) -> tuple[ModuleRow, ...]:
    """The newest first."""
    found = []
    for one in code_of(prog).modules:
        try:
            state = one.struct.state.value_()
            # A module that may be unloaded has one reference of its own: MODULE_REF_BASE.
            users = max(one.struct.refcnt.counter.value_() - 1, 0)
        except (FaultError, AttributeError):
            state, users = len(_STATES) - 1, 0
        size = sum(end - begin for begin, end in one.areas)
        found.append(ModuleRow(one.name, _STATES[min(state, 3)], one.areas[0][0], size, users))
    return tuple(found)
