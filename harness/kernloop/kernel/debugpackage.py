# SPDX-License-Identifier: Apache-2.0
"""Debian's packages with the debugging information of its kernels: hundreds of MB, so fetched only when asked for."""

from __future__ import annotations

import re
import subprocess
import tarfile
from pathlib import Path, PurePosixPath

from kernloop.errors import HarnessError, UsageError
from kernloop.host import apt, owned, process
from kernloop.host.cache import ensure, need_space
from kernloop.host.paths import cache_dir

__all__ = ["cached", "fetch", "find"]


def find(release: str) -> apt.Package:
    """The package of the kernel that calls itself `release`. Raises UsageError when the archive has none."""
    name = f"linux-image-{release}-dbg"
    found = apt.candidates(re.escape(name))
    if not found:
        raise UsageError(
            f"Debian has no package {name}", hint="give the file with its debugging information: --vmlinux FILE"
        )
    return found[-1]


def cached(package: apt.Package) -> Path | None:
    """The vmlinux of `package` if it was fetched."""
    path = _folder(package) / "vmlinux"
    return path if path.exists() else None


def fetch(package: apt.Package) -> Path:
    """The vmlinux of `package`; nothing else of it is kept. Raises HarnessError."""
    folder = _folder(package)
    if not folder.exists():
        need_space(folder, 3 * (package.size >> 20), package.name)
    what = f"fetching {package.name} ({package.size >> 20} MiB)"
    return ensure(folder, lambda staging: _make(package, staging), what=what) / "vmlinux"


def _folder(package: apt.Package) -> Path:
    return cache_dir() / "debug" / f"{package.name}_{package.version.replace(':', '_')}"


def _make(package: apt.Package, staging: Path) -> None:
    [deb] = apt.download([package], staging)
    # As a stream: unpacked it has 2 GB, most of them modules.
    child = process.spawn(["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE)
    with owned.group(child.pid):
        try:
            assert child.stdout is not None
            with tarfile.open(fileobj=child.stdout, mode="r|") as archive:
                _take(archive, staging / "vmlinux")
        finally:
            process.end_group(child)
    deb.unlink()
    if not (staging / "vmlinux").exists():
        raise HarnessError(f"{package.name} has no vmlinux", hint="give it yourself: --vmlinux FILE")


def _take(archive: tarfile.TarFile, target: Path) -> None:
    for member in archive:
        if member.isreg() and re.fullmatch(r"vmlinux(-.*)?", PurePosixPath(member.name).name):
            source = archive.extractfile(member)
            assert source is not None
            with target.open("wb") as out:
                while piece := source.read(1 << 20):
                    out.write(piece)
            return
