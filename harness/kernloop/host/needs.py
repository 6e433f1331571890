# SPDX-License-Identifier: Apache-2.0
"""What kernloop needs of a machine: each need with its state, why it is needed and how to get it."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from kernloop.host import apt, process, toolset
from kernloop.host.paths import cache_dir

__all__ = [
    "RUSTUP",
    "Distribution",
    "Need",
    "State",
    "build_needs",
    "debug_needs",
    "distribution",
    "host_needs",
    "install_line",
    "rust_needs",
]

_GIB = 1 << 30


class State(StrEnum):
    """`later` is what kernloop fetches or finds out by itself when it is first needed; `warn` costs speed only."""

    OK = "ok"
    LATER = "later"
    WARN = "warn"
    MISSING = "missing"


@dataclass(frozen=True)
class Need:
    """`cure` is the exact command or step; `packages` are what `doctor --fix` would install, by Debian's names."""

    name: str
    state: State
    version: str
    why: str
    cure: str = ""
    packages: tuple[str, ...] = ()


@dataclass(frozen=True)
class Distribution:
    """From os-release(5): `family` is "debian", "fedora", "arch" or ""."""

    name: str
    family: str


# The same program in other distributions' packages.
_ELSEWHERE = {
    "fedora": {
        "apt": "apt",
        "dpkg": "dpkg",
        "debian-archive-keyring": "debian-keyring",
        "util-linux": "util-linux",
        "tar": "tar",
        "python3": "python3",
        "libelf-dev": "elfutils-libelf-devel",
        "libssl-dev": "openssl-devel",
        "zlib1g-dev": "zlib-devel",
        "libc6-dev": "glibc-devel",
        "libclang-dev": "clang-devel",
        "pkg-config": "pkgconf",
    },
    "arch": {
        "apt": "apt (AUR)",
        "dpkg": "dpkg",
        "debian-archive-keyring": "debian-archive-keyring",
        "util-linux": "util-linux",
        "tar": "tar",
        "python3": "python",
        "libelf-dev": "libelf",
        "libssl-dev": "openssl",
        "zlib1g-dev": "zlib",
        "libc6-dev": "glibc",
        "libclang-dev": "clang",
        "pkg-config": "pkgconf",
    },
}
_INSTALL = {"debian": "apt-get install -y --no-install-recommends", "fedora": "dnf install", "arch": "pacman -S"}


def distribution() -> Distribution:
    try:
        fields = platform.freedesktop_os_release()
    except OSError:
        return Distribution(platform.system(), "")
    words = {fields.get("ID", ""), *fields.get("ID_LIKE", "").split()}
    family = next(
        (
            name
            for name, ids in (("debian", {"debian", "ubuntu"}), ("fedora", {"fedora", "rhel"}), ("arch", {"arch"}))
            if words & ids
        ),
        "",
    )
    return Distribution(fields.get("PRETTY_NAME", "Linux"), family)


def install_line(packages: tuple[str, ...], where: Distribution) -> str:
    """The command that installs `packages` (Debian's names) on `where`."""
    if where.family not in _INSTALL:
        return f"install: {' '.join(packages)} (Debian's names)"
    names = [_ELSEWHERE.get(where.family, {}).get(name, name) for name in packages]
    return f"{_INSTALL[where.family]} {' '.join(names)}"


def host_needs(where: Distribution) -> list[Need]:
    """Everything but kernels and the accelerator, most basic first. Changes nothing and fetches nothing."""
    return [
        _python(),
        _machine(),
        _program("setpriv", "util-linux", "QEMU dies with kernloop", where),
        _program("tar", "tar", "unpacking kernel sources", where),
        _program("apt-get", "apt", "kernels, sources and tools come from Debian, signature-checked", where),
        _program("dpkg-deb", "dpkg", "unpacking Debian packages without installing them", where),
        _keyring(where),
        _mirror(),
        _disk(),
        _memory(),
        _tools(),
    ]


