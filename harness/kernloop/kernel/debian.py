# SPDX-License-Identifier: Apache-2.0
"""Debian's prebuilt cloud kernels: which there are, and fetching one whole.

From 6.19 the image lies in linux-binary-RELEASE, modules and config in linux-modules-RELEASE and linux-base-RELEASE;
before that all are in linux-image-RELEASE. Backports keeps the parts of some releases only: those are not listed.
SCHED_CLASS_EXT is on from 6.16 or 6.17; the config of what was fetched decides, not the number.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from kernloop.errors import UsageError
from kernloop.host import apt, process
from kernloop.host.cache import ensure, need_space
from kernloop.host.paths import cache_dir
from kernloop.kernel import kernel
from kernloop.kernel.kernel import Kernel

__all__ = ["Release", "cached", "fetch", "newest", "pick", "releases"]

_NAME = re.compile(r"linux-(image|binary|modules|base)-(\d+(?:\.\d+)+)(\+deb\d+(?:\.\d+)*)-cloud-amd64")
_FIRST_WITH_SCHED_EXT = (6, 16)


@dataclass(frozen=True)
class Release:
    """A kernel in the archive: `release` as uname -r says it, the packages that hold it, their download in bytes."""

    version: tuple[int, ...]
    release: str
    packages: tuple[apt.Package, ...]

    @property
    def number(self) -> str:
        return ".".join(str(part) for part in self.version)

    @property
    def size(self) -> int:
        return sum(package.size for package in self.packages)

    @property
    def folder(self) -> Path:
        return cache_dir() / "kernels" / f"debian-{self.release}_{self.packages[0].version.replace(':', '_')}"


def releases() -> list[Release]:
    """All there are, oldest first. Reads apt's lists, fetching them when they are old."""
    found = apt.candidates(_NAME.pattern)
    by_release: dict[str, list[apt.Package]] = {}
    for package in found:
        by_release.setdefault(package.name.split("-", 2)[2], []).append(package)
    result = [release for packages in by_release.values() if (release := _assemble(packages)) is not None]
    return sorted(result, key=lambda release: (release.version, release.release))


def pick(wanted: str, known: list[Release]) -> Release:
    """The newest of `known` whose number is `wanted` or begins with it (7.2 matches 7.2.13). Raises UsageError."""
    prefix = tuple(int(part) for part in wanted.split("."))
    fitting = [release for release in known if release.version[: len(prefix)] == prefix]
    if not fitting:
        numbers = " ".join(f"{major}.{minor}" for (major, minor), _ in groupby(r.version[:2] for r in known))
        raise UsageError(f"Debian has no cloud kernel {wanted}", hint=f"it has: {numbers}; see: kernloop kernel list")
    return fitting[-1]


def newest() -> Kernel:
    """The newest with SCHED_CLASS_EXT, fetched if need be."""
    for release in reversed(releases()):
        if release.version[:2] < _FIRST_WITH_SCHED_EXT:
            break
        found = fetch(release)
        if found.has("SCHED_CLASS_EXT"):
            return found
    raise UsageError("no Debian kernel here has SCHED_CLASS_EXT", hint="kernloop kernel list shows what there is")


def cached() -> list[Kernel]:
    """The Debian kernels in the cache, oldest first."""
    folders = (cache_dir() / "kernels").glob("debian-*/kernel.json")
    return sorted((kernel.load(path.parent) for path in folders), key=lambda found: version_of(found.release))


def version_of(release: str) -> tuple[int, ...]:
    match = re.match(r"\d+(?:\.\d+)*", release)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


def fetch(release: Release) -> Kernel:
    """`release` in the cache, downloaded and signature-checked by apt if it is not there yet."""
    if not release.folder.exists():
        need_space(release.folder, 3 * (release.size >> 20) + 120, f"kernel {release.release}")
    ensure(
        release.folder,
        lambda staging: _make(release, staging),
        what=f"fetching kernel {release.release} ({release.size >> 20} MiB)",
    )
    return kernel.load(release.folder)


def _assemble(packages: list[apt.Package]) -> Release | None:
    kinds: dict[str, apt.Package] = {}
    for package in packages:
        match = _NAME.fullmatch(package.name)
        assert match is not None
        kinds[match[1]] = package
        version, tail = match[2], match[3]
    # linux-image of the newer kind is an empty package that depends on the others.
    wanted = ("binary", "modules", "base") if "binary" in kinds else ("image",)
    if not all(kind in kinds for kind in wanted):
        return None
    return Release(
        tuple(int(part) for part in version.split(".")),
        f"{version}{tail}-cloud-amd64",
        tuple(kinds[kind] for kind in wanted),
    )


def _make(release: Release, staging: Path) -> None:
    apt.download(release.packages, staging)
    unpacked = staging / "unpacked"
    for deb in staging.glob("*.deb"):
        process.run(["dpkg-deb", "-x", deb, unpacked], seconds=120, what=f"unpacking {deb.name}")
        deb.unlink()
    modules = unpacked / "usr/lib/modules" / release.release
    (staging / "modules").mkdir()
    for entry in modules.iterdir():
        if entry.name == "kernel" or entry.name.startswith("modules."):
            entry.rename(staging / "modules" / entry.name)
    # From linux-binary the image and config lie beside the modules, from linux-image in /boot.
    boot = unpacked / "boot"
    image, config = (
        (modules / "vmlinuz", modules / "config")
        if (modules / "vmlinuz").exists()
        else (boot / f"vmlinuz-{release.release}", boot / f"config-{release.release}")
    )
    image.rename(staging / "bzImage")
    kernel.store(
        staging,
        ref=f"debian:{release.number}",
        bzimage=staging / "bzImage",
        modules=staging / "modules",
        config=config,
        source_version=release.packages[0].source_version,
    )
    shutil.rmtree(unpacked)
