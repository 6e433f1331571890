# SPDX-License-Identifier: Apache-2.0
"""The worktree: whatever a kill left of it, it is made usable, and goes without a trace."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from histories import GOOD, Made, linear, make
from kernloop.git.worktree import Worktree


def cut_off_before_git_wrote_anything(tree: Worktree) -> None:
    shutil.rmtree(tree.path)
    entry = tree.common / "worktrees" / tree.path.name
    for file in ("gitdir", "HEAD", "commondir"):
        (entry / file).unlink()


def without_its_files(tree: Worktree) -> None:
    shutil.rmtree(tree.path)


def without_gits_record(tree: Worktree) -> None:
    shutil.rmtree(tree.common / "worktrees" / tree.path.name)


def with_locks(tree: Worktree) -> None:
    for name in ("index.lock", "HEAD.lock"):
        (tree.common / "worktrees" / tree.path.name / name).write_text("")


def with_half_of_the_files(tree: Worktree) -> None:
    (tree.path / "name").write_text("")
    (tree.path / "more").unlink()


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return make(tmp_path / "repository", linear(4), lambda name: {"more": f"of {name}\n"})


@pytest.mark.parametrize(
    "damage",
    [cut_off_before_git_wrote_anything, without_its_files, without_gits_record, with_locks, with_half_of_the_files],
)
def test_a_damaged_one_is_made_whole(made: Made, tmp_path: Path, damage: Callable[[Worktree], None]) -> None:
    before = made.everything()
    tree = Worktree(made.path / ".git", tmp_path / "kernloop-x")
    tree.prepare(made.sha["c3"])
    tree.checkout(made.sha["c2"])
    damage(tree)
    tree.prepare(made.sha["c3"])
    tree.checkout(made.sha["c1"])
    assert (tree.path / "name").read_text() == "c1\n"
    assert (tree.path / "more").read_text() == "of c1\n"
    tree.remove()
    assert made.everything() == before


def test_what_the_command_changed_is_undone_and_what_it_built_stays(made: Made, tmp_path: Path) -> None:
    tree = Worktree(made.path / ".git", tmp_path / "kernloop-x")
    tree.prepare(made.sha["c3"])
    tree.checkout(made.sha["c3"])
    (tree.path / "name").write_text("changed\n")
    (tree.path / "built.o").write_text("object\n")
    tree.checkout(made.sha[GOOD])
    assert (tree.path / "name").read_text() == "c0\n"
    assert (tree.path / "built.o").exists()


def test_prune_and_collection_of_garbage_by_the_user_leave_it_alone(made: Made, tmp_path: Path) -> None:
    tree = Worktree(made.path / ".git", tmp_path / "kernloop-x")
    tree.prepare(made.sha["c3"])
    tree.checkout(made.sha["c2"])
    made.git("worktree", "prune", "--expire", "now")
    made.git("gc", "-q", "--prune=now")
    tree.checkout(made.sha["c1"])
    assert (tree.path / "name").read_text() == "c1\n"
    tree.remove()
