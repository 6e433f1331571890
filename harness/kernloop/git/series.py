# SPDX-License-Identifier: Apache-2.0
"""A series of commits checked one by one, as a maintainer will look at it: does each build alone, is each signed,
do its Fixes: tags hold, what do checkpatch and `git diff --check` say, and what changed since the version before.

Builds are made in a worktree of our own; the user's checkout is not touched.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from git import Repo
from git.exc import BadName

from kernloop.errors import HarnessError, UsageError
from kernloop.git import checks, rangediff, tags
from kernloop.git.checks import Finding
from kernloop.git.command import git, text, top
from kernloop.git.objects import Builder
from kernloop.git.rangediff import Pair
from kernloop.git.series_build import CommitReport, each
from kernloop.git.tags import CommitText, Fixed, Person, Problem

__all__ = ["CommitReport", "SeriesReport", "SeriesRequest", "check"]

_UPSTREAMS = ("@{upstream}", "origin/HEAD", "origin/master", "origin/main")
# The series' own checks say these better.
_OURS = ("MISSING_SIGN_OFF", "NO_AUTHOR_SIGN_OFF", "FROM_SIGN_OFF_MISMATCH", "BAD_FIXES_TAG")
_MANY = 200


@dataclass(frozen=True)
class SeriesRequest:
    """`range` is BASE..TIP, "" for what is not upstream; `before` OLDBASE..OLDTIP; `build`: none, files, full."""

    tree: Path
    range: str = ""
    before: str = ""
    build: str = "files"


@dataclass(frozen=True)
class SeriesReport:
    tree: Path
    base: str
    tip: str
    commits: tuple[CommitReport, ...]
    range_diff: tuple[Pair, ...] = ()
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def errors(self) -> list[tuple[str, Problem]]:
        """What must be cured before the series is sent, with the commit."""
        own = [("", problem) for problem in self.problems]
        of_commits = [(one.commit, problem) for one in self.commits for problem in one.problems]
        return [(commit, problem) for commit, problem in (*own, *of_commits) if problem.level == "error"]


def check(request: SeriesRequest, builder: Callable[[Path], Builder], say: Callable[[str], None]) -> SeriesReport:
    """Check a series; `builder` is given a folder for the objects. Raises UsageError, HarnessError."""
    if request.build not in ("none", "files", "full"):
        raise UsageError(f"--build {request.build}?", hint="none, files or full")
    if top(request.tree) is None:
        raise UsageError(f"{request.tree} is no git tree", hint="a series is checked in a clone")
    tree = request.tree.resolve()
    base, tip = _range(tree, request.range or _default(tree))
    commits = text(tree, "rev-list", "--reverse", "--topo-order", f"{base}..{tip}").split()
    if not commits:
        raise UsageError(f"there is no commit in {base[:12]}..{tip[:12]}", hint="BASE..TIP, the base first")
    if len(commits) > _MANY:
        raise UsageError(
            f"{len(commits)} commits are no series", hint="is the base right? kernloop git series check DIR BASE..TIP"
        )
    merges = set(text(tree, "rev-list", "--merges", f"{base}..{tip}").split())
    problems = [
        Problem("error", "merge", f"{merge[:12]} is a merge commit: git rebase {base[:12]} makes a series without")
        for merge in commits if merge in merges
    ]  # fmt: skip
    single = [commit for commit in commits if commit not in merges]
    with tempfile.TemporaryDirectory() as scratch, Repo(tree) as repository:
        texts = _texts(tree, repository, single)
        reports = []
        for commit in single:
            say(f"reading {commit[:12]}")
            reports.append(_read(tree, repository, texts[commit], single, Path(scratch)))
    if request.build != "none" and reports:
        reports = each(tree, base, reports, request.build == "full", builder, say)
    pairs = _range_diff(tree, request.before, base, tip, problems) if request.before else ()
    notes = [f"checkpatch was not run: {why}"] if (why := checks.checkpatch_missing(tree)) else []
    if request.build == "none":
        notes.append("nothing was built")
    return SeriesReport(tree, base, tip, tuple(reports), pairs, tuple(problems), tuple(notes))


def _default(tree: Path) -> str:
    for name in _UPSTREAMS:
        found = git(tree, "merge-base", name, "HEAD", check=False)
        if found.status == 0 and found.stdout.strip():
            return f"{found.stdout.split()[0]}..HEAD"
    raise UsageError("what is the series? this branch has no upstream", hint="kernloop git series check DIR BASE..TIP")


def _range(tree: Path, words: str) -> tuple[str, str]:
    start, dots, end = words.partition("..")
    if not dots or not start or end.startswith("."):
        raise UsageError(f"{words!r} is no range of commits", hint="BASE..TIP, as in v6.12..my-branch")
    found = []
    for name in (start, end or "HEAD"):
        done = git(tree, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}", check=False)
        if done.status != 0:
            raise UsageError(f"{name} is no commit of {tree}", hint="git log --oneline --all shows which there are")
        found.append(done.stdout.strip())
    return found[0], found[1]


def _texts(tree: Path, repository: Repo, commits: Sequence[str]) -> dict[str, CommitText]:
    found = {}
    for commit in commits:
        one = repository.commit(commit)
        # Which lines are trailers is git's to say: the last paragraph, if enough of it looks like them.
        said = text(tree, "log", "-1", "--format=%(trailers:only,unfold)", commit)
        rows = (line.partition(":")[::2] for line in said.splitlines())
        found[commit] = CommitText(
            commit,
            str(one.summary),
            Person(one.author.name or "", one.author.email or ""),
            Person(one.committer.name or "", one.committer.email or ""),
            tuple((key.strip(), value.strip()) for key, value in rows),
        )
    return found


def _read(tree: Path, repository: Repo, commit: CommitText, series: Sequence[str], scratch: Path) -> CommitReport:
    def find(digits: str) -> Fixed | None:
        try:
            found = repository.commit(digits)
        except (BadName, ValueError, HarnessError):
            return None
        before = found.hexsha != commit.commit and repository.is_ancestor(found, one)
        return Fixed(found.hexsha, str(found.summary), before, found.hexsha in series)

    one = repository.commit(commit.commit)
    problems = [
        *tags.subject(commit),
        *tags.signatures(commit),
        *tags.fixes(commit, find, shallow=(Path(repository.common_dir) / "shallow").exists()),
    ]
    if one.parents and one.tree == one.parents[0].tree:
        problems.append(Problem("error", "empty", "the commit changes nothing; its change is in the base or was lost"))
    else:
        problems += [
            _remark(found) for found in checks.of_commit(tree, commit.commit, scratch) if found.type not in _OURS
        ]
    return CommitReport(commit.commit, commit.subject, str(commit.author), tuple(problems))


def _remark(found: Finding) -> Problem:
    word = "whitespace" if found.type == "WHITESPACE" else f"checkpatch {found.type}"
    return Problem("error" if found.level == "error" else "warning", word, found.message, found.file, found.line)


def _range_diff(tree: Path, before: str, base: str, tip: str, problems: list[Problem]) -> tuple[Pair, ...]:
    old_base, old_tip = _range(tree, before)
    said = git(tree, "range-diff", "--no-color", f"{old_base}..{old_tip}", f"{base}..{tip}").stdout
    pairs = rangediff.parse(said.splitlines())
    merged = set(text(tree, "log", "--format=%s", f"{old_base}..{base}").splitlines())
    added = {pair.subject: pair for pair in pairs if pair.state == "added"}
    for pair in pairs:
        if pair.state != "dropped":
            continue
        what = f"{pair.old} ({pair.subject}), patch {pair.old_number} of the version before"
        if pair.subject in merged:
            problems.append(Problem("note", "dropped", f"{what}, is in the base now"))
        elif pair.subject in added:
            problems.append(Problem("note", "rewritten", f"{what}, is so changed that git sees a new one"))
        else:
            problems.append(Problem("warning", "dropped", f"{what}, is not in this one: was it meant to go?"))
    return pairs
