# SPDX-License-Identifier: Apache-2.0
"""QEMU for virtual time: the toolset's, with a library preloaded that leaves nothing to the host's timing (order.c)."""

from __future__ import annotations

import hashlib
from pathlib import Path

from kernloop.errors import HarnessError
from kernloop.host import process, toolset
from kernloop.host.cache import ensure
from kernloop.host.paths import cache_dir

__all__ = ["STOP_WHEN_READY", "qemu"]

# In QEMU's environment: the guest is stopped at the very instruction that says it may be frozen.
STOP_WHEN_READY = {"KERNLOOP_STOP_WHEN_READY": "1"}
_SOURCE = Path(__file__).parent / "order.c"
_NAME = "qemu-system-x86_64"


def qemu() -> Path:
    """The program to start in place of the toolset's QEMU; its folder's name tells one build from another."""
    tools = toolset.get()
    digest = hashlib.sha256(tools.id.encode() + _SOURCE.read_bytes()).hexdigest()[:16]
    folder = cache_dir() / "programs" / f"order-{digest}"

    def make(staging: Path) -> None:
        words = [str(tools.cc), "-std=gnu11", "-O2", "-Wall", "-Wextra", "-fPIC", "-shared", str(_SOURCE)]
        process.run([*words, "-o", staging / "order.so"], seconds=300, what="compiling order.c")
        # Only QEMU gets the library: the host's shell has another C library.
        before, word, after = tools.qemu.read_text().partition(" exec ")
        if not word:
            raise HarnessError(f"{tools.qemu} is not what kernloop made", hint="remove the toolset's folder")
        wrapper = staging / _NAME
        wrapper.write_text(f'{before} LD_PRELOAD="{folder / "order.so"}"{word}{after}')
        wrapper.chmod(0o755)

    return ensure(folder, make, what="compiling order.c") / _NAME
