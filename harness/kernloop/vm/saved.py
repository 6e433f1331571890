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
from kernloop.host.cache import need_space
from kernloop.host.paths import state_dir
from kernloop.vm import snapshots
from kernloop.vm.request import VmRequest, check_name

__all__ = ["Saved", "load", "making", "remove", "tags"]


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
    about = runs.read_json(path / "about.json")
    if not about:
        known = " ".join(saved.tag for saved in tags()) or "none"
        raise UsageError(f"no VM is saved as {tag!r}; there are: {known}", hint="kernloop vm snapshot NAME TAG")
    for name, checksum in about["files"].items():
        if not (path / name).exists() or snapshots.checksum(path / name) != checksum:
            raise HarnessError(f"the saved VM {tag} is damaged ({name})", hint=f"save it anew; rm -r {path}")
    return _saved(tag, path, about)


def tags() -> list[Saved]:
    """All of them, by name."""
    paths = sorted(_folder().iterdir()) if _folder().exists() else []
    found = [(path, runs.read_json(path / "about.json")) for path in paths if not path.name.startswith(".")]
    return [_saved(path.name, path, about) for path, about in found if about]


@contextlib.contextmanager
def making(tag: str, request: VmRequest, key: str, jobs: int) -> Iterator[Path]:
    """A folder to put `state` and `console` into; it takes the tag's place, an older one of that name goes.

    Raises UsageError for a tag that cannot be one.
    """
    check_name(tag, "saved VM")
    final = _folder() / tag
    staging = final.with_name(f".{tag}.{os.getpid()}.staging")
    need_space(_folder(), request.memory // 2, "a saved VM")
    with owned.folder(staging):
        try:
            staging.mkdir(parents=True, mode=0o700)
            yield staging
            files = {file.name: snapshots.checksum(file) for file in sorted(staging.iterdir())}
            about = {"request": request.as_json(), "key": key, "jobs": jobs, "files": files}
            runs.write_json(staging / "about.json", about)
            snapshots.remove(final)
            staging.rename(final)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def remove(tag: str) -> Saved:
    """Raises UsageError when there is no such tag."""
    saved = next((saved for saved in tags() if saved.tag == tag), None)
    if saved is None:
        raise UsageError(f"no VM is saved as {tag!r}", hint="kernloop vm snapshots")
    snapshots.remove(saved.path)
    return saved


def _saved(tag: str, path: Path, about: dict[str, Any]) -> Saved:
    size = sum(file.stat().st_blocks * 512 for file in path.iterdir())
    request = VmRequest.of_json(about["request"])
    return Saved(tag, path, request, about["key"], about["jobs"], size, time.time() - path.stat().st_mtime)


def _folder() -> Path:
    return state_dir() / "vms"
