# SPDX-License-Identifier: Apache-2.0
"""A worktree of our own, which is gone afterwards: the user's checkout, index and branches are not touched by it."""

from __future__ import annotations

import contextlib
import shutil
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from kernloop.git.command import LONG, git, git_path
from kernloop.host import owned
from kernloop.host.cache import exclusive
from kernloop.host.paths import cache_dir
from kernloop.host.process import Completed

__all__ = ["Worktree", "worktree"]


@dataclass(frozen=True)
class Worktree:
    """`config` goes with every git that works in it."""

    path: Path
    config: tuple[str, ...]

    def git(self, *words: str | Path, check: bool = True, seconds: float = LONG) -> Completed:
        return git(self.path, *words, check=check, seconds=seconds, config=self.config)


@contextlib.contextmanager
def worktree(repository: Path, commit: str, *, only: Iterable[str] | None = None) -> Iterator[Worktree]:
    """A detached worktree at `commit`; with `only` it has just these paths (a whole kernel takes half a minute)."""
    place = cache_dir() / "worktrees"
    place.mkdir(parents=True, exist_ok=True)
    path = place / f"kernloop-{uuid.uuid4().hex[:12]}"
    sparse = "true" if only is not None else "false"
    config = (f"core.sparseCheckout={sparse}", "core.sparseCheckoutCone=false", "rerere.enabled=false")
    with owned.folder(path):
        try:
            # git is not made for two who add worktrees at once (builtin/worktree.c, add_worktree).
            with exclusive("worktrees", what="making a worktree", seconds=120):
                _forget_the_dead(repository, place)
                git(repository, "worktree", "add", "--quiet", "--detach", "--no-checkout", path, commit)
            made = Worktree(path, config)
            if only is not None:
                patterns = git_path(path, "info/sparse-checkout")
                patterns.parent.mkdir(parents=True, exist_ok=True)
                patterns.write_text("".join(f"/{_literal(name)}\n" for name in only), errors="surrogateescape")
            made.git("read-tree", "-m", "-u", "HEAD")
            yield made
        finally:
            shutil.rmtree(path, ignore_errors=True)
            git(repository, "worktree", "remove", "--force", path, check=False)


# A kernloop that was killed has lost its folder to the keeper, and the repository still lists it.
def _forget_the_dead(repository: Path, place: Path) -> None:
    for line in git(repository, "worktree", "list", "--porcelain").stdout.splitlines():
        path = Path(line.removeprefix("worktree "))
        if line.startswith("worktree ") and path.parent == place and not path.exists():
            git(repository, "worktree", "remove", "--force", path, check=False)


# A path as a pattern that matches it alone (gitignore(5)).
def _literal(name: str) -> str:
    return "".join(f"\\{letter}" if letter in "\\*?[]!# " else letter for letter in name)