# Program or header, the package it is in, and what in a kernel's build wants it.
_FOR_BUILDS = (
    ("gcc", "gcc", "the compiler of kernels and of their build's own tools"),
    ("make", "make", "kernels are built by it"),
    ("flex", "flex", "Kconfig's and dtc's scanners"),
    ("bison", "bison", "Kconfig's and dtc's parsers"),
    ("bc", "bc", "include/generated/timeconst.h"),
    ("perl", "perl", "checkpatch, headers_check"),
    ("cpio", "cpio", "the built-in initramfs, kheaders"),
    ("rsync", "rsync", "headers_install, for selftests"),
    ("git", "git", "patch, series and bisect"),
    ("ccache", "ccache", "what was compiled once is not compiled again"),
    ("/usr/include/gelf.h", "libelf-dev", "objtool and resolve_btfids read objects"),
    ("/usr/include/openssl/bio.h", "libssl-dev", "signing modules"),
    ("/usr/include/zlib.h", "zlib1g-dev", "libbpf in the build's own tools"),
    ("/usr/include/stdlib.h", "libc6-dev", "the build's own tools"),
)


def build_needs(where: Distribution) -> list[Need]:
    """What `kernel build` takes of the host; only that verb misses one that is not there."""
    found = []
    for name, package, why in _FOR_BUILDS:
        if shutil.which(name) or Path(name).is_file():
            found.append(Need(package, State.OK, "present", f"kernel build: {why}"))
        else:
            cure = install_line((package,), where)
            found.append(Need(package, State.WARN, "", f"kernel build: {why}", cure, (package,)))
    return found


_FOR_DEBUGGING = (
    ("gdb", "debug kgdb: GDB with Python"),
    ("tmux", "debug kgdb: a GDB that a person can watch; 3.2 or later"),
)


def debug_needs(where: Distribution) -> list[Need]:
    """What the debuggers take of the host; only their verbs miss one that is not there."""
    found = []
    for name, why in _FOR_DEBUGGING:
        if shutil.which(name):
            found.append(Need(name, State.OK, "present", why))
        else:
            found.append(Need(name, State.WARN, "", why, install_line((name,), where), (name,)))
    return found


# What crates of schedulers ask for (rust-version); Debian's own rustc is older.
_RUSTC = (1, 91)
RUSTUP = "install Rust 1.91 or later: https://rustup.rs"
_FOR_RUST = (
    ("cc", "gcc", "rustc links with it"),
    ("pkg-config", "pkg-config", "libbpf-sys looks for libelf and zlib by it"),
    ("/usr/include/libelf.h", "libelf-dev", "libbpf, in each Rust scheduler"),
    ("/usr/include/zlib.h", "zlib1g-dev", "libbpf, in each Rust scheduler"),
)


def rust_needs(where: Distribution) -> list[Need]:
    """What `sched get` and `verify` on a Cargo project take of the host; only those miss one that is not there."""
    found = [_rustc()]
    for name, package, why in (
        *_FOR_RUST,
        (_libclang(), "libclang-dev", "bindgen reads headers by it"),
    ):
        if name and (shutil.which(name) or Path(name).is_file()):
            found.append(Need(package, State.OK, "present", f"Rust schedulers: {why}"))
        else:
            cure = install_line((package,), where)
            found.append(Need(package, State.WARN, "", f"Rust schedulers: {why}", cure, (package,)))
    return found


def _rustc() -> Need:
    why = "sched get, and verify on a Cargo project"
    path = shutil.which("rustc")
    if path is None or shutil.which("cargo") is None:
        return Need("rustc", State.WARN, "", why, RUSTUP)
    said = process.run([path, "--version"], seconds=20, what="rustc --version", check=False).stdout
    match = re.search(r"(\d+)\.(\d+)\.\d+", said)
    if match is None or (int(match[1]), int(match[2])) < _RUSTC:
        return Need("rustc", State.WARN, match[0] if match else "unknown", why, "rustup update stable, or " + RUSTUP)
    return Need("rustc", State.OK, match[0], why)


