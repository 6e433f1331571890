# SPDX-License-Identifier: Apache-2.0
"""What `kernel patch` did to a tree, written down before it is done, so that it can be taken back exactly.

A stack for each tree in the state folder; a record has commits (old and new HEAD) or files (what they were).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from kernloop.errors import HarnessError
from kernloop.host.paths import state_dir

__all__ = ["ABSENT", "FileState", "Record", "forget", "keep", "last", "look", "put", "restore"]

_RECORD = "record.json"


@dataclass(frozen=True)
class FileState:
    """`kind` is file, link (`data` is where to) or absent."""

    kind: str
    mode: int = 0
    data: bytes = b""

    @property
    def digest(self) -> str:
        # git knows of the mode only whether a file can be executed.
        return hashlib.sha256(f"{self.kind} {bool(self.mode & 0o100)} ".encode() + self.data).hexdigest()


ABSENT = FileState("absent")


@dataclass(frozen=True)
class Record:
    """`old`, `new` and `ref` are for commits; `files` are paths with the digests before and after, in order."""

    tree: Path
    subject: str
    old: str = ""
    new: str = ""
    ref: str = ""
    files: tuple[tuple[str, str, str], ...] = ()
    folder: Path = Path()

    def before(self, index: int) -> FileState:
        """What the file with this index was."""
        kind, mode = (self.folder / f"{index}.kind").read_text().split()
        return FileState(kind, int(mode, 8), (self.folder / f"{index}.data").read_bytes())


def look(path: Path) -> FileState:
    """What lies there; a folder is none of the three and raises HarnessError."""
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return ABSENT
    if stat.S_ISLNK(mode):
        return FileState("link", 0o777, os.fsencode(path.readlink()))
    if stat.S_ISREG(mode):
        return FileState("file", stat.S_IMODE(mode), path.read_bytes())
    raise HarnessError(f"{path} is neither a file nor a link", hint="move it away")


def put(tree: Path, name: str, state: FileState) -> None:
    """Make the file `name` of `tree` be `state`, in one step; folders come and go with their files, as with git."""
    path = tree / name
    if state.kind == "absent":
        path.unlink(missing_ok=True)
        for parent in path.parents:
            if parent == tree or not parent.is_dir() or any(parent.iterdir()):
                break
            parent.rmdir()
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{uuid.uuid4().hex}.kernloop")
    try:
        if state.kind == "link":
            fresh.symlink_to(os.fsdecode(state.data))
        else:
            fresh.write_bytes(state.data)
            fresh.chmod(state.mode)
        fresh.replace(path)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise HarnessError(
            f"cannot write {path}: {error.strerror}", hint="free some space, or see who owns it"
        ) from None


def keep(record: Record, before: Mapping[str, FileState]) -> Record:
    """Write `record` down, with what its files were; it becomes the last one of its tree."""
    stack = _stack(record.tree)
    try:
        stack.mkdir(parents=True, exist_ok=True)
        number = max((int(entry.name) for entry in stack.iterdir() if entry.name.isdigit()), default=0) + 1
        staging = stack / f".{uuid.uuid4().hex}"
        staging.mkdir()
        for index, (name, _, _) in enumerate(record.files):
            state = before[name]
            (staging / f"{index}.kind").write_text(f"{state.kind} {state.mode:o}")
            (staging / f"{index}.data").write_bytes(state.data)
        value = {"tree": str(record.tree), "subject": record.subject, "old": record.old, "new": record.new,
                 "ref": record.ref, "files": record.files}  # fmt: skip
        (staging / _RECORD).write_text(json.dumps(value))
        folder = stack / f"{number:06}"
        staging.rename(folder)
    except OSError as error:
        raise HarnessError(f"cannot write {stack}: {error.strerror}", hint="nothing was applied") from None
    return Record(record.tree, record.subject, record.old, record.new, record.ref, record.files, folder)


def last(tree: Path) -> Record | None:
    """What the last `kernel patch` did to `tree` that was not taken back."""
    stack = _stack(tree)
    folders = sorted(entry for entry in stack.iterdir() if entry.name.isdigit()) if stack.is_dir() else []
    if not folders:
        return None
    value = json.loads((folders[-1] / _RECORD).read_text())
    files = tuple((name, before, after) for name, before, after in value["files"])
    return Record(tree, value["subject"], value["old"], value["new"], value["ref"], files, folders[-1])


def forget(record: Record) -> None:
    shutil.rmtree(record.folder)


def restore(record: Record, indices: Iterable[int] | None = None) -> None:
    """Its files as they were."""
    for index in range(len(record.files)) if indices is None else indices:
        put(record.tree, record.files[index][0], record.before(index))


def _stack(tree: Path) -> Path:
    return state_dir() / "patches" / hashlib.sha256(os.fsencode(tree.resolve())).hexdigest()[:16]
