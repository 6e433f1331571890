# SPDX-License-Identifier: Apache-2.0
"""A worktree of our own in a user's repository: made, moved from commit to commit, removed with all traces.

HEAD, index and refs/bisect/ are those of one worktree (gitrepository-layout(5)); branches, stash, configuration and
hooks are shared, so no branch is made and no hook runs. The worktree is locked, which keeps `git worktree prune` away
from it, and its HEAD keeps the commit from being collected.
"""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

from kernloop.errors import HarnessError
from kernloop.git.repository import OWN_GIT
from kernloop.host import process

__all__ = ["Worktree"]

# The largest trees have 100,000 files.
_SECONDS = 900
# No hooks of the user, no collection of garbage in the midst, no daemon that would outlive us.
_SET = ("core.hooksPath=/dev/null", "gc.auto=0", "core.fsmonitor=false", "advice.detachedHead=false")
_QUIET = tuple(word for setting in _SET for word in ("-c", setting))


class Worktree:
    """The worktree at `path`, whose last part must be a name that no other worktree has, of the repository `common`."""

    def __init__(self, common: Path, path: Path) -> None:
        self.common = common
        self.path = path

    def prepare(self, commit: str) -> None:
        """Make it, empty, or take over what a killed process left of it."""
        if self._usable():
            # Whoever held these is dead: there is one owner at a time.
            for entry in self._entries():
                for lock in ("index.lock", "HEAD.lock"):
                    (entry / lock).unlink(missing_ok=True)
            return
        self.remove()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        words = ("worktree", "add", "--detach", "--no-checkout", "--lock", "--reason", "kernloop bisect")
        self._git(["--git-dir", str(self.common), *_QUIET, *words, str(self.path), commit], "adding a worktree")

    def checkout(self, commit: str) -> None:
        """The files of `commit`; what is in no commit stays, as a build's products."""
        words = ["-C", str(self.path), *_QUIET, "checkout", "--quiet", "--force", "--detach", commit]
        self._git(words, f"checking out {commit[:12]}")

    def remove(self) -> None:
        """Remove the files and git's record of them, however little of either is there."""
        # Not by `git worktree remove`, which refuses what a kill left half made; nor by prune, which would remove
        # records of worktrees that are no concern of ours.
        shutil.rmtree(self.path, ignore_errors=True)
        for entry in self._entries():
            shutil.rmtree(entry, ignore_errors=True)
        with contextlib.suppress(OSError):
            (self.common / "worktrees").rmdir()

    # git names its record after the last part of the path; one cut off by a kill says no more than that.
    def _entries(self) -> list[Path]:
        found = []
        for entry in (self.common / "worktrees").glob("*"):
            named = entry / "gitdir"
            place = named.read_text().strip() if named.exists() else ""
            if place == str(self.path / ".git") or (not place and entry.name == self.path.name):
                found.append(entry)
        return found

    def _usable(self) -> bool:
        if not (self.path / ".git").exists() or not self._entries():
            return False
        with contextlib.suppress(HarnessError):
            return (
                self._git(["-C", str(self.path), "rev-parse", "--verify", "HEAD"], "looking", check=False).status == 0
            )
        return False

    def _git(self, words: list[str], what: str, *, check: bool = True) -> process.Completed:
        return process.run([*OWN_GIT, "git", *words], seconds=_SECONDS, what=what, check=check)
