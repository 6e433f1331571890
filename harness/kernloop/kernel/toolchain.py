# SPDX-License-Identifier: Apache-2.0
"""The programs that build a kernel: the host's compiler and small tools, our lld and pahole.

Linking takes three passes over a vmlinux with DWARF, and ld.lld is several times faster at it than ld.bfd, so it is
ours with either compiler, but for a GNU cross compiler. pahole is ours as well: 1.27 is the first that is both
parallel and repeatable (scripts/Makefile.btf), and Debian 12 has 1.24.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from kernloop.errors import HarnessError, UsageError
from kernloop.host import bundle, toolset
from kernloop.host.needs import build_needs, distribution, install_line

__all__ = ["ARCHES", "Arch", "Toolchain", "find"]

_PAHOLE = bundle.Bundle("pahole", ("pahole",), ("usr/bin/pahole",))
# What a caller's environment could slip into make (Makefile, scripts/Kbuild.include).
_DROPPED = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "KBUILD_OUTPUT", "ARCH", "CROSS_COMPILE", "LLVM", "CC", "LD", "O", "M")
# The same sources give the same bytes, and so the same digest (Documentation/kbuild/reproducible-builds.rst).
_SAME = {
    "KBUILD_BUILD_TIMESTAMP": "Thu Jan  1 00:00:00 UTC 2026",
    "KBUILD_BUILD_USER": "kernloop",
    "KBUILD_BUILD_HOST": "kernloop",
    "KBUILD_BUILD_VERSION": "1",
    "LC_ALL": "C",
}


@dataclass(frozen=True)
class Arch:
    """`kbuild` is make's ARCH, `folder` its part of the tree; `image` where a build leaves what boots.

    `prefix` is that of a cross compiler.
    """

    kbuild: str
    folder: str
    image: str
    prefix: str


ARCHES = {
    "x86_64": Arch("x86_64", "x86", "arch/x86/boot/bzImage", ""),
    "arm64": Arch("arm64", "arm64", "arch/arm64/boot/Image", "aarch64-linux-gnu-"),
    "riscv": Arch("riscv", "riscv", "arch/riscv/boot/Image", "riscv64-linux-gnu-"),
}


@dataclass(frozen=True)
class Toolchain:
    """`words` are make's variables, `prefix` what goes before make, `programs` what a build's result depends on."""

    prefix: tuple[str, ...]
    words: tuple[str, ...]
    programs: tuple[str, ...]


def find(arch: str, *, llvm: bool) -> Toolchain:
    """Raises UsageError for an unknown architecture, HarnessError naming the packages that are not installed."""
    if arch not in ARCHES:
        raise UsageError(f"kernels for {arch!r} cannot be built", hint=f"--arch: {' '.join(ARCHES)}")
    chosen = ARCHES[arch]
    needs = build_needs(distribution())
    missing = [need for need in needs if need.packages]
    if missing:
        packages = tuple(dict.fromkeys(name for need in missing for name in need.packages))
        raise HarnessError(
            f"building a kernel takes {', '.join(need.name for need in missing)}: not installed",
            hint=f"kernloop doctor --fix, or: {install_line(packages, distribution())}",
        )
    gcc = f"{chosen.prefix}gcc"
    if not llvm and shutil.which(gcc) is None:
        package = f"gcc-{chosen.prefix}".rstrip("-")
        raise HarnessError(
            f"{gcc} is not installed",
            hint=f"{install_line((package,), distribution())}, or --llvm, whose compiler is there",
        )
    tools = toolset.get()
    compiler = str(tools.clang) if llvm else gcc
    # GNU's objcopy, up to 2.40 at least, cannot read again what it wrote of lld's vmlinux with an empty .relr.dyn.
    ld = f"{chosen.prefix}ld" if chosen.prefix and not llvm else str(tools.ld)
    cached = ["ccache"] if shutil.which("ccache") else []
    words = [
        f"ARCH={chosen.kbuild}",
        f"CC={' '.join([*cached, compiler])}",
        f"HOSTCC={' '.join([*cached, 'gcc'])}",
        f"LD={ld}",
        f"PAHOLE={bundle.get(_PAHOLE) / 'pahole'}",
        *([f"CROSS_COMPILE={chosen.prefix}"] if chosen.prefix and not llvm else []),
        *(_binutils(chosen) if llvm and chosen.prefix else []),
    ]
    # The compiler's output is the key's whole dependency list then, so a miss costs no second run of cpp.
    env = {**_SAME, "CCACHE_DEPEND": "1", "CCACHE_SLOPPINESS": "time_macros,include_file_mtime,include_file_ctime"}
    dropped = [word for name in _DROPPED for word in ("-u", name)]
    prefix = ("env", *dropped, *(f"{name}={value}" for name, value in env.items()))
    return Toolchain(prefix, tuple(words), ("make", "gcc", compiler, ld, "as", "objcopy"))


# For another architecture than the host's, GNU's ar and objcopy will not do; LLVM's do for any.
def _binutils(arch: Arch) -> list[str]:
    programs = {"AR": "llvm-ar", "NM": "llvm-nm", "OBJCOPY": "llvm-objcopy", "STRIP": "llvm-strip"}
    versions = [folder.name for folder in Path("/usr/lib").glob("llvm-*") if (folder / "bin/llvm-objcopy").exists()]
    found = {name: _which(program, versions) for name, program in programs.items()}
    if not all(found.values()):
        raise HarnessError(
            f"llvm-ar, llvm-nm, llvm-objcopy and llvm-strip build for {arch.kbuild}: not installed",
            hint=install_line(("llvm",), distribution()),
        )
    return [f"{name}={path}" for name, path in found.items()] + ["LLVM_IAS=1"]


def _which(program: str, versions: list[str]) -> str | None:
    folders = [f"/usr/lib/{name}/bin" for name in sorted(versions, reverse=True)]
    return shutil.which(program, path=os.pathsep.join([os.environ.get("PATH", os.defpath), *folders]))
