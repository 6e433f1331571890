# SPDX-License-Identifier: Apache-2.0
"""The part of a kernel's source that BPF needs: scx headers, libbpf and bpftool, from its linux-source package.

One object built with newer headers loads on older kernels (CO-RE and scx's compat.bpf.h), never the other way round:
for a kernel whose own source Debian no longer carries, the nearest newer one is taken.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kernloop.errors import HarnessError, SubjectError
from kernloop.host import apt, process, toolset
from kernloop.host.cache import ensure, need_space
from kernloop.host.paths import cache_dir
from kernloop.kernel import debian
from kernloop.kernel.debian import version_of
from kernloop.kernel.kernel import Kernel, KernelSource

__all__ = ["BpfKit", "candidate", "full_tree", "kit"]

_KEPT = (
    "Makefile",
    "scripts/bpf_doc.py",
    "kernel/bpf/disasm.c",
    "kernel/bpf/disasm.h",
    "kernel/sched/ext*",
    "tools/lib",
    "tools/bpf",
    "tools/include",
    "tools/scripts",
    "tools/build",
    "tools/arch/x86/include",
    "tools/sched_ext",
)
_MIB_NEEDED = 450
_WHOLE_MIB_NEEDED = 2200


@dataclass(frozen=True)
class BpfKit:
    """What compiling BPF for one kernel takes: the source tree's part, libbpf.a and its headers, bpftool, vmlinux.h."""

    source: KernelSource
    tree: Path
    libbpf: Path
    libbpf_include: Path
    bpftool: Path
    vmlinux_include: Path

    @property
    def includes(self) -> list[Path]:
        """In the order of tools/sched_ext/Makefile."""
        tools = self.tree / "tools"
        return [
            tools / "sched_ext/include",
            tools / "sched_ext/include/bpf-compat",
            tools / "include/uapi",
            tools / "include",
            self.libbpf_include,
            self.vmlinux_include,
        ]


def candidate(kernel: Kernel) -> KernelSource | None:
    """The linux-source package that fits `kernel` best; None when there is none at all."""
    try:
        known = [(p.name, p.version) for p in apt.candidates(r"linux-source-\d+\.\d+")]
    except HarnessError:
        folders = (cache_dir() / "sources").glob("linux-source-*_*")
        known = [(name, version) for name, _, version in (folder.name.partition("_") for folder in folders)]
    return _best(kernel, known)


def kit(kernel: Kernel) -> BpfKit:
    """Everything for compiling BPF for `kernel`, fetched and built on first use.

    Raises SubjectError when the kernel has no BTF, HarnessError when its source cannot be had.
    """
    if kernel.btf is None:
        raise SubjectError(
            f"{kernel.ref} has no BTF, so BPF programs cannot be built for it",
            hint="build it with CONFIG_DEBUG_INFO_BTF=y",
        )
    if kernel.tree is not None and (kernel.tree / "tools/sched_ext/include").is_dir():
        source, tree = _of_tree(kernel.tree)
        typed = kernel
    else:
        found = candidate(kernel)
        if found is None:
            raise HarnessError(f"no kernel source for {kernel.release} is to be had", hint="kernloop doctor checks apt")
        source, tree = found, _tree(found)
        typed = _types_for(kernel, source)
    built = _built(source, tree)
    bpftool = built / "bpftool"
    types = _vmlinux_h(typed, bpftool)
    return BpfKit(source, tree, built / "libbpf.a", built / "include", bpftool, types)


def full_tree(source: KernelSource) -> Path:
    """The whole of `source`, unpacked on first use (150 MB, 1.7 GB unpacked). Raises HarnessError."""
    path = cache_dir() / "whole" / f"{source.package}_{source.version}"
    if not path.exists():
        need_space(path, _WHOLE_MIB_NEEDED, f"the whole of {source.package}")
    return ensure(path, lambda staging: _unpack(source, staging, ()), what=f"fetching the whole of {source.package}")


# The parts of a user's tree, copied, for their Makefiles write beside the sources; known by names, sizes and times.
def _of_tree(tree: Path) -> tuple[KernelSource, Path]:
    files = sorted(file for part in _KEPT for found in tree.glob(part) for file in _files(found))
    listed = "\n".join(f"{f.relative_to(tree)} {(s := f.stat()).st_size} {s.st_mtime_ns}" for f in files)
    source = KernelSource("tree", hashlib.sha256(listed.encode()).hexdigest()[:16], exact=True)

    def make(staging: Path) -> None:
        for file in files:
            to = staging / file.relative_to(tree)
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, to, follow_symlinks=False)

    path = cache_dir() / "sources" / f"{source.package}_{source.version}"
    return source, ensure(path, make, what="copying the tree's BPF headers and libbpf")


def _files(found: Path) -> list[Path]:
    return [path for path in found.rglob("*") if path.is_file()] if found.is_dir() else [found]


