# SPDX-License-Identifier: Apache-2.0
"""This machine in a line, for the record of a run."""

from __future__ import annotations

import os
import re
from pathlib import Path

__all__ = ["about"]


def about() -> str:
    """Kernel, processor, how many CPUs are ours, and how busy they are now."""
    cpus = len(os.sched_getaffinity(0))
    found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(errors="replace"), re.M)
    model = found[1] if found else "unknown processor"
    return f"{os.uname().release}, {cpus} of {os.cpu_count()} CPUs ({model}), load {os.getloadavg()[0]:.2f}"
