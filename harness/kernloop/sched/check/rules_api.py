# SPDX-License-Identifier: Apache-2.0
"""What keeps the object from being loaded: `api.problems`, told as findings."""

from __future__ import annotations

from kernloop.sched.check.api import problems
from kernloop.sched.check.report import Report
from kernloop.sched.check.scene import Scene

__all__ = ["api"]


def api(scene: Scene, report: Report) -> None:
    """Kfuncs, members and flags that the kernel lacks; licence, sections, calls that may sleep.

    A loader of its own may ask the kernel first and set constants, flags and which programs are loaded: nothing is sure
    then but the licence.
    """
    for problem in problems(scene):
        program = scene.obj.programs.get(problem.program)
        line = None
        if program is not None:
            line = scene.places.first(program) if problem.at is None else scene.places.line(program, problem.at)
        level = problem.level
        if scene.own_loader and level == "must" and problem.rule != "licence":
            level = "may"
        report.on(problem.rule, level, problem.program, line, problem.why, cure=problem.cure)
