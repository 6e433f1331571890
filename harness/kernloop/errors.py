# SPDX-License-Identifier: Apache-2.0
"""What goes wrong outside a guest, told apart by whose fault it is.

Three exit codes keep the blame apart (docs/architecture.md): 1 the subject's, 2 the caller's, 125 the machine's or
ours. A fault inside a guest is not an exception but a verdict (kernloop.verdict).
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["HarnessError", "SubjectError", "UsageError"]


class HarnessError(Exception):
    """The machine or kernloop failed: what happened, what to do next, where the evidence lies."""

    exit_code = 125
    verdict: str | None = "infra"

    def __init__(self, message: str, *, hint: str = "", evidence: Path | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.evidence = evidence


class UsageError(HarnessError):
    """The caller asked for something that is not there or makes no sense: nothing ran, so there is no verdict."""

    exit_code = 2
    verdict = None


class SubjectError(HarnessError):
    """The subject itself is at fault before any guest ran: a kernel that lacks what the job needs, say."""

    exit_code = 1
    verdict = "rejected"
