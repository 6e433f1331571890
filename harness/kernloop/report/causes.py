# SPDX-License-Identifier: Apache-2.0
"""Several reports of one log: which is a cause, and which only follows from it.

The kernel itself says that something went before: `Tainted:` has D after an oops, B after a bad page or a sanitizer's
report (Documentation/admin-guide/tainted-kernels.rst). A task that died in an oops keeps what it held: locks, RCU
readers; whoever needs these hangs. What is repeated word by word is the same thing once more.

>>> causes([])
()
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .crash import Crash
from .severity import Severity

__all__ = ["Cause", "causes"]

_MEMORY = ("kasan", "kfence", "bad-page", "bad-access", "slub", "corrupted-list")


@dataclass(frozen=True)
class Cause:
    """`report` is the place of the cause in the log's list of reports, from 0; `why` says how the one follows."""

    report: int
    why: str


def causes(crashes: Sequence[Crash]) -> tuple[Cause | None, ...]:
    """For each report the earlier one that it follows from; None for what stands for itself."""
    return tuple(_cause(crashes, number) for number in range(len(crashes)))


def _cause(crashes: Sequence[Crash], number: int) -> Cause | None:
    crash = crashes[number]
    earlier = range(number)
    for other in earlier:
        if crashes[other].fingerprint == crash.fingerprint:
            return Cause(other, "the same once more")
    if crash.severity is Severity.EJECTED:
        return None
    flags = _flags(crash.tainted)
    died = [other for other in earlier if crashes[other].severity in (Severity.OOPS, Severity.PANIC)]
    if died and "D" in flags:
        return Cause(died[-1], "the kernel had oopsed before, says its taint D")
    corrupted = [other for other in earlier if crashes[other].family.startswith(_MEMORY)]
    if corrupted and "B" in flags and crash.severity in (Severity.OOPS, Severity.PANIC):
        return Cause(corrupted[-1], "memory was corrupt before, says the taint B")
    if crash.severity is Severity.HANG:
        if died:
            return Cause(died[-1], "a task that dies in an oops keeps the locks that it holds")
        hangs = [other for other in earlier if crashes[other].severity is Severity.HANG]
        if hangs and crash.kind in ("rcu-stall", "hung-task", "workqueue-lockup"):
            return Cause(hangs[0], "CPUs or tasks hang already: the others wait for them")
    return None


# The letters of `Tainted: G      D W         6.12.0`, or `[D]=DIE, [W]=WARN` (since 6.13).
def _flags(tainted: str) -> set[str]:
    return {word for word in tainted.replace("[", " ").replace("]", " ").split() if len(word) == 1}