# Where clang-sys, which bindgen is built on, looks for it; "" when it is nowhere.
def _libclang() -> str:
    folders = [Path(os.environ["LIBCLANG_PATH"])] if "LIBCLANG_PATH" in os.environ else []
    folders += [Path("/usr/lib"), Path("/usr/lib64"), Path("/usr/local/lib"), Path("/usr/lib/x86_64-linux-gnu")]
    folders += sorted(Path("/usr/lib").glob("llvm*/lib"))
    names = ("libclang.so", "libclang.so.*", "libclang-*.so", "libclang-*.so.*")
    return next((str(path) for folder in folders for name in names for path in folder.glob(name)), "")


def _python() -> Need:
    version = ".".join(map(str, sys.version_info[:3]))
    return Need("python", State.OK, version, "3.11 or later runs kernloop")


def _machine() -> Need:
    machine = platform.machine()
    ok = machine == "x86_64" and sys.platform == "linux"
    return Need(
        "machine",
        State.OK if ok else State.MISSING,
        f"{sys.platform} {machine}",
        "guests, kernels and tools are x86-64 Linux",
        "" if ok else "use an x86-64 Linux machine",
    )


def _program(name: str, package: str, why: str, where: Distribution) -> Need:
    path = shutil.which(name)
    if path is None:
        return Need(name, State.MISSING, "", why, install_line((package,), where), (package,))
    done = process.run([path, "--version"], seconds=10, what=f"{name} --version", check=False)
    version = re.search(r"\d+(\.\d+)+", done.stdout + done.stderr)
    return Need(name, State.OK, version[0] if version else "present", why)


def _keyring(where: Distribution) -> Need:
    why = "checks the signatures of what is fetched"
    if apt.KEYRING.exists():
        return Need("keyring", State.OK, apt.KEYRING.name, why)
    package = "debian-archive-keyring"
    return Need("keyring", State.MISSING, "", why, install_line((package,), where), (package,))


def _mirror() -> Need:
    why = "where Debian's packages come from: the machine's own mirror"
    address = apt.mirror()
    if address is None:
        return Need("mirror", State.MISSING, "", why, "export KERNLOOP_DEBIAN_MIRROR=ADDRESS/debian")
    return Need("mirror", State.OK, address, why)


def _disk() -> Need:
    why = "tools 0.6 GiB, each kernel 0.12 GiB, sources and builds 0.1 GiB; runs are small"
    place = cache_dir()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    enough = toolset.find() is not None or free >= 2 * _GIB
    return Need(
        "disk",
        State.OK if enough else State.MISSING,
        f"{free / _GIB:.1f} GiB free in {place}",
        why,
        "" if enough else "free 2 GiB, or set XDG_CACHE_HOME to a larger file system",
    )


def _memory() -> Need:
    text = Path("/proc/meminfo").read_text()
    match = re.search(r"MemAvailable:\s+(\d+) kB", text)
    free = int(match[1]) * 1024 if match else 0
    ok = free >= _GIB
    return Need(
        "memory",
        State.OK if ok else State.WARN,
        f"{free / _GIB:.1f} GiB available",
        "a guest takes 0.5 GiB by default",
        "" if ok else "end something, or give guests less: --memory 256M",
    )


def _tools() -> Need:
    why = "QEMU 10 (virtual time), clang for BPF, busybox: the same on every machine, in a private prefix"
    found = toolset.find()
    if found is None:
        return Need(
            "tools",
            State.LATER,
            "not fetched yet (140 MB)",
            why,
            "fetched when first needed, or: kernloop doctor --fix",
        )
    qemu = found.version("qemu-system-x86").partition(":")[2].partition("+")[0]
    clang = found.version(f"clang-{toolset.LLVM}").partition(":")[2].partition("-")[0]
    return Need("tools", State.OK, f"QEMU {qemu}, clang {clang}", why)
