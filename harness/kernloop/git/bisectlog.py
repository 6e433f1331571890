# SPDX-License-Identifier: Apache-2.0
"""A search as a `git bisect log`, which `git bisect replay` reads (git's builtin/bisect--helper.c writes the same)."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from kernloop.git.repository import OWN_GIT, Commit
from kernloop.git.search import Answer, Search
from kernloop.git.vote import Standing
from kernloop.host import process

__all__ = ["answer_in", "render", "replayed"]

_COMMIT = re.compile(r"^git bisect bad ([0-9a-f]+)$", re.M)
_ANSWER = re.compile(r"^# (?:possible )?first bad commit: \[([0-9a-f]+)\]", re.M)


def render(search: Search, describe: Callable[[str], Commit], answer: Answer | None = None) -> str:
    """What is known, as git would have written it: without the verdicts that were taken back.

    git searches below the commit that was called bad last, so that comes last here.
    """
    order = {commit: number for number, commit in enumerate(search.history.parents)}
    believed = {*search.goods, *search.believed_good()}
    lines = ["git bisect start"]

    def add(standing: Standing, commit: str) -> None:
        lines.extend((f"# {standing}: {_named(describe(commit))}", f"git bisect {standing} {commit}"))

    bad = [commit for commit, tally in search.tallies.items() if tally.standing is Standing.BAD and commit in order]
    for commit in sorted(bad, key=lambda one: (one == search.earliest_bad(), -order[one])):
        add(Standing.BAD, commit)
    for commit, tally in search.tallies.items():
        if tally.standing is Standing.GOOD and commit not in believed:
            lines.append(f"# taken for good, but contains a bad one: {_named(describe(commit))}")
        elif tally.standing is Standing.GOOD or (tally.standing is Standing.SKIP and commit in order):
            add(tally.standing, commit)
    if answer is not None and len(answer.candidates) == 1:
        lines.append(f"# first bad commit: {_named(describe(answer.candidates[0]))}")
    elif answer is not None:
        lines.append("# only skipped commits left to test")
        lines.extend(f"# possible first bad commit: {_named(describe(commit))}" for commit in answer.candidates)
    return "\n".join(lines) + "\n"


def answer_in(log: str) -> set[str]:
    """The commits that a log names as the first bad one, or as possibly that."""
    return set(_ANSWER.findall(log))


def replayed(common: Path, folder: Path, log: str) -> str:
    """What git makes of `log`: its own afterwards. `folder` becomes a repository that borrows the objects of `common`.

    In a worktree of `common` git would write its packed-refs, which are the user's. Raises HarnessError.
    """
    head = _COMMIT.findall(log)[0]
    words = ("init", "--quiet", "--bare", f"--object-format={'sha256' if len(head) == 64 else 'sha1'}", "--template=")
    _git(folder.parent, *words, str(folder))
    (folder / "objects/info").mkdir(parents=True, exist_ok=True)
    (folder / "objects/info/alternates").write_text(f"{common / 'objects'}\n")
    if (common / "shallow").exists():
        (folder / "shallow").write_bytes((common / "shallow").read_bytes())
    _git(folder, "update-ref", "--no-deref", "HEAD", head)
    file = folder / "kernloop.log"
    file.write_text(log)
    # It exits 2 where skips leave several.
    _git(folder, "bisect", "replay", str(file), check=False)
    return _git(folder, "bisect", "log").stdout


def _git(folder: Path, *words: str, check: bool = True) -> process.Completed:
    return process.run([*OWN_GIT, "git", "-C", folder, *words], seconds=120, what="replaying the log", check=check)


def _named(commit: Commit) -> str:
    return f"[{commit.sha}] {commit.subject}"
