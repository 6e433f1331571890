# SPDX-License-Identifier: Apache-2.0
"""A copy of a folder that is kept in step: what was edited is copied again, what the build made stays."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from kernloop.errors import UsageError
from kernloop.host import process

__all__ = ["refreshed"]

_MIB_MAX = 400
# What a Makefile names outside its own folder.
_OUTSIDE = re.compile(r"(?<![\w.])\.\./")
_LISTED = "copied.json"


def refreshed(folder: Path, copy: Path) -> Path:
    """`folder` in the copy: of its whole repository where the Makefile reaches outside, else of the folder alone.

    Raises UsageError when that is too much.
    """
    top = _repository(folder) if _reaches_outside(folder) else None
    root = top or folder
    files = list(_listed_by_git(root) if top or _repository(folder) else _walk(root))
    size = sum((root / name).lstat().st_size for name in files) >> 20
    if size > _MIB_MAX:
        raise UsageError(
            f"{root} has {size} MiB, too much to copy for a build (at most {_MIB_MAX})",
            hint="build it yourself, then: kernloop verify THE_LOADER -- ARGS, or its .bpf.o",
        )
    before = _before(copy)
    for name in sorted(before - set(files)):
        (copy / name).unlink(missing_ok=True)
    for name in files:
        _copy(root / name, copy / name)
    copy.mkdir(parents=True, exist_ok=True)
    (copy.parent / _LISTED).write_text(json.dumps(sorted(files)))
    return copy / folder.relative_to(root)


def _copy(source: Path, to: Path) -> None:
    stat = source.lstat()
    if to.is_symlink() or to.exists():
        old = to.lstat()
        if (old.st_size, old.st_mtime_ns, old.st_mode) == (stat.st_size, stat.st_mtime_ns, stat.st_mode):
            return
        to.unlink()
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, to, follow_symlinks=False)


def _before(copy: Path) -> set[str]:
    try:
        return set(json.loads((copy.parent / _LISTED).read_text()))
    except (OSError, ValueError):
        # Killed in the middle of the first copy: what lies there is nobody's.
        shutil.rmtree(copy, ignore_errors=True)
        return set()


def _reaches_outside(folder: Path) -> bool:
    texts = (path.read_text(errors="replace") for path in sorted(folder.glob("*akefile*")) if path.is_file())
    return any(_OUTSIDE.search(text) for text in texts)


def _repository(folder: Path) -> Path | None:
    done = _git(folder, "rev-parse", "--show-toplevel")
    return Path(done) if done else None


# With what is new and not ignored; without what was built there.
def _listed_by_git(root: Path) -> Iterator[str]:
    listed = _git(root, "ls-files", "--cached", "--others", "--exclude-standard", "-z")
    for name in listed.split("\0"):
        path = root / name
        if name and (path.is_symlink() or path.is_file()):
            yield name


def _walk(root: Path) -> Iterator[str]:
    for place, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name != ".git"]
        for name in files:
            path = Path(place) / name
            if path.is_symlink() or path.is_file():
                yield str(path.relative_to(root))


def _git(folder: Path, *words: str) -> str:
    if shutil.which("git") is None:
        return ""
    done = process.run(["git", "-C", folder, *words], seconds=60, what="asking git", check=False)
    return done.stdout.strip("\n") if done.status == 0 else ""
