# SPDX-License-Identifier: Apache-2.0
"""How `git series check` builds: as `kernel build` does, for single objects; other trees by their own Makefile."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from kernloop.errors import SubjectError
from kernloop.git.objects import Builder, MakeBuilder
from kernloop.host import process
from kernloop.kernel import build, config, toolchain
from kernloop.kernel.config import ConfigError, Wish
from kernloop.kernel.tree import open_tree

__all__ = ["builders"]


def builders(base: Path | None) -> Callable[[Path], Builder]:
    """A builder for each folder of objects; `base` is a whole .config instead of the profile `test`."""

    def prepare(tree: Path, folder: Path) -> tuple[str, ...]:
        if not (tree / "Kconfig").exists():
            return _plain(tree, folder)
        # With CONFIG_WERROR a warning of W=1 that is old would be an error that is new.
        make = build.command(open_tree(tree), folder, toolchain.find("x86_64", llvm=False), {"KCFLAGS": "-Wno-error"})
        if (folder / ".config").exists():
            _goal(make, "olddefconfig")
            return make
        try:
            config.configure(folder, make, Wish("test", base=base))
        except ConfigError:
            # A kernel that lacks what guests need has objects all the same.
            if base is not None:
                raise
            _goal(make, "defconfig")
        return make

    return lambda folder: MakeBuilder(folder, prepare)


def _plain(tree: Path, folder: Path) -> tuple[str, ...]:
    make = ("make", "-C", str(tree), f"O={folder}")
    _goal(make, "olddefconfig" if (folder / ".config").exists() else "defconfig")
    return make


def _goal(make: tuple[str, ...], goal: str) -> None:
    done = process.run([*make, goal], seconds=600, what=f"make {goal}", check=False)
    if done.status != 0:
        last = (done.stderr or done.stdout).strip().splitlines()[-3:]
        raise SubjectError(f"the tree cannot be configured: {' | '.join(last)}", hint=f"make {goal} in the tree")
