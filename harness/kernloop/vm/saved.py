# SPDX-License-Identifier: Apache-2.0
"""VMs that a user saved under a tag, to start any number of others from: memory, devices and console, in one folder."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kernloop import runs
from kernloop.errors import HarnessError, UsageError
from kernloop.host import owned
from kernloop.host.cache import exclusive, need_space
from kernloop.host.paths import state_dir
from kernloop.vm import snapshots
from kernloop.vm.request import VmRequest, check_name

__all__ = ["Saved", "load", "making", "remove", "seal", "tags"]


@dataclass(frozen=True)
class Saved:
    """`request` is what the VM was started with, its kernel named by digest; `key` names the guest, `jobs` the number
    of its next job, `size` is in bytes on disk, `age` in seconds."""

    tag: str
    path: Path
    request: VmRequest
    key: str
    jobs: int
    size: int
    age: float


def load(tag: str) -> Saved:
    """Raises UsageError when there is no such tag, HarnessError when its files were changed."""
    check_name(tag, "saved VM")
    path = _folder() / tag
    if not path.is_dir():
        known = " ".join(saved.tag for saved in tags()) or "none"
        raise UsageError(f"no VM is saved as {tag!r}; there are: {known}", hint="kernloop vm snapshot NAME TAG")
    about = runs.read_json(path / "about.json")
    found = _saved(tag, path, about)
    if found is None:
        raise _damaged(tag, path, "about.json")
    for name, checksum in about["files"].items():
        if not (path / name).exists() or snapshots.checksum(path / name) != checksum:
            raise _damaged(tag, path, name)
    return found


def tags() -> list[Saved]:
    """All that can be read, by name."""
    paths = sorted(_folder().iterdir()) if _folder().exists() else []
    found = [_saved(path.name, path, runs.read_json(path / "about.json")) for path in paths if path.name[0] != "."]
    return [saved for saved in found if saved]


@contextlib.contextmanager
def making(tag: str, memory: int) -> Iterator[Path]:
    """A folder to put `state` and `console` into and to `seal`; it then takes the place of an older one of that tag.

    `memory` is the VM's, in MiB. Raises UsageError for a tag that cannot be one.
    """
    check_name(tag, "saved VM")
    final = _folder() / tag
    staging = final.with_name(f".{tag}.{os.getpid()}.staging")
    need_space(_folder(), memory // 2, "a saved VM")
    with owned.folder(staging):
        try:
            staging.mkdir(parents=True, mode=0o700)
            yield staging
            with exclusive(f"saved-{tag}", what="saving a VM", seconds=10):
                snapshots.remove(final)
                staging.rename(final)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def seal(folder: Path, request: VmRequest, key: str, jobs: int) -> int:
    """Write down what is in `folder`; its size in bytes on disk. It reads all of it."""
    files = {file.name: snapshots.checksum(file) for file in sorted(folder.iterdir())}
    runs.write_json(folder / "about.json", {"request": request.as_json(), "key": key, "jobs": jobs, "files": files})
    return _size(folder)


def remove(tag: str) -> None:
    """Raises UsageError when there is no such tag."""
    check_name(tag, "saved VM")
    path = _folder() / tag
    if not path.is_dir():
        raise UsageError(f"no VM is saved as {tag!r}", hint="kernloop vm snapshots")
    snapshots.remove(path)


# None when `about` is not what `seal` of this version writes.
def _saved(tag: str, path: Path, about: dict[str, Any]) -> Saved | None:
    try:
        request = VmRequest.of_json(about["request"])
        files, key, jobs = about["files"], str(about["key"]), int(about["jobs"])
        if "state" not in files or "console" not in files:
            return None
        return Saved(tag, path, request, key, jobs, _size(path), time.time() - path.stat().st_mtime)
    except (OSError, KeyError, TypeError, ValueError, AttributeError):
        return None


def _damaged(tag: str, path: Path, name: str) -> HarnessError:
    return HarnessError(
        f"the saved VM {tag} is damaged, or of another kernloop ({name})", hint=f"save it anew; rm -r {path}"
    )


def _size(path: Path) -> int:
    return sum(file.stat().st_blocks * 512 for file in path.iterdir())


def _folder() -> Path:
    return state_dir() / "vms"
