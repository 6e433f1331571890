# SPDX-License-Identifier: Apache-2.0
"""Each commit of a series built alone: the objects of the files it touches, or all, in turn in one folder."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kernloop.git import objects
from kernloop.git.command import git
from kernloop.git.objects import Builder, Built, News
from kernloop.git.scratch import Worktree, worktree
from kernloop.git.tags import Problem
from kernloop.host import owned
from kernloop.report import compiler

__all__ = ["CommitReport", "each"]


@dataclass(frozen=True)
class CommitReport:
    """`built` are the objects that were compiled for it, `not_built` what it touches and nobody compiled, and why."""

    commit: str
    subject: str
    author: str
    problems: tuple[Problem, ...]
    built: tuple[str, ...] = ()
    not_built: tuple[tuple[str, str], ...] = ()


def each(
    tree: Path,
    base: str,
    reports: list[CommitReport],
    full: bool,
    builder: Callable[[Path], Builder],
    say: Callable[[str], None],
) -> list[CommitReport]:
    """`reports` with what building each commit said: first the base, whose warnings are no news, then each in turn."""
    touched = {one.commit: _touched(tree, one.commit) for one in reports}
    sources = sorted({name for names in touched.values() for name in names if name.endswith(".c")})
    if not full and not sources:
        why = "no .c file is touched by the series; --build full builds all"
        return [replace(one, not_built=tuple((name, why) for name in touched[one.commit])) for one in reports]
    news = News()
    with worktree(tree, base) as made, _folder(made.path.with_name(f"{made.path.name}-objects")) as folder:
        build = builder(folder)
        say(f"building the base {base[:12]}")
        first = build(made.path, [] if full else _targets(made, sources), True)
        news.of(first)
        broken = set(first.failed)
        found = []
        for one in reports:
            say(f"building {one.commit[:12]} ({one.subject})")
            made.git("checkout", "--quiet", "--force", "--detach", one.commit)
            names = touched[one.commit]
            _newer(made.path, names)
            # After a change of a header make knows which of the series' objects include it.
            wide = any(name.endswith(".h") for name in names)
            wanted = [] if full else _targets(made, sources if wide else [name for name in names if name in sources])
            fresh = any(Path(name).name.startswith("Kconfig") or name.endswith("defconfig") for name in names)
            done = build(made.path, wanted, fresh) if full or wanted else Built(True, (), (), (), ())
            problems = (*_problems(done, broken, news), *one.problems)
            left = () if full else _left(made, names, done)
            found.append(replace(one, problems=problems, built=done.compiled, not_built=left))
            broken = {target for target in broken if target in done.failed or target not in done.compiled}
    return found


# A file system's clock ticks in milliseconds: what git writes in the tick of an object looks no newer to make.
def _newer(tree: Path, names: Iterable[str]) -> None:
    now = time.time_ns()
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            os.utime(tree / name, ns=(now, now), follow_symlinks=False)


@contextlib.contextmanager
def _folder(path: Path) -> Iterator[Path]:
    with owned.folder(path):
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)


def _touched(tree: Path, commit: str) -> list[str]:
    said = git(tree, "diff-tree", "-r", "--root", "--no-commit-id", "--name-only", "--no-renames", "-z", commit).stdout
    return [name for name in said.split("\0") if name]


def _targets(made: Worktree, sources: Sequence[str]) -> list[str]:
    return [str(Path(name).with_suffix(".o")) for name in sources if (made.path / name).is_file()]


def _problems(done: Built, broken: set[str], news: News) -> list[Problem]:
    bad = compiler.errors(done.diagnostics)
    problems = [Problem("error", "build", one.message, one.file, one.line) for one in bad]
    new = set(done.failed) - broken
    if done.failed and not new:
        problems = [Problem("note", "build", f"{name} does not build at the base either") for name in done.failed]
    elif not done.ok and not problems and (new or not done.unknown):
        said = " | ".join(done.tail)
        problems.append(Problem("error", "build", f"make failed: {said}"))
    for one in news.of(done):
        problems.append(Problem("error", "new-warning", one.message, one.file, one.line))
    return problems


# What the commit touches and nothing was compiled for.
def _left(made: Worktree, names: Sequence[str], done: Built) -> tuple[tuple[str, str], ...]:
    left = []
    for name in names:
        target = str(Path(name).with_suffix(".o"))
        if not (made.path / name).exists():
            continue
        if target in done.unknown:
            symbol = objects.enabling(made.path, target)
            left.append((name, f"the configuration leaves it out{f': it needs {symbol}' if symbol else ''}"))
        elif name.endswith(".h"):
            users = [one for one in done.compiled if one not in _own(names)]
            also = f"; of the series these were: {', '.join(users)}" if users else ""
            left.append((name, f"a header: its users outside the series were not built{also}"))
        elif name.endswith((".S", ".rs", "Makefile", "Kbuild")) or Path(name).name.startswith("Kconfig"):
            left.append((name, "no .c file; --build full builds it"))
    return tuple(left)


def _own(names: Sequence[str]) -> set[str]:
    return {str(Path(name).with_suffix(".o")) for name in names if name.endswith(".c")}
