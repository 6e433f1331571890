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

__all__ = ["EDITED", "MEASURES", "USUAL", "measure"]

# The heart of sched_ext, a file as long as any: where 7.3 has it, and those before.
EDITED = (Path("kernel/sched/ext/ext.c"), Path("kernel/sched/ext.c"))
USUAL = ("edit", "none", "error")
MEASURES = {
    "full": Measure("kernel build from nothing, once", 300),
    "edit": Measure("kernel build after an edit of sched_ext's ext.c, to the image", 25),
    "none": Measure("kernel build again, nothing changed", 5),
    "error": Measure("kernel build with a syntax error at the end of ext.c, to its line", 15),
    "module": Measure("kernel build --module after an edit of a driver, loaded in a restored guest", 6),
}
_MODULES = ("--fragment", "modules", "--fragment", "kunit")
_DRIVER = "drivers/kl_fifo"
_SECONDS = 4 * 3600.0
_UNCACHED = {"CCACHE_DISABLE": "1"}


def measure(
    tree: Path, profile: str, names: Sequence[str], rounds: int, *, say: Callable[[str], None]
) -> dict[str, Figures]:
    """The figures of `names` for `tree`, in which one of EDITED is edited, and as it was in the end.

    Raises UsageError for a name that there is not or a tree that is none, HarnessError if it does not build.
    """
    chosen(names, MEASURES)
    source = open_tree(tree)
    source.check_clean()
    file = next((source.path / name for name in EDITED if (source.path / name).exists()), None)
    found = {name: Figures() for name in names}
    if "full" in found:
        say("full: from nothing, in a folder of its own")
        found["full"].add(timed(lambda: _from_nothing(source.path, profile)))
    if "module" in found:
        _driver(source.path, profile, rounds, found["module"], say)
    others = [name for name in names if name in USUAL]
    if not others:
        return found
    say("not counted: what is not built yet, or was edited since")
    _build(source.path, profile)
    for one in ("edit", "error"):
        if one in found and file is None:
            found[one].why = f"the tree has no {EDITED[-1]}"
    with _as_it_was(file):
        for number in range(1, rounds + 1):
            for one in others:
                if not found[one].why:
                    say(f"{one}, {number} of {rounds}")
                    found[one].add(_taken(one, source.path, profile, file, number))
    say("not counted: the tree as it was")
    _build(source.path, profile)
    return found


def _taken(name: str, tree: Path, profile: str, file: Path | None, number: int) -> tuple[float, float]:
    if file is not None and name == "edit":
        # Another line each time, so that no round finds what the last one made.
        _append(file, f"/* kernloop bench: {os.getpid()}, {number} */\n")
    elif file is not None and name == "error":
        with _as_it_was(file):
            line = _append(file, "int kernloop_bench = ;\n")
            taken = timed(lambda: _fails(tree, profile, f"{file.relative_to(tree)}:{line}:"))
        _build(tree, profile)
        return taken
    return timed(lambda: _build(tree, profile))


# A copy of the example, at one place: its objects are found again by that.
def _driver(tree: Path, profile: str, rounds: int, figures: Figures, say: Callable[[str], None]) -> None:
    folder = cache_dir() / "bench" / Path(_DRIVER).name
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(_examples() / _DRIVER, folder)
    words = [*_words(tree, profile), *_MODULES, "--module", str(folder), "--", "true"]

    def run() -> None:
        process.run(words, seconds=_SECONDS, what="kernloop kernel build --module", env=_UNCACHED)

    say("not counted: a kernel with modules, what it restores from")
    run()
    for number in range(1, rounds + 1):
        say(f"module, {number} of {rounds}")
        _append(folder / "kl_fifo.c", f"/* kernloop bench: {os.getpid()}, {number} */\n")
        figures.add(timed(run))


# In a checkout, or where the wheel has put it.
def _examples() -> Path:
    here = Path(__file__).resolve()
    places = [here.parents[3] / "examples", here.parents[1] / "data/examples"]
    return next(place for place in places if place.exists())


# The number of the line that was appended.
def _append(file: Path, line: str) -> int:
    text = file.read_text() + line
    file.write_text(text)
    return text.count("\n")


# As a process, for that is what a user waits for.
def _build(tree: Path, profile: str) -> None:
    process.run(_words(tree, profile), seconds=_SECONDS, what="kernloop kernel build", env=_UNCACHED)


def _fails(tree: Path, profile: str, place: str) -> None:
    words = _words(tree, profile)
    done = process.run(words, seconds=_SECONDS, what="kernloop kernel build", env=_UNCACHED, check=False)
    if place not in done.stderr:
        raise HarnessError(f"the error at {place} was not named: {done.stderr.strip()[-300:]}")


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
def _as_it_was(file: Path | None) -> Iterator[None]:
    before = file.read_bytes() if file else b""
    try:
        yield
    finally:
        if file and file.read_bytes() != before:
            file.write_bytes(before)
