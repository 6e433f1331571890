# SPDX-License-Identifier: Apache-2.0
"""Numbers of sched_ext by the names that this kernel's BTF has for them."""

from __future__ import annotations

from drgn import Program

__all__ = ["bits", "constant", "cpus_of", "dsq_name", "enumerator", "hz", "state_mask", "task_state"]

_BUILTIN, _LOCAL_ON = 1 << 63, 1 << 62
_DSQ = "SCX_DSQ_"
_FLAGS = "scx_ent_flags"
# Where they are in 6.12.
_STATE = (("SHIFT", 8), ("BITS", 2))
_KEY = "kernloop.enumerators"
_NO_NAMES = ("FLAG_BUILTIN", "FLAG_LOCAL_ON", "LOCAL_ON", "LOCAL_CPU_MASK")


def _enumerators(prog: Program, enum: str) -> tuple[tuple[str, int], ...]:
    known: tuple[tuple[str, int], ...] | None = prog.cache.get((_KEY, enum))
    if known is None:
        try:
            known = tuple((name, value) for name, value in prog.type(f"enum {enum}").enumerators or ())
        except LookupError:
            known = ()
        prog.cache[_KEY, enum] = known
    return known


def bits(prog: Program, enum: str, value: int, strip: str, without: int = 0) -> tuple[str, ...]:
    """The names of the bits set in `value`, without the prefix `strip` and those of the mask `without`; the rest in
    hexadecimal."""
    names = []
    value &= ~without
    for name, bit in _enumerators(prog, enum):
        # Shifts and widths stand among the flags.
        if bit & (bit - 1) or not bit & value or name.endswith(("_SHIFT", "_BITS", "_MASK")):
            continue
        names.append(name.removeprefix(strip))
        value &= ~bit
    return (*names, *([f"{value:#x}"] if value else []))


def enumerator(prog: Program, enum: str, value: int, strip: str = "") -> str:
    """The name of `value`, or the number."""
    return next((name.removeprefix(strip) for name, known in _enumerators(prog, enum) if known == value), str(value))


def constant(prog: Program, enum: str, name: str, otherwise: int) -> int:
    """The enumerator's value, `otherwise` in a kernel without it."""
    return next((value for known, value in _enumerators(prog, enum) if known == name), otherwise)


def state_mask(prog: Program) -> int:
    """Where the task's state is in its flags."""
    shift, width = (constant(prog, _FLAGS, f"SCX_TASK_STATE_{name}", value) for name, value in _STATE)
    return ((1 << width) - 1) << shift


def task_state(prog: Program, flags: int) -> str:
    """none, init, ready, enabled, ...: enum scx_task_state until 7.0, then among the flags at their place."""
    mask = state_mask(prog)
    known = [(name, value << 8) for name, value in _enumerators(prog, "scx_task_state")]
    known += [(name, value) for name, value in _enumerators(prog, "scx_ent_flags") if not value & ~mask]
    for name, value in known:
        if value == flags & mask and not name.endswith(("_SHIFT", "_BITS", "_MASK", "REENQ_NONE", "NR_STATES")):
            return name.removeprefix("SCX_TASK_").lower()
    return f"{(flags & mask) >> 8}"


def dsq_name(prog: Program, id_: int) -> str:
    """GLOBAL, LOCAL, LOCAL_ON 3, BYPASS, ... for a built-in one; a user's by its number."""
    if not id_ & _BUILTIN:
        return f"{id_:#x}"
    if id_ & _LOCAL_ON:
        return f"LOCAL_ON {id_ & 0xFFFFFFFF}"
    for name, value in _enumerators(prog, "scx_dsq_id_flags"):
        if value == id_ and name.removeprefix(_DSQ) not in _NO_NAMES:
            return name.removeprefix(_DSQ)
    return f"{id_:#x}"


def hz(prog: Program) -> int:
    """CONFIG_HZ: SCX_WATCHDOG_MAX_TIMEOUT is 30 * HZ (enum scx_consts)."""
    return constant(prog, "scx_consts", "SCX_WATCHDOG_MAX_TIMEOUT", 30 * 250) // 30


def cpus_of(mask: int) -> str:
    """CPUs as the kernel lists them: 0-3,8."""
    spans, cpu = [], 0
    while mask >> cpu:
        if mask >> cpu & 1:
            begin = cpu
            while mask >> cpu + 1 & 1:
                cpu += 1
            spans.append(f"{begin}-{cpu}" if cpu > begin else f"{begin}")
        cpu += 1
    return ",".join(spans)
