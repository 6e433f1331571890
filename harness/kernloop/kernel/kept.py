# SPDX-License-Identifier: Apache-2.0
"""The kernels that build folders have brought forth, each in a folder of the cache that no later build changes: named
by its image, and by the modules that belong to it."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from kernloop.errors import HarnessError
from kernloop.host import process, toolset
from kernloop.host.cache import ensure
from kernloop.host.paths import cache_dir
from kernloop.kernel import kernel
from kernloop.kernel.kernel import Kernel

__all__ = ["keep", "kept", "with_modules"]

_KERNELS = 40


def keep(folder: Path, tree: Path, make: Sequence[str], image: Path) -> Kernel:
    """The kernel that was just built of `tree` in `folder`; `make` is the command line for it."""
    place = _place(folder, hashlib.sha256(image.read_bytes()).hexdigest())

    def make_kernel(staging: Path) -> None:
        shutil.copy2(image, staging / "bzImage")
        kernel.store(
            staging,
            ref=f"tree:{tree}",
            bzimage=staging / "bzImage",
            modules=_installed(folder, make, staging),
            config=folder / ".config",
            source_version=None,
            tree=tree,
            build=folder,
        )

    return _named(folder, tree, ensure(place, make_kernel, what="keeping the kernel"))


def kept(folder: Path, tree: Path) -> Kernel | None:
    """The kernel that `folder` has brought forth last; None when there is none, or no more."""
    try:
        name = (folder / "kernloop/kernel").read_text().strip()
        return replace(kernel.load(cache_dir() / "kernels" / name), ref=f"tree:{tree}") if name else None
    except (OSError, HarnessError):
        return None


def with_modules(folder: Path, tree: Path, old: Kernel, modules: Sequence[str]) -> Kernel:
    """`old`, which is of `folder`, with these modules (`fs/ext4/ext4.ko`) as they are there by now."""
    source = old.image.parent

    def make_kernel(staging: Path) -> None:
        shutil.copytree(source, staging, copy_function=os.link, dirs_exist_ok=True)
        for name in modules:
            for path in staging.glob(f"root/lib/modules/*/kernel/{name}"):
                path.unlink()
                argv = (toolset.get().strip, "--strip-debug", "-o", path, folder / name)
                process.run(argv, seconds=60, what=f"stripping {name}")

    return _named(folder, tree, ensure(_place(folder, old.digest), make_kernel, what="keeping the modules"))


def _place(folder: Path, digest: str) -> Path:
    stats = [(name, (folder / name).stat()) for name in _modules(folder)]
    states = "\n".join(f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in stats)
    suffix = f"-{hashlib.sha256(states.encode()).hexdigest()[:8]}" if stats else ""
    return cache_dir() / "kernels" / f"tree-{digest[:16]}{suffix}"


def _modules(folder: Path) -> list[str]:
    try:
        return [f"{name.removesuffix('.o')}.ko" for name in (folder / "modules.order").read_text().split()]
    except OSError:
        return []


def _named(folder: Path, tree: Path, place: Path) -> Kernel:
    place.touch()
    _forget_old(place.parent)
    (folder / "kernloop/kernel").write_text(f"{place.name}\n")
    return replace(kernel.load(place), ref=f"tree:{tree}")


# Each edit makes a kernel of some 30 MB: those used last stay, as many as a long bisect takes.
def _forget_old(kernels: Path) -> None:
    found = sorted(kernels.glob("tree-*"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in found[_KERNELS:]:
        shutil.rmtree(path, ignore_errors=True)


def _installed(folder: Path, make: Sequence[str], staging: Path) -> Path | None:
    if not _modules(folder):
        return None
    to = staging / "root"
    words = ["-s", f"INSTALL_MOD_PATH={to}", "INSTALL_MOD_STRIP=1", "DEPMOD=true", "modules_install"]
    process.run([*make, *words], seconds=600, what="make modules_install")
    [found] = (to / "lib/modules").iterdir()
    for link in ("build", "source"):
        (found / link).unlink(missing_ok=True)
    return found
