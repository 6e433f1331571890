# SPDX-License-Identifier: Apache-2.0
"""Small git repositories that tests make: the user's git, with hooks and settings as a test wants."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

__all__ = ["Repo", "numbered", "picture"]

_WHO = {
    "GIT_AUTHOR_NAME": "Ann Author",
    "GIT_AUTHOR_EMAIL": "ann@example.org",
    "GIT_COMMITTER_NAME": "Carl Committer",
    "GIT_COMMITTER_EMAIL": "carl@example.org",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_EDITOR": "true",
    "GIT_SEQUENCE_EDITOR": "true",
    "LC_ALL": "C",
}


def numbered(count: int = 40) -> str:
    return "".join(f"int line{number};\n" for number in range(1, count + 1))


def picture(folder: Path) -> dict[str, object]:
    """All files of a folder, git's own left out: content, links, modes."""
    return {
        str(path.relative_to(folder)): path.readlink()
        if path.is_symlink()
        else (path.read_bytes(), path.stat().st_mode)
        for path in folder.rglob("*")
        if (path.is_symlink() or path.is_file()) and ".git" not in path.relative_to(folder).parts
    }


class Repo:
    """A repository at `path` with the branch main."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self.git("init", "-q", "-b", "main")
        self.git("config", "user.name", "Carl Committer")
        self.git("config", "user.email", "carl@example.org")

    def run(self, *words: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
        """git as the user calls it; its status is not looked at."""
        return subprocess.run(
            ["git", *map(str, words)], cwd=self.path, env={**os.environ, **_WHO, **env}, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, errors="replace", timeout=60,
        )  # fmt: skip

    def git(self, *words: str | Path, **env: str) -> str:
        """What git prints; it must succeed."""
        done = self.run(*words, **env)
        assert done.returncode == 0, f"git {' '.join(map(str, words))}\n{done.stdout}{done.stderr}"
        return done.stdout.strip()

    def write(self, name: str, text: str) -> Path:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def read(self, name: str) -> str:
        return (self.path / name).read_text()

    def replace(self, name: str, old: str, new: str) -> None:
        text = self.read(name)
        assert old in text
        self.write(name, text.replace(old, new))

    def commit(self, message: str = "change", **files: str) -> str:
        """Commit everything; `files` are written first, __ in their names is a / and a trailing _c is .c."""
        for name, text in files.items():
            self.write(name.replace("__", "/").removesuffix("_c") + (".c" if name.endswith("_c") else ""), text)
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", message)
        return self.head

    @property
    def head(self) -> str:
        return self.git("rev-parse", "HEAD")

    @property
    def subjects(self) -> list[str]:
        """Oldest first."""
        return self.git("log", "--reverse", "--format=%s").splitlines()

    @property
    def state(self) -> tuple[object, ...]:
        """All that must not change when nothing was to be done."""
        return (
            self.git("status", "--porcelain=v2", "--branch", "--show-stash", "--untracked-files=all"),
            self.git("for-each-ref"), self.git("worktree", "list"), picture(self.path),
            sorted(path.name for path in (self.path / ".git").iterdir()),
        )  # fmt: skip
