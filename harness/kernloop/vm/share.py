# SPDX-License-Identifier: Apache-2.0
"""What a guest with the host's user space shares with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["HOSTED_ENV", "Share"]

# What a command finds in its environment: the host's programs where hosts have them.
HOSTED_ENV = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "TERM": "dumb",
}


@dataclass(frozen=True)
class Share:
    """The caller's folder: the guest sees at once what changes there, and if `writable`, its writes reach the host."""

    folder: Path
    writable: bool = False
