# SPDX-License-Identifier: Apache-2.0
"""A per-CPU variable on all CPUs, and where they differ."""

from __future__ import annotations

from typing import Any

from drgn import Program
from drgn.helpers.linux.cpumask import for_each_online_cpu

from kernloop.debug.values import Limits, plain
from kernloop.debug.walk import per_cpu_variable

__all__ = ["differences"]

_LIMITS = Limits(depth=3, elements=16, values=2000)


def differences(prog: Program, variable: str) -> dict[str, list[Any]]:
    """Each member of `variable`, by its path, that is not the same on all CPUs that are online: its value on each."""
    found = []
    for cpu in for_each_online_cpu(prog):
        flat: dict[str, Any] = {}
        _flatten(plain(per_cpu_variable(prog[variable], cpu), _LIMITS), variable, flat)
        found.append(flat)
    paths = dict.fromkeys(path for flat in found for path in flat)
    rows = {path: [flat.get(path) for flat in found] for path in paths}
    return {path: values for path, values in rows.items() if any(value != values[0] for value in values)}


def _flatten(value: Any, path: str, into: dict[str, Any]) -> None:
    if isinstance(value, dict):
        for name, one in value.items():
            _flatten(one, f"{path}.{name}", into)
    elif isinstance(value, list):
        for place, one in enumerate(value):
            _flatten(one, f"{path}[{place}]", into)
    else:
        into[path] = value
