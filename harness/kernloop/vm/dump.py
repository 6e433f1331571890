# SPDX-License-Identifier: Apache-2.0
"""A guest's memory as a vmcore that crash and drgn read, taken by QEMU: the guest need not be alive."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

from kernloop.errors import HarnessError, UsageError
from kernloop.host import owned
from kernloop.host.cache import need_space
from kernloop.vm.machine import Machine

__all__ = ["take"]

# A gigabyte takes 3 s as ELF; compression takes several times that.
_SECONDS = 300.0
# The best that this QEMU has: zlib is always built in, ELF is whole and large. Without "raw" it is makedumpfile's
# flattened format, for pipes.
_UTSNAME_AT = 12
_FORMATS = ("kdump-raw-zlib", "elf")


async def take(machine: Machine, path: Path, memory: int, release: str, *, elf: bool = False) -> dict[str, Any]:
    """Write the vmcore of a guest with `memory` MiB and kernel `release` to `path`; gives its format and its bytes.
    With `elf` it is whole and large, but what any tool reads.

    Raises UsageError or HarnessError.
    """
    if path.exists():
        raise UsageError(f"{path} is there already", hint="name a new file")
    if not path.parent.is_dir():
        raise UsageError(f"there is no folder {path.parent}", hint="make it first")
    need_space(path.parent, memory if elf else memory // 2, "a vmcore")
    refused: HarnessError | None = None
    staging = path.with_name(f".{path.name}.{os.getpid()}.new")
    with owned.folder(staging):
        try:
            for kind in _FORMATS[elf:]:
                try:
                    await machine.qmp(
                        "dump-guest-memory",
                        {"paging": False, "protocol": f"file:{staging}", "format": kind},
                        seconds=_SECONDS,
                    )
                except HarnessError as error:
                    refused = error
                    continue
                if kind != "elf":
                    _describe(staging, release)
                staging.rename(path)
                return {"path": str(path), "format": kind, "bytes": path.stat().st_size}
        finally:
            staging.unlink(missing_ok=True)
    assert refused is not None
    raise refused


# QEMU leaves the uname in a dump's header empty but for the machine, which it calls "Unknown" (create_header64 of its
# dump/dump.c), and drgn's libkdumpfile then does not know the architecture. The header is disk_dump_header of crash's
# diskdump.h: a signature of 8 bytes, a version of 4, then struct new_utsname.
def _describe(core: Path, release: str) -> None:
    words = ("Linux", "kernloop", release, "#1", "x86_64", "(none)")
    with core.open("r+b") as file:
        file.seek(_UTSNAME_AT)
        file.write(struct.pack("64sx" * len(words), *(word.encode() for word in words)))
