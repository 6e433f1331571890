# SPDX-License-Identifier: Apache-2.0
"""kernloop's own in-guest programs: C sources compiled once with the toolset into static binaries."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from kernloop.host import process, toolset
from kernloop.host.cache import ensure
from kernloop.host.paths import cache_dir

__all__ = ["GUEST", "build", "init"]

GUEST = Path(__file__).parent / "guest"


def init() -> Path:
    """PID 1 and agent."""
    names = ("init.c", "handover.c", "hostroot.c", "erst.c", "printers.c", "watchdog.c")
    return build("init", [GUEST / name for name in names])


def build(name: str, sources: Sequence[Path], *, flags: Sequence[str] = (), libraries: Sequence[str] = ()) -> Path:
    """The static program made from `sources`, out of the cache when these very bytes were compiled before.

    `libraries` come last on the command line: archives or -l flags. Headers beside the sources count as sources.
    """
    tools = toolset.get()
    headers = sorted({header for source in sources for header in source.parent.glob("*.h")})
    digest = hashlib.sha256(tools.id.encode())
    for word in (*flags, *libraries):
        digest.update(word.encode() + b"\0")
    for file in (*sources, *headers):
        digest.update(file.read_bytes())
    folder = cache_dir() / "programs" / f"{name}-{digest.hexdigest()[:16]}"

    def make(staging: Path) -> None:
        process.run(
            [
                tools.cc,
                "-std=gnu11",
                "-O2",
                "-static",
                "-Wall",
                "-Wextra",
                *flags,
                *sources,
                *libraries,
                "-o",
                staging / name,
            ],
            seconds=300,
            what=f"compiling {name}",
        )
        process.run([tools.strip, staging / name], seconds=60, what=f"stripping {name}")

    return ensure(folder, make, what=f"compiling {name}") / name
