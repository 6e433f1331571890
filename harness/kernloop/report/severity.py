# SPDX-License-Identifier: Apache-2.0
"""How bad a report is."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Severity"]


class Severity(StrEnum):
    """How bad it is, worst first; `ejected` is a sched_ext scheduler thrown out by a healthy kernel."""

    PANIC = "panic"
    OOPS = "oops"
    EJECTED = "ejected"
    HANG = "hang"
    WARNING = "warning"
