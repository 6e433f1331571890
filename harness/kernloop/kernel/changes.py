# SPDX-License-Identifier: Apache-2.0
"""What changed since the last good build: whether make need be asked at all, and what it will find.

make itself takes seconds to see that nothing is to be done. This takes a survey of the tree (one stat a file), of the
build folder, of the configuration and of the recipe (command, environment, tools) and compares it with what it was
after the last good build. Whatever is not known to be the same counts as changed. Where only a file's time or inode
moved (a branch and back, a copy), its content decides, which make cannot do.

    before = changes.survey(tree, folder)  # first: what is edited while make runs is then seen the next time
    changes.forget(folder)                 # a build that is killed leaves nothing to trust
    ... make ...
    changes.remember(folder, tree, before, recipe)
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kernloop.kernel import depend, dotconfig

__all__ = [
    "Changes",
    "Survey",
    "built_from",
    "changed",
    "edited_since",
    "forget",
    "nothing_changed",
    "recipe",
    "remember",
    "sources",
    "survey",
    "will_rebuild",
]

_STATE = "kernloop/built"
# No build of an x86 kernel reads these; of Documentation/ Kconfig reads the top.
_SKIPPED = frozenset({".git", ".svn", ".hg", "__pycache__", "tools/testing", "tools/perf"})
_MAKEFILES = frozenset({"Makefile", "Kbuild", "Kconfig"})
_EDITORS = ("~", ".swp", ".swo", ".orig", ".rej", ".pyc")
# What the kernel's Makefiles and the compilers take from the environment.
_ENVIRONMENT = frozenset(
    (
        *("ARCH", "SUBARCH", "CC", "HOSTCC", "LD", "LLVM", "CROSS_COMPILE", "PAHOLE", "LOCALVERSION", "MAKEFLAGS"),
        *("HOSTCFLAGS", "KCFLAGS", "KAFLAGS", "KCPPFLAGS", "KRUSTFLAGS", "CPATH", "C_INCLUDE_PATH", "GCC_EXEC_PREFIX"),
    )
)


@dataclass(frozen=True)
class Survey:
    """Every file that a build may read: its path under the tree, and its mode, size, time and inode in one word."""

    files: Mapping[str, str]


@dataclass(frozen=True)
class Changes:
    """What is not as it was after the last good build. `built` is False where there was none.

    `moved` are files with another time or inode and the same content; `symbols` the configuration's, each with its
    value before and now; `outputs` files of the build folder that somebody else changed or removed.
    """

    built: bool
    edited: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    moved: tuple[str, ...] = ()
    symbols: tuple[tuple[str, str, str], ...] = ()
    recipe: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()

    @property
    def nothing(self) -> bool:
        """Whether a build would bring forth what is there."""
        return self.built and not (
            self.edited or self.added or self.removed or self.symbols or self.recipe or self.outputs
        )


def survey(tree: Path, folder: Path, arch: str = "x86") -> Survey:
    """Stat all files that a build of `tree` in `folder` may read: 0.3 s for a whole kernel.

    `arch` is the name of its folder in arch/ (SRCARCH).
    """
    own = os.path.relpath(folder.resolve(), tree.resolve())

    def wanted(name: str) -> bool:
        parts = name.split("/")
        if len(parts) > 1 and parts[0] in ("Documentation", "arch"):
            return parts[0] == "arch" and parts[1] == arch
        return parts[-1] not in _SKIPPED and name not in _SKIPPED and name != own

    return Survey(_walk(tree, wanted))


def recipe(words: Sequence[str], programs: Iterable[str], tree: Path | None = None) -> str:
    """What decides about a build beside its sources, as text: make's words, the environment, each program by its file.

    With `tree` the commit is in it: for a kernel whose release names it (CONFIG_LOCALVERSION_AUTO).
    """
    lines = [f"word {word}" for word in words]
    heard = {name for name in os.environ if name in _ENVIRONMENT or name.startswith("KBUILD_")}
    lines += [f"env {name}={os.environ[name]}" for name in sorted(heard)]
    for program in sorted(set(programs)):
        found = shutil.which(program)
        lines.append(f"program {program} {_identity(Path(found).stat()) if found else 'not there'}")
    if tree is not None:
        lines.append(f"commit {_commit(tree)}")
    return "\n".join(lines)


def built_from(folder: Path) -> tuple[str, ...]:
    """make's words of the last good build in `folder`; none when there is none."""
    lines = _text(folder / _STATE / "recipe").split("\n")
    return tuple(line.removeprefix("word ") for line in lines if line.startswith("word "))


def sources(folder: Path) -> str:
    """A digest of all that the last good build in `folder` could read."""
    return hashlib.sha256((folder / _STATE / "tree").read_bytes()).hexdigest()


def forget(folder: Path) -> None:
    """From now on `folder` is not known to be whole; what was built last is still known, for what will be rebuilt."""
    with contextlib.suppress(FileNotFoundError):
        (folder / _STATE / "outputs").unlink()


def remember(folder: Path, tree: Path, before: Survey, recipe: str) -> None:
    """`folder` holds a good build of `tree` as it was in `before`. To be called when all is in place in `folder`."""
    state = folder / _STATE
    state.mkdir(parents=True, exist_ok=True)
    known = _hashes(state)
    now = {}
    for name in depend.inputs(folder, tree):
        identity = before.files.get(name)
        if identity is None:
            continue
        old = known.get(name)
        content = old[1] if old and old[0] == identity else _digest(tree / name)
        # What was edited since has another content than the one that was built.
        with contextlib.suppress(FileNotFoundError):
            if _identity((tree / name).lstat()) == identity:
                now[name] = (identity, content)
    _write(state / "tree", _lines(before.files))
    _write(state / "hashes", "".join(f"{digest} {identity} {name}\n" for name, (identity, digest) in now.items()))
    _write(state / "config", _text(folder / ".config"))
    _write(state / "recipe", recipe)
    # Last: without it nothing is believed.
    _write(state / "outputs", _lines(_outputs(folder)))


