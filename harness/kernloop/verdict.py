# SPDX-License-Identifier: Apache-2.0
"""The one typed answer that a run ends with, its order of severity, and the exit codes that follow from it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

__all__ = ["Evidence", "KernelSeen", "Outcome", "Verdict", "Vmcore", "exit_code", "guest_exit_code", "worst"]


class Verdict(StrEnum):
    """What became of the subject; a run is `unknown` until proven otherwise."""

    UNKNOWN = "unknown"
    PASS = "pass"
    COMMAND_FAILED = "command-failed"
    BUILD_FAILED = "build-failed"
    REJECTED = "rejected"
    EJECTED = "ejected"
    TEST_FAILED = "test-failed"
    OOPS = "oops"
    PANIC = "panic"
    BOOT_HANG = "boot-hang"
    HANG = "hang"
    LOST = "lost"
    INCONCLUSIVE = "inconclusive"
    INFRA = "infra"


# A crash outranks its symptoms: the first of these that was seen is the verdict.
_SEVERITY = (
    Verdict.PANIC,
    Verdict.OOPS,
    Verdict.EJECTED,
    Verdict.REJECTED,
    Verdict.BOOT_HANG,
    Verdict.HANG,
    Verdict.LOST,
    Verdict.INFRA,
    Verdict.BUILD_FAILED,
    Verdict.TEST_FAILED,
    Verdict.INCONCLUSIVE,
    Verdict.COMMAND_FAILED,
    Verdict.PASS,
    Verdict.UNKNOWN,
)

_OURS = frozenset({Verdict.UNKNOWN, Verdict.LOST, Verdict.INCONCLUSIVE, Verdict.INFRA})


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The most severe of `verdicts`; `unknown` when there is none."""
    return min(verdicts, key=_SEVERITY.index, default=Verdict.UNKNOWN)


def exit_code(verdict: Verdict) -> int:
    """The exit code of verbs that judge a subject: 0 as wished, 1 the subject's fault, 125 ours or undecided."""
    if verdict is Verdict.PASS:
        return 0
    return 125 if verdict in _OURS else 1


def guest_exit_code(verdict: Verdict, status: int | None) -> int:
    """The exit code of verbs that run a command in a guest.

    The command's own code, but 120 when the kernel crashed, 124 when the deadline passed and 125 when we failed; a
    command's code that would be mistaken for one of those, or that a shell would read as a signal, becomes 1. So
    `git bisect run` skips on our faults and never aborts.
    """
    if verdict in (Verdict.PANIC, Verdict.OOPS):
        return 120
    if verdict in (Verdict.HANG, Verdict.BOOT_HANG):
        return 124
    if verdict in _OURS or status is None:
        return 125
    return 1 if status in (120, 124, 125) or not 0 <= status <= 127 else status


@dataclass(frozen=True)
class Evidence:
    """A file in the run directory and what it shows; `lines` is a 1-based inclusive range of the console."""

    path: str
    what: str
    lines: tuple[int, int] | None = None


@dataclass(frozen=True)
class KernelSeen:
    """The kernel asked for and the one that the guest said it runs; `matches` is None when the guest never said."""

    ref: str
    release: str
    build_id: str
    guest_release: str | None = None
    guest_build_id: str | None = None

    @property
    def matches(self) -> bool | None:
        if self.guest_build_id is None:
            return None
        return self.guest_build_id == self.build_id


@dataclass(frozen=True)
class Vmcore:
    """The dump that a run was asked for: `path` in the run directory, "" where `error` says why there is none. `of` is
    what it was taken at: panic, oops or hang; `seconds` is what taking it took."""

    path: str
    of: str
    format: str = ""
    bytes: int = 0
    seconds: float = 0.0
    error: str = ""


@dataclass(frozen=True)
class Outcome:
    """How a run ended. `summary` is one line, `next` the command or step to take now, `times` are seconds.

    `function` and `kind` are those of a crash, as `kernloop report` tells them, `place` its file and line where the
    kernel was built here.
    """

    verdict: Verdict
    summary: str
    next: str = ""
    kernel: KernelSeen | None = None
    exit_status: int | None = None
    function: str | None = None
    kind: str | None = None
    place: str | None = None
    evidence: tuple[Evidence, ...] = ()
    times: dict[str, float] = field(default_factory=dict)
    console_sha256: str | None = None
    vmcore: Vmcore | None = None
