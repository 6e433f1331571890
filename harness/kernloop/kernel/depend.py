# SPDX-License-Identifier: Apache-2.0
"""Which objects of a build folder are made of what, and so which will be rebuilt, and why.

kbuild leaves `.NAME.cmd` beside each object: the command, the source, and all files that the compiler read, with
`$(wildcard include/config/SYM)` for each symbol that they mention (scripts/basic/fixdep.c). Reading all of them takes
0.2 ms each; nothing is kept between calls, so nothing can be stale.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from posixpath import normpath

__all__ = ["Cause", "Rebuild", "inputs", "modules", "overlooked", "will_rebuild"]

# Sources of the host programs that objects are made with; their own .cmd files name sources without a folder.
_OBJTOOL = ("tools/objtool/", "tools/lib/", "tools/include/", "tools/arch/", "tools/build/", "tools/scripts/")
_OBJTOOL_WORD = b"./tools/objtool/objtool)"
# As many folders as a line for people can name.
_FOLDERS = 4


@dataclass(frozen=True)
class Cause:
    """`what` changed ("include/linux/sched.h", "CONFIG_HZ"), and so `objects` are out of date."""

    what: str
    objects: tuple[str, ...]

    def __str__(self) -> str:
        if len(self.objects) <= 2:
            return f"{self.what} → {', '.join(self.objects)}"
        folders = sorted({name.rpartition("/")[0] or "." for name in self.objects})
        shown = ", ".join(folders[:_FOLDERS]) + (", ..." if len(folders) > _FOLDERS else "")
        return f"{self.what} → {len(self.objects)} in {shown}"


@dataclass(frozen=True)
class Rebuild:
    """What the next build will make anew.

    `objects` all those that are out of date, `causes` why, the furthest reaching first. `modules` are those with such
    an object, `links` says that the kernel itself is linked anew. `everything` is why all may be rebuilt, "" when not;
    `unknown` are changed files that no object names: Makefiles, scripts, Kconfig, new files. make decides about these.
    `lost` are files of the build folder that somebody else removed or changed.
    """

    objects: tuple[str, ...]
    causes: tuple[Cause, ...]
    modules: tuple[str, ...]
    links: bool
    everything: str = ""
    unknown: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()

    def summary(self) -> str:
        """One line for people."""
        if self.everything:
            return f"everything: {self.everything}"
        parts = [str(cause) for cause in self.causes[:3]]
        if len(self.causes) > 3:
            parts.append(f"{len(self.causes) - 3} more causes")
        if self.unknown:
            parts.append(f"make decides about {', '.join(self.unknown[:3])}{', ...' if len(self.unknown) > 3 else ''}")
        if self.lost:
            parts.append(f"{len(self.lost)} files of the build are gone or changed")
        if not parts:
            return "nothing"
        count = f"{len(self.objects)} object{'' if len(self.objects) == 1 else 's'}"
        then = ["vmlinux"] if self.links else []
        then += self.modules if len(self.modules) <= 2 else [f"{len(self.modules)} modules"]
        return f"{count}: {'; '.join(parts)}{'; then ' + ', '.join(then) if then else ''}"


def will_rebuild(
    folder: Path, tree: Path, *, files: Iterable[str] = (), symbols: Iterable[str] = (), everything: str = ""
) -> Rebuild:
    """What a build will make anew when `files` of the tree and `symbols` of the configuration changed."""
    words: dict[bytes, str] = {}
    for name in files:
        for spelled in _spelled(folder, tree, name):
            words[spelled] = name
        if name.startswith(_OBJTOOL):
            words[_OBJTOOL_WORD] = name
    for symbol in symbols:
        words[b"include/config/%s)" % symbol.encode()] = f"CONFIG_{symbol}"
    found: dict[str, set[str]] = {}
    for target, read in _read_all(folder):
        if words.keys().isdisjoint(read):
            continue
        for word in words.keys() & set(read):
            found.setdefault(words[word], set()).add(target)
    objects = {target for targets in found.values() for target in targets if target.endswith(".o")}
    causes = [Cause(what, tuple(sorted(targets))) for what, targets in found.items()]
    module_of = modules(folder)
    return Rebuild(
        tuple(sorted(objects)),
        tuple(sorted(causes, key=lambda cause: (-len(cause.objects), cause.what))),
        tuple(sorted({module_of[name] for name in objects if name in module_of})),
        links=any(name not in module_of and not name.startswith(("scripts/", "tools/")) for name in objects),
        everything=everything,
        unknown=tuple(sorted(set(files) - found.keys())),
    )


def inputs(folder: Path, tree: Path) -> set[str]:
    """All files of the tree that any object was made of, by their path in it."""
    words: set[bytes] = set()
    for _, read in _read_all(folder):
        words.update(read)
    tops = {f"{top}/" for top in (tree.absolute(), tree.resolve())}
    here = folder.resolve()
    found = set()
    for word in map(os.fsdecode, words):
        path = normpath(f"{here}/{word}") if word.startswith("../") else word
        for top in tops:
            if path.startswith(top):
                found.add(normpath(path.removeprefix(top)))
    return found


def overlooked(folder: Path, tree: Path, rebuild: Rebuild) -> tuple[Path, ...]:
    """Objects that make would take for good though their source changed: a file that was put in place with a time of
    long ago (`mv`, `cp -p`, an unpacked archive). Remove them before make runs."""
    found = []
    for cause in rebuild.causes:
        try:
            changed = (tree / cause.what).stat().st_mtime_ns
        except OSError:
            continue
        for name in cause.objects:
            made = folder / name
            if made.exists() and made.stat().st_mtime_ns >= changed:
                found.append(made)
    return tuple(found)


# Each target of the folder with the words that its .cmd file lists: files, and symbols as `include/config/SYM)`.
def _read_all(folder: Path) -> Iterator[tuple[str, list[bytes]]]:
    for top, folders, names in os.walk(folder):
        if top == str(folder):
            folders[:] = [name for name in folders if not name.startswith(".")]
        prefix = os.path.relpath(top, folder)
        for name in names:
            if not name.startswith(".") or not name.endswith(".cmd"):
                continue
            data = Path(top, name).read_bytes()
            at = data.find(b"\nsource_")
            if at >= 0:
                yield normpath(f"{prefix}/{name[1:-4]}"), data[at:].split()


# A file as a .cmd file may name it: by srctree, which is absolute, or ../ for a folder in the tree; and links resolved.
def _spelled(folder: Path, tree: Path, name: str) -> set[bytes]:
    relative = os.path.relpath(tree.resolve(), folder.resolve())
    spelled = (f"{tree.absolute()}/{name}", f"{tree.resolve()}/{name}", normpath(f"{relative}/{name}"))
    return {os.fsencode(one) for one in spelled}


def modules(folder: Path) -> dict[str, str]:
    """The module (.ko) of each object that is part of one; NAME.mod lists its objects (scripts/Makefile.build)."""
    found = {}
    try:
        order = (folder / "modules.order").read_text().split()
    except OSError:
        return {}
    for module in order:
        stem = module.removesuffix(".o")
        found[module] = f"{stem}.ko"
        try:
            parts = (folder / f"{stem}.mod").read_text().split()
        except OSError:
            continue
        found.update((normpath(part), f"{stem}.ko") for part in parts)
    return found