def changed(folder: Path, tree: Path, recipe: str, now: Survey | None = None) -> Changes:
    """How things differ from the last good build in `folder`; `now` saves a survey that was just taken."""
    state = folder / _STATE
    known = _text(state / "tree")
    if not known:
        return Changes(built=False)
    found = (now or survey(tree, folder)).files
    edited: list[str] = []
    moved: list[str] = []
    # Folders are read in the same order while nothing in them comes or goes: mostly there is nothing to look into.
    then = found if _lines(found) == known else _read(state / "tree")
    if then is not found:
        hashes = _hashes(state)
        for name, _ in found.items() - then.items():
            if name in then:
                old = hashes.get(name)
                same = old is not None and old[0] == then[name] and old[1] == _digest(tree / name)
                (moved if same else edited).append(name)
    outputs = _read(state / "outputs")
    return Changes(
        built=bool(outputs),
        edited=tuple(sorted(edited)),
        added=tuple(sorted(found.keys() - then.keys())),
        removed=tuple(sorted(then.keys() - found.keys())),
        moved=tuple(sorted(moved)),
        symbols=_symbols(_text(state / "config"), _text(folder / ".config")),
        recipe=tuple(sorted(set(recipe.split("\n")) ^ set(_text(state / "recipe").split("\n")))),
        outputs=tuple(sorted({name for name, _ in outputs.items() ^ _outputs(folder).items()})) if outputs else (),
    )


def will_rebuild(folder: Path, tree: Path, changes: Changes) -> depend.Rebuild:
    """What a build will make anew. make goes by time, so files that only moved are rebuilt as well."""
    why = "" if changes.built else "there is no good build yet"
    if changes.recipe:
        why = "the command, its environment or a tool is another"
    found = depend.will_rebuild(
        folder,
        tree,
        files=(*changes.edited, *changes.moved, *changes.removed, *changes.added),
        symbols=[name for name, _, _ in changes.symbols],
        everything=why,
    )
    return replace(found, lost=changes.outputs)


def nothing_changed(folder: Path, tree: Path, recipe: str) -> bool:
    """Whether what lies in `folder` is what a build would make. False whenever that is not sure."""
    return (folder / _STATE / "outputs").exists() and changed(folder, tree, recipe).nothing


def edited_since(folder: Path, tree: Path, arch: str = "x86") -> tuple[str, ...]:
    """The files of `tree` that are not as the kernel in `folder` was built from: sources it was made of, Makefiles."""
    state = folder / _STATE
    read = _hashes(state)
    found = changed(folder, tree, _text(state / "recipe"), survey(tree, folder, arch))
    differ = (*found.edited, *found.removed)
    return tuple(name for name in differ if name in read or name.rpartition("/")[2] in _MAKEFILES)


def _walk(top: Path, wanted: Callable[[str], bool]) -> dict[str, str]:
    found = {}
    folders = [""]
    while folders:
        folder = folders.pop()
        prefix = f"{folder}/" if folder else ""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(top / folder) as entries:
            for entry in entries:
                name = prefix + entry.name
                if entry.is_dir(follow_symlinks=False):
                    if wanted(name):
                        folders.append(name)
                elif not name.endswith(_EDITORS):
                    with contextlib.suppress(FileNotFoundError):
                        found[name] = _identity(entry.stat(follow_symlinks=False))
    return found


def _identity(stat: os.stat_result) -> str:
    return f"{stat.st_mode}.{stat.st_size}.{stat.st_mtime_ns}.{stat.st_ino}"


# include/config has an empty file for each symbol: .config says the same.
def _outputs(folder: Path) -> dict[str, str]:
    return _walk(folder, lambda name: name not in ("kernloop", "include/config"))


def _digest(path: Path) -> str:
    try:
        return hashlib.sha1(path.read_bytes(), usedforsecurity=False).hexdigest()
    except OSError:
        return ""


def _commit(tree: Path) -> str:
    git = tree / ".git"
    try:
        if git.is_file():
            git = Path(git.read_text().removeprefix("gitdir:").strip())
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head
        common = git / "commondir"
        shared = git / common.read_text().strip() if common.exists() else git
        ref = shared / head.removeprefix("ref: ")
        return ref.read_text().strip() if ref.exists() else f"{head} {_identity((shared / 'packed-refs').stat())}"
    except OSError:
        return ""


def _symbols(before: str, now: str) -> tuple[tuple[str, str, str], ...]:
    old, new = dotconfig.symbols(before), dotconfig.symbols(now)
    names = sorted(name for name, _ in old.items() ^ new.items())
    return tuple((name, old.get(name, "n"), new.get(name, "n")) for name in dict.fromkeys(names))


def _lines(files: Mapping[str, str]) -> str:
    return "".join([f"{identity} {name}\n" for name, identity in files.items()])


def _read(path: Path) -> dict[str, str]:
    lines = (line.partition(" ") for line in _text(path).split("\n"))
    return {name: first for first, _, name in lines if name}


def _hashes(state: Path) -> dict[str, tuple[str, str]]:
    lines = ((*rest.partition(" "), digest) for rest, digest in _read(state / "hashes").items())
    return {name: (identity, digest) for identity, _, name, digest in lines}


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="surrogateescape")
    except OSError:
        return ""


def _write(path: Path, text: str) -> None:
    staging = path.with_name(f"{path.name}.{os.getpid()}")
    staging.write_text(text, errors="surrogateescape")
    staging.replace(path)
