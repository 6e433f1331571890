# SPDX-License-Identifier: Apache-2.0
"""How `git series check` builds where nobody says otherwise: make with the tree's default configuration."""

from __future__ import annotations

from pathlib import Path

from kernloop.errors import SubjectError
from kernloop.git.objects import Builder, MakeBuilder
from kernloop.host import process

__all__ = ["builder"]


def builder(folder: Path) -> Builder:
    """Objects go to `folder`."""
    return MakeBuilder(folder, _configure)


def _configure(tree: Path, folder: Path) -> None:
    goal = "olddefconfig" if (folder / ".config").exists() else "defconfig"
    done = process.run(["make", "-C", tree, f"O={folder}", goal], seconds=600, what=f"make {goal}", check=False)
    if done.status != 0:
        last = (done.stderr or done.stdout).strip().splitlines()[-3:]
        raise SubjectError(f"the tree cannot be configured: {' | '.join(last)}", hint=f"make {goal} in the tree")
