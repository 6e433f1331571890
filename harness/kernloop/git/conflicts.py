# SPDX-License-Identifier: Apache-2.0
"""A stopped rebase, am, merge, cherry-pick or revert: each conflict with both sides' text and commits."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from kernloop.errors import HarnessError, UsageError
from kernloop.git.command import git, git_path, operation, text
from kernloop.git.regions import Region, place, regions

__all__ = [
    "Commit",
    "ConflictReport",
    "ConflictedFile",
    "RegionReport",
    "explain",
    "unmerged",
]

_KINDS = {
    "123": "both modified it",
    "23": "both added it",
    "12": "theirs deleted it, ours changed it",
    "13": "ours deleted it, theirs changed it",
    "1": "both deleted it",
    "2": "only ours has it",
    "3": "only theirs has it",
}
_SLOW = 60.0


@dataclass(frozen=True)
class Commit:
    commit: str
    subject: str
    author: str


@dataclass(frozen=True)
class RegionReport:
    """The commits of each side that changed these lines last, newest first."""

    region: Region
    ours: tuple[Commit, ...]
    theirs: tuple[Commit, ...]


@dataclass(frozen=True)
class ConflictedFile:
    """`markers` is how many conflicts the file still shows; `rerere` the recorded resolution that filled it, or ""."""

    path: str
    kind: str
    regions: tuple[RegionReport, ...]
    markers: int
    resolved: bool = False
    rerere: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ConflictReport:
    """`ours` and `theirs` say what these words mean here: in a rebase they are the other way round."""

    operation: str
    ours: str
    theirs: str
    applying: Commit | None
    files: tuple[ConflictedFile, ...]
    next: str


@dataclass(frozen=True)
class _Standing:
    operation: str
    ours: str
    theirs: str
    # The commits whose sides meet; theirs and base are "" where git has no commit for them.
    theirs_commit: str
    base_commit: str


def unmerged(tree: Path, *, resolved: bool = False) -> list[tuple[str, dict[str, str]]]:
    """Each conflicted path with its blobs by stage; `resolved`: those that were and are not any more."""
    option = "--resolve-undo" if resolved else "--unmerged"
    found: dict[str, dict[str, str]] = {}
    for entry in git(tree, "ls-files", option, "-z").stdout.split("\0"):
        head, _, path = entry.partition("\t")
        if path:
            _, blob, stage = head.split(" ")
            found.setdefault(path, {})[stage] = blob
    return list(found.items())


def explain(tree: Path) -> ConflictReport:
    """What stands still in `tree` and why. Raises UsageError when nothing does, or HarnessError of git."""
    standing = _standing(tree)
    files = [_file(tree, standing, path, stages) for path, stages in unmerged(tree)]
    open_ = {file.path for file in files}
    for path, stages in unmerged(tree, resolved=True):
        if path not in open_:
            files.append(_file(tree, standing, path, stages, resolved=True))
    applying = _commit(tree, standing.theirs_commit) if standing.theirs_commit else _of_am(tree)
    return ConflictReport(
        standing.operation, standing.ours, standing.theirs, applying, tuple(files), _next(standing, files)
    )


def _standing(tree: Path) -> _Standing:
    word = operation(tree)
    if word == "rebase":
        ours = "the branch you rebase onto, with those of your commits that are done"
        stopped = _resolve(tree, "REBASE_HEAD")
        return _Standing(word, ours, "your own commit, which is being applied", stopped, _resolve(tree, "REBASE_HEAD^"))
    if word == "am":
        return _Standing(word, "your tree", "the patch, which is being applied", "", "")
    if word == "merge":
        theirs = _resolve(tree, "MERGE_HEAD")
        base = git(tree, "merge-base", "HEAD", theirs, check=False).stdout.split("\n")[0]
        return _Standing(word, "the branch you are on", "the branch you merge", theirs, base)
    if word == "cherry-pick":
        theirs, base = _resolve(tree, "CHERRY_PICK_HEAD"), _resolve(tree, "CHERRY_PICK_HEAD^")
        return _Standing(word, "the branch you are on", "the commit you pick", theirs, base)
    if word == "revert":
        # What is merged in is the parent, as seen from the commit (sequencer.c, do_pick_commit).
        theirs, base = _resolve(tree, "REVERT_HEAD^"), _resolve(tree, "REVERT_HEAD")
        return _Standing(word, "the branch you are on", "the state before the commit you revert", theirs, base)
    if unmerged(tree):
        # `git stash pop`, autostash or `checkout -m`: git leaves no word of what it was.
        return _Standing("stash", "the commit you are on", "your stashed changes; git stash list", "", "")
    raise UsageError(
        "no rebase, am, merge, cherry-pick or revert stands still here", hint="there is nothing to explain"
    )


def _next(standing: _Standing, files: list[ConflictedFile]) -> str:
    if any(file.rerere and not file.resolved for file in files):
        return "rerere filled in a recorded resolution: read it; if wrong, git rerere forget PATH; git checkout -m PATH"
    if any(not file.resolved for file in files):
        after = "git stash drop" if standing.operation == "stash" else f"git {standing.operation} --continue"
        return f"edit each file so that both sides' purpose is kept, git add it, then {after}"
    if standing.operation == "bisect":
        return "git bisect reset ends it"
    return f"nothing conflicts any more: git {standing.operation} --continue (or --abort)"


def _file(
    tree: Path, standing: _Standing, path: str, stages: dict[str, str], *, resolved: bool = False
) -> ConflictedFile:
    kind = _KINDS["".join(sorted(stages))]
    file = tree / path
    content = file.read_bytes().decode(errors="replace") if file.is_file() and not file.is_symlink() else ""
    left = len(regions(content))
    reports: tuple[RegionReport, ...] = ()
    notes: tuple[str, ...] = ()
    if "2" in stages and "3" in stages:
        reports = _regions(tree, standing, path, stages)
    else:
        notes = _deleted(tree, standing, path, "2" not in stages)
    rerere = "" if left else _recorded(tree, content)
    return ConflictedFile(path, kind, reports, left, resolved, rerere, notes)


# The three versions merged again: the file itself may be edited by now.
def _regions(tree: Path, standing: _Standing, path: str, stages: dict[str, str]) -> tuple[RegionReport, ...]:
    sides = {stage: _blob(tree, blob) for stage, blob in stages.items()}
    with tempfile.TemporaryDirectory() as folder:
        names = []
        for stage in ("2", "1", "3"):
            name = Path(folder, stage)
            name.write_bytes(sides.get(stage, b""))
            names.append(name)
        # A status below 128 is the number of conflicts (git-merge-file(1)).
        done = git(tree, "merge-file", "-p", "--diff3", *names, check=False)
    found = regions(done.stdout)
    ours, theirs = (sides[stage].decode(errors="replace").split("\n") for stage in ("2", "3"))
    reports = []
    for index, region in enumerate(found):
        at = place(found, index, done.stdout, ours, "ours")
        of_ours = _touched(tree, standing.base_commit, "HEAD", path, at, len(region.ours))
        if not standing.theirs_commit:
            of_theirs = [commit] if (commit := _of_am(tree)) else []
        elif standing.operation == "merge":
            at = place(found, index, done.stdout, theirs, "theirs")
            end = standing.theirs_commit
            of_theirs = _touched(tree, standing.base_commit, end, path, at, len(region.theirs))
        else:
            of_theirs = [_commit(tree, standing.theirs_commit)]
        reports.append(RegionReport(region, tuple(of_ours), tuple(of_theirs)))
    return tuple(reports)


# The commits of base..end that lines at `at` (from 0) come from; for lines that are gone, those that touched the place.
def _touched(tree: Path, base: str, end: str, path: str, at: int, count: int) -> list[Commit]:
    range_ = f"{base}..{end}" if base else end
    found: dict[str, None] = {}
    if count:
        done = git(
            tree, "blame", "-s", "-l", "-w", f"-L{at + 1},+{count}", range_, "--", path, check=False, seconds=_SLOW
        )
        # A line of the base, or older, has a ^ before its commit.
        found = dict.fromkeys(line.split(" ")[0] for line in done.stdout.splitlines() if not line.startswith("^"))
    if not found:
        with_neighbours = f"-L{max(at, 1)},{at + max(count, 1) + 1}:{path}"
        for where in (with_neighbours, f"-L{max(at, 1)},+1:{path}"):
            try:
                words = ("log", "-s", "-3", "--format=%H", where, range_)
                done = git(tree, *words, check=False, seconds=_SLOW)
            except HarnessError:
                break
            found = dict.fromkeys(done.stdout.split())
            if done.status == 0:
                break
    if not found:
        found = dict.fromkeys(text(tree, "log", "-3", "--format=%H", range_, "--", path).split())
    return [_commit(tree, commit) for commit in found]


def _deleted(tree: Path, standing: _Standing, path: str, by_ours: bool) -> tuple[str, ...]:
    end = "HEAD" if by_ours else standing.theirs_commit
    if not end:
        return ()
    range_ = f"{standing.base_commit}..{end}" if standing.base_commit else end
    commit = text(tree, "log", "-1", "--diff-filter=D", "--no-renames", "--format=%H", range_, "--", path)
    if not commit:
        return ()
    by = _commit(tree, commit)
    note = f"deleted by {by.commit[:12]} ({by.subject})"
    shown = git(tree, "show", "-M", "--format=", "--name-status", "-z", "--diff-filter=R", commit).stdout.split("\0")
    for old, new in zip(shown[1::3], shown[2::3], strict=False):
        if old == path:
            note += f", which moved it to {new}: make the change there"
    return (note,)


# rerere leaves a normalised copy of the conflict it met (rerere.c, merge: `thisimage`); the resolution that was
# replayed is the one which, merged with that, gives the file.
def _recorded(tree: Path, content: str) -> str:
    cache = git_path(tree, "rr-cache")
    if not cache.is_dir() or not content:
        return ""
    for entry in _newest(cache.glob("*/thisimage")):
        pre, post = entry.with_name("preimage"), entry.with_name("postimage")
        if pre.is_file() and post.is_file():
            done = git(tree, "merge-file", "-p", entry, pre, post, check=False)
            if done.status == 0 and done.stdout == content:
                return entry.parent.name
    return ""


def _newest(files: Iterable[Path]) -> list[Path]:
    return sorted(files, key=lambda file: file.stat().st_mtime, reverse=True)[:50]


def _of_am(tree: Path) -> Commit | None:
    file = git_path(tree, "rebase-apply") / "final-commit"
    if not file.is_file():
        return None
    lines = file.read_text(errors="replace").strip().split("\n")
    return Commit("", lines[0], "")


def _blob(tree: Path, blob: str) -> bytes:
    return git(tree, "cat-file", "blob", blob).stdout.encode()


def _commit(tree: Path, commit: str) -> Commit:
    sha, subject, author = text(tree, "log", "-1", "--format=%H%n%s%n%an <%ae>", commit).split("\n")
    return Commit(sha, subject, author)


def _resolve(tree: Path, name: str) -> str:
    return git(tree, "rev-parse", "--verify", "--quiet", name, check=False).stdout.strip()
