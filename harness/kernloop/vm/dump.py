# SPDX-License-Identifier: Apache-2.0
"""A guest's memory as a vmcore that crash and drgn read, taken by QEMU: the guest need not be alive."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from kernloop.errors import HarnessError, UsageError
from kernloop.host import owned
from kernloop.host.cache import need_space
from kernloop.vm.machine import Machine

__all__ = ["take"]

# A gigabyte takes 3 s as ELF; compression takes several times that.
_SECONDS = 300.0
# The best that this QEMU has: zlib is always built in, ELF is whole and large.
_FORMATS = ("kdump-zlib", "elf")


async def take(machine: Machine, path: Path, memory: int) -> dict[str, Any]:
    """Write the vmcore of a guest with `memory` MiB to `path`; gives its format and its size in bytes.

    Raises UsageError or HarnessError.
    """
    if path.exists():
        raise UsageError(f"{path} is there already", hint="name a new file")
    if not path.parent.is_dir():
        raise UsageError(f"there is no folder {path.parent}", hint="make it first")
    need_space(path.parent, memory // 2, "a vmcore")
    refused: HarnessError | None = None
    staging = path.with_name(f".{path.name}.{os.getpid()}.new")
    with owned.folder(staging):
        try:
            for kind in _FORMATS:
                try:
                    await machine.qmp(
                        "dump-guest-memory",
                        {"paging": False, "protocol": f"file:{staging}", "format": kind},
                        seconds=_SECONDS,
                    )
                except HarnessError as error:
                    refused = error
                    continue
                staging.rename(path)
                return {"path": str(path), "format": kind, "bytes": path.stat().st_size}
        finally:
            staging.unlink(missing_ok=True)
    assert refused is not None
    raise refused
