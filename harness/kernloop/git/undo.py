# SPDX-License-Identifier: Apache-2.0
"""Take back what `kernel patch` did last to a tree: exactly that, or nothing."""

from __future__ import annotations

from pathlib import Path

from kernloop.errors import UsageError
from kernloop.git import landed
from kernloop.git.command import git, text, top
from kernloop.git.landed import Record
from kernloop.git.ready import PatchResult, ready, some

__all__ = ["undo"]


def undo(tree: Path, *, allow_dirty: bool = False) -> PatchResult:
    """Take back what the last `apply` did to `tree`. Raises UsageError when that is not exactly possible any more."""
    root = top(tree)
    tree = tree.resolve()
    record = landed.last(tree)
    if record is None:
        raise UsageError(f"no patch of kernloop's is applied in {tree}", hint="git log, git reflog show what was done")
    if record.new:
        if root is None:
            raise UsageError(f"{tree} was a repository and is none now", hint="nothing can be taken back")
        return _undo_commits(record, ready(tree, allow_dirty))
    return _undo_files(record)


def _undo_commits(record: Record, dirty: set[str]) -> PatchResult:
    tree, old, new = record.tree, record.old, record.new
    head = text(tree, "rev-parse", "HEAD")
    if head == old:
        landed.forget(record)
        return PatchResult(tree, "nothing", "commits", f"it was taken back already: {record.subject}", "", head, head)
    ref = git(tree, "symbolic-ref", "-q", "HEAD", check=False).stdout.strip()
    if head != new or ref != record.ref:
        what = f"HEAD has moved since, to {head[:12]}" if head != new else "another branch is checked out now"
        raise UsageError(
            f"{what}; the patch ended at {new[:12]} ({record.subject})",
            hint=f"git rebase --onto {old[:12]} {new[:12]} drops its commits from below yours; "
            f"git revert {old[:12]}..{new[:12]} takes them back by new ones",
        )
    files = text(tree, "diff", "--name-only", "--no-renames", "-z", old, new).split("\0")
    if changed := sorted(dirty.intersection(files)):
        raise UsageError(
            f"files of the patch were changed since: {some(changed)}", hint="git stash or git commit these"
        )
    # Unlike reset --keep this leaves alone what is staged in other files (git-read-tree(1), two tree merge).
    git(tree, "read-tree", "-m", "-u", new, old, hint="nothing was taken back")
    git(tree, "update-ref", "-m", "kernloop kernel patch --undo", "HEAD", old, new)
    landed.forget(record)
    return PatchResult(tree, "undone", "commits", f"taken back: {record.subject}", "", new, old, files=tuple(files))


def _undo_files(record: Record) -> PatchResult:
    todo, changed = [], []
    for index, (name, before, after) in enumerate(record.files):
        now = landed.look(record.tree / name).digest
        if now == after:
            todo.append(index)
        elif now != before:
            changed.append(name)
    if changed:
        raise UsageError(
            f"files of the patch were changed since: {some(changed)}",
            hint=f"what they were before the patch lies in {record.folder}",
        )
    landed.restore(record, todo)
    landed.forget(record)
    state, word = ("undone", "taken back") if todo else ("nothing", "it was taken back already")
    names = tuple(record.files[index][0] for index in todo)
    return PatchResult(record.tree, state, "files", f"{word}: {record.subject}", files=names)
