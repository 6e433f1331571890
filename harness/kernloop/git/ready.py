# SPDX-License-Identifier: Apache-2.0
"""Whether a tree can take a patch, and what became of it: shared by applying and taking back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kernloop.errors import UsageError
from kernloop.git.checks import Finding
from kernloop.git.command import git, operation
from kernloop.git.stage import Fate, Reject

__all__ = ["PatchResult", "ready", "some"]

_MOST = 10


@dataclass(frozen=True)
class PatchResult:
    """`state`: applied, already-applied, would-apply, rejected, undone, nothing. `mode`: commits or files."""

    tree: Path
    state: str
    mode: str
    summary: str
    next: str = ""
    old: str = ""
    new: str = ""
    messages: tuple[Fate, ...] = ()
    files: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()
    reject: Reject | None = None


def ready(tree: Path, allow_dirty: bool) -> set[str]:
    """The files with changes that are not committed. Raises UsageError unless `tree` can take a patch."""
    if git(tree, "rev-parse", "--verify", "--quiet", "HEAD", check=False).status != 0:
        raise UsageError(f"{tree} has no commit yet", hint="git add -A; git commit")
    if under_way := operation(tree):
        raise UsageError(
            f"a git {under_way} stands still in {tree}",
            hint="git bisect reset" if under_way == "bisect" else f"git {under_way} --continue, or --abort",
        )
    entries = git(tree, "diff", "--name-only", "--no-renames", "-z", "HEAD").stdout.split("\0")
    dirty = {entry for entry in entries if entry}
    if dirty and not allow_dirty:
        raise UsageError(
            f"{tree} has changes that are not committed: {some(sorted(dirty))}",
            hint="git commit or git stash them; --allow-dirty leaves them alone where the patch does not touch them",
        )
    return dirty


def some(names: Sequence[str]) -> str:
    """The first of `names`, and how many more there are."""
    return ", ".join(names[:_MOST]) + (f" and {len(names) - _MOST} more" if len(names) > _MOST else "")
