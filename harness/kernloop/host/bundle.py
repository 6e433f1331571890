# SPDX-License-Identifier: Apache-2.0
"""A few programs of Debian with just the libraries that they need, in one folder: fetched when first asked for.

Apart from the toolset, which every use of kernloop takes, so that who needs none of them fetches none. A bundle is made
for the place where it will lie, which may be in a guest.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from kernloop.host import apt, process, toolset
from kernloop.host.cache import ensure
from kernloop.host.paths import cache_dir

__all__ = ["Bundle", "command", "get"]

_SUITE = "trixie"
_LIB = "usr/lib/x86_64-linux-gnu"
_LOADER = "ld-linux-x86-64.so.2"


@dataclass(frozen=True)
class Bundle:
    """`programs` are paths in the unpacked `packages`; `home` is where the folder will lie, "" for where it is made.

    `suite` is Debian's; another than stable where its program does not know new kernels.
    """

    name: str
    packages: tuple[str, ...]
    programs: tuple[str, ...]
    home: str = ""
    suite: str = _SUITE


def get(bundle: Bundle) -> Path:
    """The folder with the programs by their plain names and their libraries. Raises HarnessError."""
    words = asdict(bundle)
    recipe = json.dumps([words.pop("suite"), words])
    folder = cache_dir() / "bundles" / f"{bundle.name}-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    return ensure(folder, lambda staging: _make(bundle, staging, folder), what=f"fetching {bundle.name}")


def command(folder: Path | str, program: str) -> list[str]:
    """How to start `program` of a bundle that lies in `folder`, which need not be its home."""
    return [f"{folder}/{_LOADER}", "--library-path", str(folder), f"{folder}/{program}"]


def _make(bundle: Bundle, staging: Path, final: Path) -> None:
    from kernloop.host import elf  # pyelftools takes 60 ms to import, and a bundle is made once

    tree = staging / "tree"
    debs = tree / "debs"
    debs.mkdir(parents=True)
    for link in ("bin", "lib", "lib64", "sbin"):
        (tree / "usr" / link).mkdir(parents=True)
        (tree / link).symlink_to(f"usr/{link}")
    for deb in apt.download_with_dependencies(bundle.packages, bundle.suite, debs):
        process.run(["dpkg-deb", "-x", deb, tree], seconds=300, what=f"unpacking {deb.name}")
    home = bundle.home or str(final)
    shutil.copy2(tree / _LIB / _LOADER, staging / _LOADER)
    for path in bundle.programs:
        program = staging / Path(path).name
        shutil.copy2(tree / path, program)
        toolset.patchelf("--force-rpath", "--set-rpath", tree / _LIB, program)
        for library in elf.closure(program):
            copied = staging / library.name
            if library.name != _LOADER and not copied.exists():
                shutil.copy2(library, copied)
                # With a RUNPATH of its own, as LLVM has, it would look for its libraries on the host or in the guest.
                toolset.patchelf("--remove-rpath", copied)
        toolset.patchelf("--set-interpreter", f"{home}/{_LOADER}", "--force-rpath", "--set-rpath", home, program)
    shutil.rmtree(tree)
