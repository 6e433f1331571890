# SPDX-License-Identifier: Apache-2.0
"""`kernloop report --vmlinux`: which files decode a console."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kernloop.errors import UsageError
from kernloop.kernel import debugfiles
from kernloop.present.logs import Log
from kernloop.runs import read_json

if TYPE_CHECKING:
    from kernloop.report.symbols import Images

__all__ = ["find_images"]


def find_images(log: Log | None, vmlinux: Sequence[Path]) -> Images | None:
    """The files that were named, or those of the run that the log is of; None without any. Raises UsageError."""
    if not vmlinux:
        return debugfiles.noted(log.run) if log and log.run else None
    for path in vmlinux:
        if not path.exists():
            raise UsageError(f"no such file: {path}", hint="--vmlinux takes a vmlinux, a .ko or a folder of them")
    # drgn, capstone and pyelftools take 0.1 s to import.
    from kernloop.report.symbols import Images

    seen = read_json(log.run / "verdict.json").get("kernel") if log and log.run else None
    return Images(vmlinux, build_id=str((seen or {}).get("guest_build_id") or ""))
