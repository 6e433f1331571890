# SPDX-License-Identifier: Apache-2.0
"""How long builds of a source tree take: from nothing, after an edit, with nothing to do, and to the line of an error.

ccache is left aside: an edit is never in it, and what it has of the rest depends on what was built before.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from kernloop.errors import HarnessError
from kernloop.host import owned, process
from kernloop.host.figures import Figures, Measure, chosen, timed
from kernloop.host.paths import cache_dir
from kernloop.kernel.build import BuildRequest, build
from kernloop.kernel.tree import open_tree

__all__ = ["EDITED", "FULL", "MEASURES", "measure"]

EDITED = Path("kernel/sched/ext.c")
FULL = "full"
MEASURES = {
    FULL: Measure("kernel build from nothing, once", 300),
    "edit": Measure(f"kernel build after an edit of {EDITED}, to the image", 25),
    "none": Measure("kernel build again, nothing changed", 5),
    "error": Measure(f"kernel build with a syntax error at the end of {EDITED}, to its line", 15),
}
_SECONDS = 4 * 3600.0
_UNCACHED = {"CCACHE_DISABLE": "1"}


def measure(
    tree: Path, profile: str, names: Sequence[str], rounds: int, *, say: Callable[[str], None]
) -> dict[str, Figures]:
    """The figures of `names` for `tree`, in which EDITED is as it was in the end.

    Raises UsageError for a name that there is not or a tree that is none, BuildFailed if it does not build.
    """
    chosen(names, MEASURES)
    source = open_tree(tree)
    source.check_clean()
    file = source.path / EDITED
    text = file.read_bytes() if file.exists() else None
    found = {name: Figures() for name in names}
    if FULL in found:
        say(f"{FULL}: from nothing, in a folder of its own")
        found[FULL].add(timed(lambda: _from_nothing(source.path, profile)))
    others = [name for name in names if name != FULL]
    if not others:
        return found
    say("not counted: what is not built yet, or was edited since")
    _build(source.path, profile)
    for name in ("edit", "error"):
        if name in found and text is None:
            found[name].why = f"the tree has no {EDITED}"
    with _as_it_was(file, text):
        for number in range(1, rounds + 1):
            for name in others:
                if found[name].why:
                    continue
                say(f"{name}, {number} of {rounds}")
                found[name].add(_taken(name, source.path, profile, file, text or b"", number))
    say("not counted: the tree as it was")
    _build(source.path, profile)
    return found


def _taken(name: str, tree: Path, profile: str, file: Path, text: bytes, number: int) -> tuple[float, float]:
    if name == "edit":
        # Another edit each time, so that no round finds what the last one made.
        file.write_bytes(text + f"/* kernloop bench: {os.getpid()}, {number} */\n".encode())
    elif name == "error":
        kept = file.read_bytes()
        file.write_bytes(text + b"int kernloop_bench = ;\n")
        try:
            return timed(lambda: _fails(tree, profile, text.count(b"\n") + 1))
        finally:
            file.write_bytes(kept)
            _build(tree, profile)
    return timed(lambda: _build(tree, profile))


# As a process, for that is what a user waits for.
def _build(tree: Path, profile: str) -> None:
    process.run(_words(tree, profile), seconds=_SECONDS, what="kernloop kernel build", env=_UNCACHED)


def _fails(tree: Path, profile: str, line: int) -> None:
    done = process.run(
        _words(tree, profile), seconds=_SECONDS, what="kernloop kernel build", env=_UNCACHED, check=False
    )
    if f"{EDITED}:{line}:" not in done.stderr:
        raise HarnessError(f"the error in {EDITED}, line {line} was not named: {done.stderr.strip()[-300:]}")


def _words(tree: Path, profile: str) -> list[str]:
    return [sys.executable, "-m", "kernloop", "kernel", "build", str(tree), "--profile", profile]


def _from_nothing(tree: Path, profile: str) -> None:
    folder = cache_dir() / f"bench/{os.getpid()}"
    with owned.folder(folder), _environment(_UNCACHED):
        try:
            build(BuildRequest(tree, profile, folder=folder))
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _environment(more: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(more)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def _as_it_was(file: Path, text: bytes | None) -> Iterator[None]:
    try:
        yield
    finally:
        if text is not None and file.read_bytes() != text:
            file.write_bytes(text)