# Headers use types of their own release: with those of another, vmlinux.h is that release's as well, and CO-RE does the
# rest when the object is loaded.
def _types_for(kernel: Kernel, source: KernelSource) -> Kernel:
    series = version_of(source.version)[:2]
    if version_of(kernel.release)[:2] == series:
        return kernel
    releases = debian.releases()
    same = [release for release in releases if release.packages[0].source_version == source.version]
    return debian.fetch(same[-1] if same else debian.pick(".".join(map(str, series)), releases))


def _best(kernel: Kernel, known: list[tuple[str, str]]) -> KernelSource | None:
    for name, version in known:
        if version == kernel.source_version:
            return KernelSource(name, version, exact=True)
    ours = version_of(kernel.release)
    numbered = sorted((version_of(version), name, version) for name, version in known)
    if not numbered:
        return None
    same = [entry for entry in numbered if entry[0][:2] == ours[:2]]
    newer = [entry for entry in numbered if entry[0] > ours]
    nearest = [entry for entry in newer if entry[0][:2] == newer[0][0][:2]]
    _, name, version = (same or nearest or numbered)[-1]
    return KernelSource(name, version, exact=False)


def _tree(source: KernelSource) -> Path:
    path = cache_dir() / "sources" / f"{source.package}_{source.version}"
    if not path.exists():
        need_space(path, _MIB_NEEDED, source.package)

    return ensure(path, lambda staging: _unpack(source, staging, _KEPT), what=f"fetching {source.package}")


# `parts` of the tree, patterns of tar's, or without any all of it.
def _unpack(source: KernelSource, staging: Path, parts: Sequence[str]) -> None:
    package = next(p for p in apt.candidates(re.escape(source.package)) if p.version == source.version)
    [deb] = apt.download([package], staging)
    process.run(["dpkg-deb", "-x", deb, staging / "deb"], seconds=300, what=f"unpacking {source.package}")
    deb.unlink()
    [tarball] = (staging / "deb/usr/src").glob("linux-source-*.tar.xz")
    top = tarball.name.removesuffix(".tar.xz")
    # GNU tar alone cannot read xz; the host's xz uses all CPUs, busybox needs nothing of the host.
    unpack = "xz -T0" if shutil.which("xz") else f"{toolset.get().busybox} xz"
    process.run(
        [
            "tar",
            "-x",
            "-f",
            tarball,
            "-C",
            staging,
            "--strip-components=1",
            f"--use-compress-program={unpack}",
            "--wildcards",
            *(f"{top}/{part}" for part in parts),
        ],
        seconds=900,
        what=f"unpacking {tarball.name}",
    )
    shutil.rmtree(staging / "deb")


def _built(source: KernelSource, tree: Path) -> Path:
    tools = toolset.get()
    path = cache_dir() / "builds" / f"{source.package}_{source.version}-{tools.id}"

    def make(staging: Path) -> None:
        common = [
            f"CC={tools.cc}",
            f"HOSTCC={tools.cc}",
            f"AR={tools.ar}",
            f"HOSTAR={tools.ar}",
            f"LD={tools.ld}",
            f"HOSTLD={tools.ld}",
            f"CLANG={tools.clang}",
            "EXTRA_LDFLAGS=-static",
        ]
        objects = {name: staging / "work" / name for name in ("libbpf", "bpftool")}
        for folder in objects.values():
            folder.mkdir(parents=True)
        process.run(
            [
                tools.make,
                "-s",
                "-j4",
                "-C",
                tree / "tools/lib/bpf",
                f"OUTPUT={objects['libbpf']}/",
                f"DESTDIR={staging}",
                "prefix=",
                *common,
                "install_headers",
                f"{objects['libbpf']}/libbpf.a",
            ],
            seconds=600,
            what="building libbpf",
        )
        process.run(
            [
                tools.make,
                "-s",
                "-j4",
                "-C",
                tree / "tools/bpf/bpftool",
                f"OUTPUT={objects['bpftool']}/",
                *common,
                "bootstrap",
            ],
            seconds=600,
            what="building bpftool",
        )
        (objects["libbpf"] / "libbpf.a").rename(staging / "libbpf.a")
        (objects["bpftool"] / "bootstrap/bpftool").rename(staging / "bpftool")
        shutil.rmtree(staging / "work")

    return ensure(path, make, what="building libbpf and bpftool")


def _vmlinux_h(kernel: Kernel, bpftool: Path) -> Path:
    btf = kernel.btf
    assert btf is not None
    digest = hashlib.sha256(btf.read_bytes()).hexdigest()[:16]

    def make(staging: Path) -> None:
        header = process.run(
            [bpftool, "btf", "dump", "file", btf, "format", "c"], seconds=60, what="making vmlinux.h"
        ).stdout
        (staging / "vmlinux.h").write_text(header)

    return ensure(cache_dir() / "vmlinux_h" / digest, make, what="making vmlinux.h")
