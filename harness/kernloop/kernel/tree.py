# SPDX-License-Identifier: Apache-2.0
"""A kernel source tree of the user's, and the folders of the cache where it is built: the tree itself is never written.

trees/NAME-HASH/               all builds of one tree; HASH is of its path
    PROFILE+FRAGMENT.../       one build folder (make's O=), and in it kernloop/: what we know of it
    last                       the folder of the kernel that `tree:DIR` means
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kernloop.errors import HarnessError, UsageError
from kernloop.host.cache import exclusive
from kernloop.host.paths import cache_dir

__all__ = ["SourceTree", "building", "collect", "folders", "open_tree"]

# What a build in the tree itself leaves, and which make O= refuses (Makefile, outputmakefile).
_BUILT_IN_PLACE = (".config", "include/config", "arch/x86/include/generated")


@dataclass(frozen=True)
class SourceTree:
    """`version` is as in the Makefile: 7.3.4, 7.4.0-rc1."""

    path: Path
    version: str

    @property
    def home(self) -> Path:
        """The folder with all builds of this tree."""
        digest = hashlib.sha256(str(self.path).encode()).hexdigest()[:10]
        return cache_dir() / "trees" / f"{re.sub(r'[^A-Za-z0-9._-]', '_', self.path.name)}-{digest}"

    @property
    def last(self) -> Path | None:
        """The folder built last; None when there is none."""
        pointer = self.home / "last"
        folder = self.home / pointer.read_text().strip() if pointer.exists() else None
        return folder if folder is not None and folder.is_dir() else None

    def remember(self, folder: Path) -> None:
        """`tree:DIR` means the kernel in `folder` from now on."""
        staged = self.home / ".last.new"
        staged.write_text(folder.name + "\n")
        staged.rename(self.home / "last")

    def check_clean(self) -> None:
        """Raises UsageError when the tree was built in place: make cannot build it elsewhere then."""
        for name in _BUILT_IN_PLACE:
            if (self.path / name).exists():
                raise UsageError(
                    f"{self.path} was built or configured in place ({name} is there): it cannot be built elsewhere",
                    hint=f"copy its .config if you want it (kernel build --base); make -C {self.path} mrproper",
                )


def open_tree(path: Path) -> SourceTree:
    """The kernel tree at `path`. Raises UsageError when there is none."""
    path = path.expanduser().resolve()
    try:
        text = (path / "Makefile").read_text(errors="replace")
    except OSError as error:
        raise UsageError(
            f"{path} is no kernel source tree: {error.strerror} ({path / 'Makefile'})",
            hint="name the folder with the kernel's Makefile; kernloop kernel source DIR fetches one",
        ) from None
    fields = dict(re.findall(r"^(VERSION|PATCHLEVEL|SUBLEVEL|EXTRAVERSION) *= *(.*)$", text, re.M))
    if "PATCHLEVEL" not in fields or not (path / "Kconfig").exists():
        raise UsageError(
            f"{path} is no kernel source tree: its Makefile names no version",
            hint="name the folder with the kernel's Makefile; kernloop kernel source DIR fetches one",
        )
    version = ".".join(fields.get(name, "0").strip() for name in ("VERSION", "PATCHLEVEL", "SUBLEVEL"))
    return SourceTree(path, version + fields.get("EXTRAVERSION", "").strip())


def folders() -> list[Path]:
    """All build folders of the cache, the one built last first."""
    found = [folder for folder in (cache_dir() / "trees").glob("*/*") if (folder / "kernloop").is_dir()]
    return sorted(found, key=lambda folder: (folder / "kernloop").stat().st_mtime, reverse=True)


def collect(*, keep: int) -> list[Path]:
    """Remove all build folders but the `keep` that were built last, and none where a build is under way.

    Returns what was removed.
    """
    removed = []
    for folder in folders()[keep:]:
        # Whoever builds there holds the lock: he wants it.
        with contextlib.suppress(HarnessError), building(folder, what="removing a build", seconds=0):
            shutil.rmtree(folder, ignore_errors=True)
            removed.append(folder)
    return removed


@contextlib.contextmanager
def building(folder: Path, *, what: str, seconds: float) -> Iterator[None]:
    """Alone with a build folder, waiting `seconds` for it at most. Raises HarnessError."""
    with exclusive(f"build-{hashlib.sha256(str(folder).encode()).hexdigest()[:16]}", what=what, seconds=seconds):
        yield
