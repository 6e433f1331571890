# SPDX-License-Identifier: Apache-2.0
"""Syzkaller's parser of console logs, beside ours: built with Go from a module that is fetched only when asked for."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kernloop.errors import HarnessError
from kernloop.host import process
from kernloop.host.paths import cache_dir

__all__ = ["SYZKALLER", "Other", "Unavailable", "build"]

SYZKALLER = "syzkaller"
_MODULE = "github.com/google/syzkaller"
# Without a tag of its own: the newest commit that this was tried with.
_VERSION = "v0.0.0-20260817123423-1e72964b0111"
_BUILD_SECONDS = 1800.0
_GO = ("/usr/local/go/bin/go", "/usr/lib/go/bin/go")
# One core for both.
_ENVIRONMENT = {"GOMAXPROCS": "1"}


class Unavailable(Exception):
    """Why the other parser is not there, in words."""


@dataclass(frozen=True)
class Other:
    """A program of syzkaller/main.go's commands."""

    program: Path

    def run(self, what: str, logs: Sequence[Path], seconds: float) -> tuple[float, float, int]:
        """Wall and CPU seconds for all `logs`, and how many reports were found. Raises HarnessError."""
        words: list[str | Path] = [self.program, what, *logs]
        done = process.run(words, seconds=seconds, what=f"syzkaller's parser, {what}", env=_ENVIRONMENT)
        said = json.loads(done.stdout)
        return said["wall"], said["cpu"], said["found"]


def build(source: str) -> Other:
    """From `syzkaller`, the module as Go fetches it, or from a checkout of it. Raises Unavailable, and why."""
    go = shutil.which("go") or next((path for path in _GO if Path(path).exists()), None)
    if go is None:
        raise Unavailable("Go is not installed: https://go.dev/dl")
    checkout = None if source == SYZKALLER else Path(source).expanduser().resolve()
    if checkout and not (checkout / "pkg/report/report.go").exists():
        raise Unavailable(f"no checkout of syzkaller: {checkout}")
    folder = cache_dir() / "bench" / f"syzkaller-{hashlib.sha256(str(checkout or _VERSION).encode()).hexdigest()[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(Path(__file__).parent / "syzkaller/main.go", folder)
    version = next((line for line in _go_mod(checkout) if line.startswith("go ")), "go 1.26.0")
    module = f"module kernloop/bench\n\n{version}\n\nrequire {_MODULE} {_VERSION}\n"
    if checkout:
        module += f"\nreplace {_MODULE} => {checkout}\n"
        # What it needs is checked against its own sums.
        shutil.copy(checkout / "go.sum", folder)
    (folder / "go.mod").write_text(module)
    try:
        process.run(
            [go, "build", "-mod=mod", "-o", "bench", "."],
            seconds=_BUILD_SECONDS,
            what="go build of syzkaller's parser",
            cwd=folder,
        )
    except HarnessError as error:
        raise Unavailable(f"{error.message}; a checkout at hand will do: --against DIR") from None
    return Other(folder / "bench")


def _go_mod(checkout: Path | None) -> list[str]:
    return (checkout / "go.mod").read_text().splitlines() if checkout else []
