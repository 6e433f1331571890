# SPDX-License-Identifier: Apache-2.0
"""A patch tried out of the tree: in a worktree of our own with `git am`, or on copies of its files with `git apply`.

The tree itself is not touched, so what does not apply leaves it as it was, whatever ends us.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from git import Repo

from kernloop.errors import UsageError
from kernloop.git import conflicts, paths
from kernloop.git.command import git
from kernloop.git.mail import Message
from kernloop.git.regions import Region, regions
from kernloop.git.rejects import HunkReport, explain
from kernloop.git.scratch import Worktree

__all__ = ["Fate", "Reject", "Staged", "commits", "copied", "diff"]

_WHO = "who you are"


@dataclass(frozen=True)
class Fate:
    """What became of a message. `state`: applied, already-applied, no-diff, rejected, not-tried."""

    number: int
    subject: str
    author: str
    state: str
    commit: str = ""
    merged: bool = False


@dataclass(frozen=True)
class Reject:
    """Why message `number` does not apply: what git said, each hunk, and the conflicts of a three-way merge."""

    number: int
    said: str
    hunks: tuple[HunkReport, ...]
    regions: tuple[tuple[str, Region], ...] = ()
    # "conflict", "not possible: ..." or "" where there was none to try.
    three_way: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Staged:
    fates: tuple[Fate, ...]
    reject: Reject | None = None
    # The last commit.
    new: str = ""
    names: tuple[str, ...] = field(default=())


def commits(made: Worktree, messages: Sequence[Message]) -> Staged:
    """Each message a commit, by `git am --3way`, in their order; stops at the first that does not apply."""
    fates: list[Fate] = []
    head = made.git("rev-parse", "HEAD").stdout.strip()
    for message in messages:
        if not message.diff:
            fates.append(_fate(message, "no-diff"))
            continue
        done = made.git("am", "--3way", "--no-gpg-sign", message.file, check=False)
        if done.status != 0:
            if _WHO in done.stderr or "empty ident name" in done.stderr:
                raise UsageError("git does not know who commits", hint="git config user.name NAME; user.email ADDRESS")
            return _stopped(fates, messages, message, _failed(made, message, done.stdout + done.stderr))
        was, head = head, made.git("rev-parse", "HEAD").stdout.strip()
        merged = "Falling back to patching base" in done.stdout + done.stderr
        state = "applied" if head != was else "already-applied"
        fates.append(_fate(message, state, head if head != was else "", merged))
    return Staged(tuple(fates), new=head)


def diff(made: Worktree, message: Message) -> Staged:
    """A diff without a message, by `git apply --3way`, in index and files of `made`."""
    done = made.git("apply", "--3way", "--index", message.file, check=False)
    if done.status != 0:
        return _stopped([], [message], message, _failed(made, message, done.stdout + done.stderr))
    merged = "Falling back to three-way" in done.stderr or "Performing three-way" in done.stderr
    names = made.git("diff", "--cached", "--name-only", "-z", "--no-renames", "HEAD").stdout
    touched = tuple(name for name in names.split("\0") if name)
    return Staged((_fate(message, "applied" if touched else "already-applied", "", merged),), names=touched)


def copied(tree: Path, messages: Sequence[Message], folder: Path) -> Staged:
    """On copies of the files that they name, in `folder`/after; `folder`/before keeps them as they are."""
    touched = dict.fromkeys(name for message in messages for name in message.names)
    for part in ("before", "after"):
        (folder / part).mkdir()
        for name in touched:
            if (tree / name).is_symlink() or (tree / name).is_file():
                (folder / part / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(tree / name, folder / part / name, follow_symlinks=False)
    after = folder / "after"
    fates: list[Fate] = []
    for message in messages:
        if not message.diff:
            fates.append(_fate(message, "no-diff"))
            continue
        patch = folder / f"{message.number}.diff"
        # Not in whatever repository lies above.
        ceiling = {"GIT_CEILING_DIRECTORIES": str(folder)}
        done = git(after, "apply", patch, check=False, env=ceiling)
        if done.status == 0:
            fates.append(_fate(message, "applied"))
            continue
        if git(after, "apply", "--check", "--reverse", patch, check=False, env=ceiling).status == 0:
            fates.append(_fate(message, "already-applied"))
            continue
        hunks = explain(message.diff, lambda name: _text(after / name))
        missing = _missing(hunks, lambda name: sorted(str(p.relative_to(tree)) for p in tree.rglob(name))[:3])
        return _stopped(fates, messages, message, Reject(message.number, _errors(done.stderr), hunks, notes=missing))
    return Staged(tuple(fates), names=tuple(touched))


def _fate(message: Message, state: str, commit: str = "", merged: bool = False) -> Fate:
    return Fate(message.number, message.subject, message.author, state, commit, merged)


def _stopped(fates: list[Fate], messages: Sequence[Message], at: Message, reject: Reject) -> Staged:
    rest = [_fate(message, "not-tried") for message in messages if message.number > at.number]
    return Staged((*fates, _fate(at, "rejected"), *rest), reject)


# `made` is where git left it: HEAD before the message, the index with both sides if it came to a merge.
def _failed(made: Worktree, message: Message, said: str) -> Reject:
    with Repo(made.path) as repository:
        tree = repository.head.commit.tree

        def read(name: str) -> str | None:
            try:
                data: bytes = tree.join(name).data_stream.read()
            except (KeyError, AttributeError):
                return None
            return data.decode(errors="replace")

        hunks = explain(message.diff, read)
    found = tuple(
        (name, region)
        for name in dict.fromkeys(path for path, _ in conflicts.unmerged(made.path))
        for region in regions(_text(made.path / name) or "")
    )
    three_way = ""
    if found or "CONFLICT" in said:
        three_way = "conflict"
    elif "lacks necessary blobs" in said or "lacks the necessary blob" in said or "sha1 information is lacking" in said:
        three_way = "not possible: the repository has no such version of the file"
    notes = _missing(
        hunks,
        lambda name: [p for p in made.git("ls-files", "-z", "--", f":(glob)**/{name}").stdout.split("\0") if p][:3],
    )
    return Reject(message.number, _errors(said), hunks, found, three_way, notes)


def _errors(said: str) -> str:
    found = [line for line in said.splitlines() if re.match(r"error:|fatal:|CONFLICT", line)]
    return "\n".join(found[:20])


# Where a file may have gone that is not there.
def _missing(hunks: tuple[HunkReport, ...], find: Callable[[str], list[str]]) -> tuple[str, ...]:
    gone = dict.fromkeys(hunk.file for hunk in hunks if hunk.status == "file-missing" and not paths.unsafe(hunk.file))
    found = []
    for name in gone:
        with contextlib.suppress(OSError, ValueError):
            others = find(re.sub(r"([*?\[\\])", r"[\1]", Path(name).name))
            found.append(f"{name} is not there" + (f"; files of its name: {', '.join(others)}" if others else ""))
    return tuple(found)


def _text(path: Path) -> str | None:
    if path.is_symlink():
        return os.fsdecode(path.readlink())
    return path.read_bytes().decode(errors="replace") if path.is_file() else None
