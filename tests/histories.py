# SPDX-License-Identifier: Apache-2.0
"""Histories that are made up: as a graph for the search alone, as a repository for the whole of `kernloop bisect`."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from kernloop.git.history import History
from kernloop.git.search import Answer, Search
from kernloop.git.vote import Policy, Shot, Sign

GOOD, BAD = "c0", "end"
Parents = Mapping[str, tuple[str, ...]]


def linear(count: int) -> dict[str, tuple[str, ...]]:
    """c0 <- c1 <- ... <- end, `count` of them behind c0."""
    names = [GOOD, *(f"c{number}" for number in range(1, count)), BAD]
    return {GOOD: (), **{name: (before,) for before, name in pairwise(names)}}


def tangled(count: int, seed: int) -> dict[str, tuple[str, ...]]:
    """Branches that come and go and criss-cross; all of it is in `end`, and contains c0."""
    chance = random.Random(seed)
    parents: dict[str, tuple[str, ...]] = {GOOD: ()}
    for number in range(1, count):
        known = list(parents)[-8:]
        parents[f"c{number}"] = tuple(chance.sample(known, min(len(known), chance.choice((1, 1, 1, 2, 2, 3)))))
    used = {parent for of in parents.values() for parent in of}
    return {**parents, BAD: tuple(name for name in parents if name not in used)}


def searched(parents: Parents) -> History:
    return History({commit: of for commit, of in parents.items() if commit != GOOD})


@dataclass
class Fake:
    """A probe that knows the culprit: `shows` is how often a bad commit shows it, `noise` how often a good one does."""

    parents: Parents
    culprit: str
    broken: frozenset[str] = frozenset()
    shows: float = 1.0
    noise: float = 0.0
    seed: int = 0
    asked: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._chance = random.Random(self.seed)
        self._bad = {one for one in self.parents if self.culprit in History(self.parents).ancestors(one)}

    def __call__(self, commit: str) -> Shot:
        self.asked.append(commit)
        if commit in self.broken:
            return Shot(Sign.UNTESTABLE, "does not build")
        seen = self._chance.random() < (self.shows if commit in self._bad else self.noise)
        return Shot(Sign.SHOWN if seen else Sign.CLEAN)


def search(probe: Callable[[str], Shot], parents: Parents, policy: Policy | None = None, **more: object) -> Answer:
    return Search(searched(parents), [GOOD], BAD, probe, policy or Policy(), **more).run()  # type: ignore[arg-type]


@dataclass(frozen=True)
class Made:
    """A repository on disk; `sha` by the names of the graph."""

    path: Path
    sha: Mapping[str, str]

    def git(self, *words: str) -> str:
        return git(self.path, *words)

    def everything(self) -> dict[str, bytes | str]:
        """Each file of the checkout and of .git, with all that it holds; and each folder."""
        found: dict[str, bytes | str] = {}
        for path in sorted(self.path.rglob("*")):
            found[str(path.relative_to(self.path))] = path.read_bytes() if path.is_file() else "folder"
        return found


def git(path: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(path), *words], capture_output=True, text=True, env=_ENV)
    assert done.returncode == 0, (words, done.stderr)
    return done.stdout.strip()


_ENV = {
    **os.environ,
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    **{
        f"GIT_{who}_{what}": f"{what.lower()}@example.org"
        for who in ("AUTHOR", "COMMITTER")
        for what in ("NAME", "EMAIL")
    },
}


def make(folder: Path, parents: Parents, files: Callable[[str], Mapping[str, str]]) -> Made:
    """A repository with the graph `parents`; `files` says what each commit has besides its own name."""
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    marks = {name: number for number, name in enumerate(parents, 1)}
    stream = []
    for name, of in parents.items():
        if not of:
            stream.append("reset refs/heads/main\n")
        stream.append(f"commit refs/heads/main\nmark :{marks[name]}\ncommitter A <a@example.org> {marks[name]} +0000\n")
        stream.append(f"data {len(name)}\n{name}\n")
        stream.extend(f"{'merge' if n else 'from'} :{marks[parent]}\n" for n, parent in enumerate(of))
        stream.append("deleteall\n")
        for path, text in {"name": f"{name}\n", **files(name)}.items():
            stream.append(f"M 100644 inline {path}\ndata {len(text)}\n{text}\n")
    done = subprocess.run(
        ["git", "-C", str(folder), "fast-import", "--quiet", "--export-marks=.git/marks"],
        input="".join(stream), text=True, capture_output=True, env=_ENV,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = (folder / ".git/marks").read_text().split()
    shas = dict(zip(lines[::2], lines[1::2], strict=True))
    git(folder, "checkout", "-q", "-f", "main")
    return Made(folder, {name: shas[f":{mark}"] for name, mark in marks.items()})
