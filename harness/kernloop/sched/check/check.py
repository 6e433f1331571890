# SPDX-License-Identifier: Apache-2.0
"""All rules, applied to one object."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from kernloop.sched.check import rules_api, rules_cpu, rules_dispatch, rules_dsq, rules_ops, rules_task, rules_vtime
from kernloop.sched.check.finding import Finding
from kernloop.sched.check.places import Places
from kernloop.sched.check.report import Report
from kernloop.sched.check.scene import Scene, look
from kernloop.sched.obj.kernel import KernelTypes
from kernloop.sched.obj.model import SchedObject
from kernloop.sched.obj.world import World

__all__ = ["check", "summary"]

_RULES: tuple[Callable[[Scene, Report], None], ...] = (
    rules_task.lost_task,
    rules_dsq.uncreated,
    rules_dsq.created_twice,
    rules_dsq.never_consumed,
    rules_cpu.affinity,
    rules_cpu.migration,
    rules_task.double_insert,
    rules_task.wrong_task,
    rules_dsq.vtime_builtin,
    rules_dsq.mixed_order,
    rules_task.invalid_cpu,
    rules_ops.wrong_context,
    rules_ops.idle_kfuncs,
    rules_ops.enq_last,
    rules_vtime.unclamped,
    rules_vtime.weight_reversed,
    rules_ops.timeout,
    rules_dispatch.kthreads_last,
    rules_dispatch.batch,
    rules_ops.kick_flags,
)

# What they find rests on members of the ops table that a loader may set.
_OF_TABLE = (rules_ops.idle_kfuncs, rules_ops.enq_last, rules_ops.timeout, rules_dispatch.batch)


def check(
    obj: SchedObject,
    *,
    source: Path | None = None,
    kernel: KernelTypes | None = None,
    config: Mapping[str, str] | None = None,
    release: tuple[int, ...] | None = None,
    own_loader: bool = False,
) -> list[Finding]:
    """What is wrong with `obj`, the weightiest first. `source` is the file it was compiled from.

    `kernel` has the types of the kernel that shall run it, `config` and `release` are that kernel's. With `own_loader`
    what the ops table says of flags and limits is not the last word.
    """
    scene = look(World(obj, kernel, config), Places(obj, source), release, own_loader)
    report = Report(scene)
    for rule in _RULES:
        if not own_loader or rule not in _OF_TABLE:
            rule(scene, report)
    rules_api.api(scene, report)
    return report.findings


def summary(findings: Iterable[Finding]) -> str:
    """N must, M may, K undecided."""
    levels = [one.level for one in findings]
    return f"{levels.count('must')} must, {levels.count('may')} may, {levels.count('unknown')} undecided"
