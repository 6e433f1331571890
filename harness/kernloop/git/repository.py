# SPDX-License-Identifier: Apache-2.0
"""A user's git repository, read and never changed: revisions, commits, and the graph between good and bad."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kernloop.errors import HarnessError, UsageError
from kernloop.git.history import History

if TYPE_CHECKING:
    from git import Repo

__all__ = ["OWN_GIT", "Commit", "Repository", "open_repository"]

# What a git hook, or `git bisect run`, leaves in the environment would send git to another repository than the folder
# it is called in (git-rev-parse(1), --local-env-vars).
_LOCAL = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY")
OWN_GIT = ("env", *(word for name in _LOCAL for word in ("-u", name)))


@dataclass(frozen=True)
class Commit:
    """A commit as people know it; `date` is the author's, ISO 8601."""

    sha: str
    subject: str
    author: str
    date: str

    @property
    def short(self) -> str:
        return f"{self.sha[:12]} ({self.subject})"


class Repository:
    """The repository that `root` is a checkout of; `common` is its .git, which worktrees share."""

    def __init__(self, repo: Repo) -> None:
        self._repo = repo
        self.root = Path(repo.working_tree_dir or repo.git_dir)
        self.common = Path(repo.common_dir).resolve()

    def resolve(self, name: str) -> str:
        """The commit that `name` means. Raises UsageError when there is none."""
        status, out, said = self._git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
        if status != 0:
            shallow = "; the clone is shallow: git fetch --unshallow" if self._shallow else ""
            raise UsageError(
                f"{name!r} is no commit of {self.root}" + (f": {said}" if said else ""), hint=f"git log{shallow}"
            )
        return out

    def commit(self, sha: str) -> Commit:
        found = self._repo.commit(sha)
        subject = str(found.summary)
        return Commit(sha, subject, f"{found.author.name} <{found.author.email}>", found.authored_datetime.isoformat())

    def history(self, goods: Sequence[str], bad: str) -> History:
        """What `bad` contains and no one of `goods` does. Raises UsageError when that is nothing."""
        status, out, said = self._git(
            "rev-list", "--topo-order", "--reverse", "--parents", bad, *(f"^{good}" for good in goods), "--"
        )
        if status != 0:
            raise HarnessError(f"git cannot list the commits of {self.root}: {said}", hint="git fsck says what is lost")
        if not out:
            raise UsageError(
                "the good revision contains the bad one: there is nothing between them",
                hint="--good is the older one, where it still works; to find the commit that cured something, turn the "
                "command's answer round and swap them",
            )
        lines = (line.split() for line in out.splitlines())
        return History({commit: tuple(parents) for commit, *parents in lines})

    def bases(self, goods: Iterable[str], bad: str) -> tuple[str, ...]:
        """Where the ways to `bad` and to a good that it does not contain part. Raises UsageError: they never met."""
        found: dict[str, None] = {}
        for good in goods:
            status, out, _ = self._git("merge-base", "--all", good, bad)
            if status != 0 or not out:
                hint = "the clone is shallow: git fetch --unshallow" if self._shallow else "both must be of one history"
                raise UsageError(f"{good[:12]} and {bad[:12]} have no commit in common", hint=hint)
            found.update(dict.fromkeys(base for base in out.split() if base != good))
        return tuple(found)

    def close(self) -> None:
        """End the process that GitPython reads commits from."""
        self._repo.close()

    @property
    def _shallow(self) -> bool:
        return (self.common / "shallow").exists()

    def _git(self, *words: str) -> tuple[int, str, str]:
        status, out, said = self._repo.git.execute(
            [*OWN_GIT, "git", *words], with_extended_output=True, with_exceptions=False
        )
        return int(status), str(out).strip(), str(said).strip()


def open_repository(directory: Path) -> Repository:
    """The repository that `directory` lies in. Raises UsageError when it lies in none."""
    try:
        # GitPython looks for git when it is imported.
        from git import InvalidGitRepositoryError, NoSuchPathError, Repo
    except ImportError:
        raise HarnessError("git is not installed", hint="apt install git") from None
    try:
        return Repository(Repo(directory, search_parent_directories=True))
    except (InvalidGitRepositoryError, NoSuchPathError):
        raise UsageError(f"{directory} is in no git repository", hint="name the folder of a clone") from None
