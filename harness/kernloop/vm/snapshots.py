# SPDX-License-Identifier: Apache-2.0
"""Booted micro-VMs, frozen once and restored for every run: found by what they were made of, checked, bounded.

A snapshot is a folder: `ram*`, the guest's memory, mapped privately by every machine restored from it; `state`, all
else that QEMU knows of the machine; `console`, what the boot printed; `about.json`, what the files must look like.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kernloop.errors import HarnessError
from kernloop.host import owned, progress
from kernloop.host.cache import exclusive, need_space
from kernloop.host.paths import cache_dir

__all__ = ["Snapshot", "checksum", "find", "folder_of", "key", "lease", "listing", "making", "remove", "trim"]

# Change it when snapshots made before can no longer be used.
_FORMAT = 1
_KEPT = 12
_KEPT_BYTES = 3 << 30
_CHUNK = 8 << 20
_MIB_NEEDED = 300
# A boot, its interrogation when it hangs, and another process's before.
_MAKING_SECONDS = 400.0


@dataclass(frozen=True)
class Snapshot:
    """A whole snapshot; `size` in bytes on disk, `used` when it last served (seconds since the epoch)."""

    path: Path
    size: int
    used: float

    @property
    def state(self) -> Path:
        return self.path / "state"

    @property
    def console(self) -> bytes:
        return (self.path / "console").read_bytes()


def key(parts: Sequence[str]) -> str:
    """The name of the snapshot of a machine made of `parts`."""
    return hashlib.sha256(json.dumps([_FORMAT, *parts]).encode()).hexdigest()[:24]


def folder_of(name: str) -> Path:
    return _folder() / name


def find(name: str) -> Snapshot | None:
    """The snapshot `name` if it is whole; one that was changed since it was made is removed."""
    path = folder_of(name)
    if not path.exists():
        return None
    if not _sound(path):
        remove(path)
        return None
    os.utime(path)
    return _load(path)


@contextlib.contextmanager
def making(name: str) -> Iterator[Path | None]:
    """A folder to make the snapshot `name` in, kept if there is a `state` in it at the end; None when it is there.

    One process makes it, others wait for it.
    """
    if find(name) is not None:
        yield None
        return
    final = folder_of(name)
    staging = final.with_name(f".{name}.{os.getpid()}.staging")
    with exclusive(f"snapshots-{name}", what="booting a guest for its snapshot", seconds=_MAKING_SECONDS):
        if find(name) is not None:
            yield None
            return
        # We hold the lock, so whoever left one of these behind was killed.
        for left in final.parent.glob(f".{name}.*.staging"):
            shutil.rmtree(left, ignore_errors=True)
        progress.say("booting once, for a snapshot")
        need_space(cache_dir(), _MIB_NEEDED, "a snapshot of the booted guest")
        with owned.folder(staging):
            try:
                staging.mkdir(parents=True)
                yield staging
                if (staging / "state").exists():
                    _seal(staging)
                    staging.rename(final)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
    trim()


def remove(path: Path) -> None:
    """Remove a snapshot in one step, as others see it; machines that run from it keep their memory."""
    doomed = path.with_name(f".{path.name}.{os.getpid()}.doomed")
    with contextlib.suppress(OSError):
        path.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


@contextlib.contextmanager
def lease(snapshot: Snapshot) -> Iterator[None]:
    """Keep `trim` in any process away from `snapshot`. Raises HarnessError when it has gone already."""
    with _locked(snapshot.path, fcntl.LOCK_SH) as there:
        if not there:
            raise HarnessError(f"the snapshot {snapshot.path} has just gone", hint="run it again")
        yield


def listing() -> list[Snapshot]:
    """All snapshots, the one used last first."""
    paths = _folder().iterdir() if _folder().exists() else []
    found = [_load(path) for path in paths if not path.name.startswith(".")]
    return sorted(found, key=lambda snapshot: -snapshot.used)


def trim(*, keep: int = _KEPT, keep_bytes: int = _KEPT_BYTES, dry_run: bool = False) -> list[Snapshot]:
    """Remove all snapshots but the `keep` used last, and of these what is beyond `keep_bytes`; returns the removed."""
    for left in [] if dry_run else _folder().glob(".*.doomed"):
        shutil.rmtree(left, ignore_errors=True)
    removed, total = [], 0
    for place, snapshot in enumerate(listing()):
        total += snapshot.size
        if place < keep and total <= keep_bytes:
            continue
        with _locked(snapshot.path, fcntl.LOCK_EX | fcntl.LOCK_NB) as idle:
            if idle and not dry_run:
                remove(snapshot.path)
            if idle:
                removed.append(snapshot)
    return removed


def checksum(file: Path) -> int:
    """CRC-32 of the parts of `file` that hold data, and where they lie; holes are not read."""
    total = 0
    with file.open("rb", buffering=0) as source:
        end = source.seek(0, os.SEEK_END)
        at = 0
        while at < end:
            try:
                at = os.lseek(source.fileno(), at, os.SEEK_DATA)
            except OSError:
                break
            hole = os.lseek(source.fileno(), at, os.SEEK_HOLE)
            os.lseek(source.fileno(), at, os.SEEK_SET)
            total = zlib.crc32(str(at).encode(), total)
            while at < hole and (data := source.read(min(_CHUNK, hole - at))):
                total = zlib.crc32(data, total)
                at += len(data)
    return zlib.crc32(str(end).encode(), total)


def _folder() -> Path:
    return cache_dir() / "snapshots"


def _load(path: Path) -> Snapshot:
    size = 0
    used = 0.0
    with contextlib.suppress(OSError):
        size = sum(file.stat().st_blocks * 512 for file in path.iterdir())
        used = path.stat().st_mtime
    return Snapshot(path, size, used)


# Write down what the files of a snapshot look like.
def _seal(folder: Path) -> None:
    files = sorted(file for file in folder.iterdir() if file.name != "about.json")
    about = {file.name: {"seen": _seen(file), "checksum": checksum(file)} for file in files}
    staged = folder.with_name(f".{folder.name}.{os.getpid()}.about")
    staged.write_text(json.dumps(about))
    staged.rename(folder / "about.json")


# Nobody can write to a file and leave its ctime: hashing a hundred megabytes each time would be half of a restore.
def _seen(file: Path) -> list[int]:
    found = file.stat()
    return [found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns]


def _sound(path: Path) -> bool:
    try:
        about = json.loads((path / "about.json").read_text())
        present = {file.name for file in path.iterdir()} - {"about.json"}
        if present != set(about) or not present:
            return False
        changed = [name for name, facts in about.items() if _seen(path / name) != facts["seen"]]
        if any(checksum(path / name) != about[name]["checksum"] for name in changed):
            return False
    except (OSError, ValueError, KeyError, TypeError):
        return False
    if changed:
        _seal(path)  # moved, or restored from a backup: the bytes are the same
    return True


# Lock the snapshot's folder; False when another has it, or it is not there any more.
@contextlib.contextmanager
def _locked(path: Path, how: int) -> Iterator[bool]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        yield False
        return
    try:
        fcntl.flock(fd, how)
        # It may have got another name while we waited: then it is about to go.
        there = path.exists() and os.path.samestat(os.fstat(fd), path.stat())
    except OSError:
        there = False
    try:
        yield there
    finally:
        os.close(fd)
