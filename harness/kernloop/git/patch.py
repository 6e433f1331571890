# SPDX-License-Identifier: Apache-2.0
"""Apply a patch, a mail or an mbox to a kernel tree: all of it or nothing, and take it back again.

In a git tree mails become commits, by `git am --3way` in a worktree of our own, and HEAD moves to the last of them; a
diff without a message changes files only. In a tree that is no repository (a linux-source package) `git apply` works on
copies first. So a patch that does not apply has not touched the tree.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from kernloop.errors import HarnessError, UsageError
from kernloop.git import checks, landed, mail, paths, stage
from kernloop.git.checks import Finding
from kernloop.git.command import git, text, top
from kernloop.git.landed import FileState, Record
from kernloop.git.mail import Message
from kernloop.git.ready import PatchResult, ready, some
from kernloop.git.scratch import worktree
from kernloop.git.stage import Reject, Staged
from kernloop.git.undo import undo

__all__ = ["PatchResult", "apply", "undo"]


def apply(tree: Path, data: bytes, *, allow_dirty: bool = False, check: bool = False) -> PatchResult:
    """Apply the patch `data` to `tree`; with `check` only say whether it would.

    Raises UsageError for what is no patch, for names that no patch has a right to, and for a tree that is not ready.
    """
    root = top(tree)
    tree = tree.resolve()
    dirty = ready(tree, allow_dirty) if root else set()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch).resolve()
        messages = mail.read(data, folder)
        _names(tree, messages)
        work = _Work(tree, messages, folder, dirty, check)
        if root is None:
            return work.in_plain_tree()
        return work.as_commits() if messages[0].mail else work.as_diff()


def _names(tree: Path, messages: Sequence[Message]) -> None:
    for message in messages:
        for name in message.names:
            if why := paths.unsafe(name):
                raise UsageError(f"the patch names {name}, which {why}", hint="do not apply it: read it first")
            if link := paths.link_above(tree, name):
                raise UsageError(
                    f"the patch names {name}, which goes through the link {link}", hint="do not apply it: read it first"
                )


class _Work:
    """One patch on its way into a tree."""

    def __init__(self, tree: Path, messages: Sequence[Message], folder: Path, dirty: set[str], check: bool) -> None:
        self.tree, self.messages, self.folder, self.dirty, self.check = tree, messages, folder, dirty, check
        self.notes = _notes(tree, messages)

    def as_commits(self) -> PatchResult:
        old = text(self.tree, "rev-parse", "HEAD")
        with worktree(self.tree, old, only=self._touched()) as made:
            staged = stage.commits(made, self.messages)
            if staged.reject:
                return self._rejected("commits", staged)
            commits = [fate.commit for fate in staged.fates if fate.commit]
            if not commits:
                return self._already("commits", staged)
            raw = git(self.tree, "diff", "--name-status", "--no-renames", "-z", old, staged.new).stdout.split("\0")
            files = dict(zip(raw[1::2], raw[0::2], strict=False))
            self._links(made.path, files)
            self._in_the_way(files, [name for name, kind in files.items() if kind == "A"])
            findings = tuple(found for commit in commits for found in checks.of_commit(self.tree, commit, self.folder))
            subject = f"{len(commits)} commits, the last: {staged.fates[-1].subject}" if len(commits) > 1 else ""
            subject = subject or next(fate.subject for fate in staged.fates if fate.commit)
            if not self.check:
                ref = git(self.tree, "symbolic-ref", "-q", "HEAD", check=False).stdout.strip()
                record = landed.keep(Record(self.tree, subject, old, staged.new, ref), {})
                try:
                    self._forward(staged.new)
                except HarnessError:
                    landed.forget(record)
                    raise
            return self._done("commits", staged, tuple(files), findings, len(commits), old)

    def as_diff(self) -> PatchResult:
        with worktree(self.tree, "HEAD", only=self._touched()) as made:
            staged = stage.diff(made, self.messages[0])
            if staged.reject:
                return self._rejected("files", staged)
            if not staged.names:
                return self._already("files", staged)
            self._links(made.path, staged.names)
            states = {name: (landed.look(self.tree / name), landed.look(made.path / name)) for name in staged.names}
            known = set(made.git("ls-tree", "-r", "-z", "--name-only", "HEAD", "--", *staged.names).stdout.split("\0"))
            self._in_the_way(staged.names, [name for name in staged.names if name not in known])
            said = made.git("diff", "--check", "HEAD", check=False).stdout
            findings = (*self._by_checkpatch(), *checks.parse_diff_check(said.splitlines()))
            return self._land(staged, states, findings)

    def in_plain_tree(self) -> PatchResult:
        staged = stage.copied(self.tree, self.messages, self.folder)
        if staged.reject:
            return self._rejected("files", staged)
        after = self.folder / "after"
        states = {}
        for name in staged.names:
            was, is_ = landed.look(self.tree / name), landed.look(after / name)
            if was.digest != is_.digest:
                states[name] = (was, is_)
        if not states:
            return self._already("files", staged)
        self._links(after, states)
        said = git(self.folder, "diff", "--no-index", "--check", "before", "after", check=False).stdout
        found = [line.removeprefix("after/") for line in said.splitlines()]
        return self._land(staged, states, (*self._by_checkpatch(), *checks.parse_diff_check(found)))

    def _touched(self) -> list[str]:
        return list(dict.fromkeys(name for message in self.messages for name in message.names))

    def _by_checkpatch(self) -> list[Finding]:
        found = []
        for message in self.messages:
            if message.diff:
                found += checks.checkpatch(self.tree, message.file, signed=message.mail)
        return found

    # A link that the patch makes, and that leads out of the tree.
    def _links(
        self, staged: Path, names: Sequence[str] | dict[str, str] | dict[str, tuple[FileState, FileState]]
    ) -> None:
        for name in names:
            if (staged / name).is_symlink() and (link := paths.escaping_link(staged, name)):
                where = (staged / name).readlink()
                raise UsageError(
                    f"the patch makes {link} a link to {where}, out of the tree", hint="do not apply it: read it first"
                )

    def _in_the_way(self, names: Sequence[str] | dict[str, str], created: Sequence[str]) -> None:
        if touched := sorted(self.dirty.intersection(names)):
            raise UsageError(
                f"the patch touches files with changes that are not committed: {some(touched)}",
                hint="git commit or git stash these first",
            )
        if there := [name for name in created if os.path.lexists(self.tree / name)]:
            raise UsageError(
                f"the patch creates files that are there and not git's: {some(there)}", hint="move them away first"
            )

    # HEAD to `new`, which is ahead of it; git refuses if the user has moved it or changed a file meanwhile.
    def _forward(self, new: str) -> None:
        git(
            self.tree, "merge", "--ff-only", "--quiet", "--no-autostash", "--no-verify-signatures", new,
            env={"GIT_REFLOG_ACTION": "kernloop kernel patch"},
            seconds=600,
            hint="the tree was changed meanwhile; nothing was applied: try again",
        )  # fmt: skip

    def _land(
        self, staged: Staged, states: dict[str, tuple[FileState, FileState]], findings: tuple[Finding, ...]
    ) -> PatchResult:
        if not self.check:
            subject = self.messages[0].subject or f"a diff of {some(list(states))}"
            files = tuple((name, was.digest, is_.digest) for name, (was, is_) in states.items())
            before = {name: was for name, (was, _) in states.items()}
            record = landed.keep(Record(self.tree, subject, files=files), before)
            try:
                # Deleted ones first: a file may take the place of a folder.
                for name, (was, is_) in sorted(states.items(), key=lambda item: item[1][1].kind != "absent"):
                    landed.put(self.tree, name, _with_mode(was, is_))
            except HarnessError:
                landed.restore(record)
                landed.forget(record)
                raise
        return self._done("files", staged, tuple(states), findings, 0, "")

    def _done(
        self, mode: str, staged: Staged, files: tuple[str, ...], findings: tuple[Finding, ...], commits: int, old: str
    ) -> PatchResult:
        merged = [str(fate.number) for fate in staged.fates if fate.merged]
        notes = [*self.notes]
        # A merge knows of the old version only the patch's own files: what is like them may be another one.
        if elsewhere := [name for name in files if name not in self._touched()]:
            notes.append(f"git took for the patch's files, moved: {some(elsewhere)}; see that they are")
        if merged and mode == "commits":
            notes.append(
                f"merged three-way, for their places had changed: message {', '.join(merged)}; read the result"
            )
        what = f"{commits} commit{'s' * (commits != 1)}" if commits else "a change of the files, not committed"
        told = f"{what}, {len(files)} file{'s' * (len(files) != 1)}"
        told += f"; {len(findings)} finding{'s' * (len(findings) != 1)} of the checks" if findings else ""
        if self.check:
            return PatchResult(
                self.tree, "would-apply", mode, f"applies: {told}", "the same without --check", "", "", staged.fates,
                files, findings, tuple(notes),
            )  # fmt: skip
        return PatchResult(
            self.tree, "applied", mode, f"applied: {told}", f"kernloop kernel patch {self.tree} --undo takes it back",
            old, staged.new, staged.fates, files, findings, tuple(notes),
        )  # fmt: skip

    def _already(self, mode: str, staged: Staged) -> PatchResult:
        return PatchResult(
            self.tree, "already-applied", mode, "the tree has all of it already", "nothing is to be done",
            messages=staged.fates, notes=tuple(self.notes),
        )  # fmt: skip

    def _rejected(self, mode: str, staged: Staged) -> PatchResult:
        reject = staged.reject
        assert reject is not None
        bad = [hunk for hunk in reject.hunks if not hunk.fits]
        which = f"message {reject.number} of {len(self.messages)}" if len(self.messages) > 1 else "the patch"
        first = f"{bad[0].file}, hunk {bad[0].number}: {bad[0].message}" if bad else reject.said.split("\n")[0]
        summary = f"{which} does not apply, nothing was changed; {first}"
        if len(bad) > 1:
            summary += f"; {len(bad)} hunks in all"
        return PatchResult(
            self.tree, "rejected", mode, summary, _cure(reject), messages=staged.fates,
            notes=(*self.notes, *reject.notes), reject=reject,
        )  # fmt: skip


# git knows only whether a file can be executed; the rest is the file's own.
def _with_mode(was: FileState, is_: FileState) -> FileState:
    same = was.kind == is_.kind and bool(was.mode & 0o100) == bool(is_.mode & 0o100)
    return FileState(is_.kind, was.mode if same else is_.mode, is_.data)


def _notes(tree: Path, messages: Sequence[Message]) -> list[str]:
    notes = []
    parts = [message.part for message in messages if message.part and message.diff]
    if parts != sorted(parts):
        notes.append(f"the messages do not lie in their order: {', '.join(map(str, parts))}; b4 am puts them in order")
    if bare := [str(message.number) for message in messages if not message.diff]:
        notes.append(f"left out, for they have no diff: message {', '.join(bare)}")
    if why := checks.checkpatch_missing(tree):
        notes.append(f"checkpatch was not run: {why}")
    return notes


def _cure(reject: Reject) -> str:
    states = {hunk.status for hunk in reject.hunks if not hunk.fits}
    if reject.three_way == "conflict":
        return "both sides changed the same lines: write the change by hand for this tree, or find the patch's own base"
    if states == {"already-applied"}:
        return "the tree has these hunks already: leave them out"
    if states == {"whitespace"}:
        return "only white space differs: get the patch again unchanged (git format-patch, b4), not from a mail's text"
    if "file-missing" in states:
        return "the file is elsewhere or not yet there: is this the tree that the patch is for?"
    return "change the hunks named to what the file has at these lines, or find the commit that the patch was made for"
