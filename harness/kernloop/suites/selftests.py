# SPDX-License-Identifier: Apache-2.0
"""The selftests of a kernel tree, built with the toolset outside the tree and installed as `make install` does.

Documentation/dev-tools/kselftest.rst; tools/testing/selftests/Makefile and lib.mk say what the variables mean.
"""

from __future__ import annotations

import difflib
import hashlib
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from kernloop.errors import HarnessError, UsageError
from kernloop.host import process, toolset
from kernloop.host.cache import ensure, exclusive
from kernloop.host.paths import cache_dir
from kernloop.kernel import source
from kernloop.kernel.kernel import Kernel
from kernloop.report import compiler
from kernloop.report.compiler import Diagnostic

__all__ = ["NotBuilt", "Selftests", "build", "installed", "targets"]

_PLACE = "tools/testing/selftests"
# Most selftests are written for gcc, and some link libraries that only the host can have. These need clang anyway, and
# libelf and zstd, which the toolset has.
_OWN_COMPILER = ("sched_ext", "bpf")
# Which Debian package has a header that selftests want of the host.
_PACKAGES = {
    "sys/capability.h": "libcap-dev",
    "cap-ng.h": "libcap-ng-dev",
    "numa.h": "libnuma-dev",
    "numaif.h": "libnuma-dev",
    "libmnl/libmnl.h": "libmnl-dev",
    "alsa/asoundlib.h": "libasound2-dev",
    "fuse.h": "libfuse-dev",
    "popt.h": "libpopt-dev",
    "liburing.h": "liburing-dev",
    "openssl/bio.h": "libssl-dev",
    "openssl/err.h": "libssl-dev",
}
# kselftest/runner.sh: kselftest_default_timeout
_DEFAULT_SECONDS = 45.0
_BUILD_SECONDS = 1800
# What makes a program of the toolset's compiler find the toolset's C library, in a guest as well.
_CC = """#!/bin/sh
exec "{cc}" -Wl,--dynamic-linker={lib}/ld-linux-x86-64.so.2,--disable-new-dtags,-rpath,{lib} "$@"
"""


@dataclass(frozen=True)
class Selftests:
    """One target's tests, installed in `folder` with kselftest's own files.

    `programs` are what the target names as its tests, in order; `seconds` the time-out that it sets for each of them
    (0: none). `names` has the tests within a program that can be chosen by name.
    """

    folder: Path
    target: str
    programs: tuple[str, ...]
    seconds: float
    names: tuple[str, ...] = ()

    def lacks(self, kernel: Kernel) -> tuple[str, ...]:
        """Symbols that the target's config file asks for and `kernel` is built without; none when nobody knows."""
        file = self.folder / self.target / "config"
        if kernel.config is None or not file.exists():
            return ()
        wanted = re.findall(r"^CONFIG_(\w+)=[ym]$", file.read_text(), re.M)
        return tuple(symbol for symbol in wanted if not kernel.has(symbol))


class NotBuilt(Exception):
    """The compiler, or make, refused; `text` is all that they said."""

    def __init__(self, diagnostics: tuple[Diagnostic, ...], summary: str, text: str) -> None:
        super().__init__(summary)
        self.diagnostics = diagnostics
        self.summary = summary
        self.text = text


def targets(tree: Path) -> list[str]:
    """The targets that `tree` has, with those in subdirectories."""
    top = tree / _PLACE
    return sorted(str(file.parent.relative_to(top)) for file in top.glob("**/Makefile") if file.parent != top)


def build(tree: Path, target: str, kernel: Kernel, *, changes: bool, jobs: int) -> Selftests:
    """The selftests `target` of `tree` for `kernel`; with `changes` somebody edits the tree, so make looks at it again.

    Raises NotBuilt, UsageError for a target that is not there, HarnessError.
    """
    top = tree / _PLACE
    if not (top / "Makefile").exists():
        raise UsageError(f"{tree} is no kernel tree: it has no {_PLACE}", hint="--tree DIR takes a kernel's source")
    if not target or not (top / target / "Makefile").is_file() or ".." in Path(target).parts:
        near = difflib.get_close_matches(target, targets(tree), 3) or ["sched_ext", "timers", "seccomp"]
        raise UsageError(f"{tree.name} has no selftests {target!r}", hint="as in: " + " ".join(near))
    about = hashlib.sha256()
    for word in (str(tree.resolve()), toolset.get().id, target, _CC, Path(__file__).read_text()):
        about.update(word.encode() + b"\0")
    if kernel.btf is not None:
        about.update(kernel.btf.read_bytes())
    folder = cache_dir() / "selftests" / f"{target.replace('/', '-')}-{about.hexdigest()[:16]}"
    what = f"building the selftests {target}"
    if not changes:
        headers = _headers(tree, jobs) if not folder.exists() else folder
        ensure(folder, lambda staging: _make_once(tree, target, kernel, staging, headers, jobs), what=what)
    else:
        with exclusive(f"selftests-{folder.name}", what=what, seconds=_BUILD_SECONDS):
            folder.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(folder / "installed", ignore_errors=True)
            _run([*_make(folder / "objects", target, jobs), "-C", tree, "headers"], tree, "")
            _install(tree, target, kernel, folder / "objects", folder / "installed", jobs)
    return installed(folder / "installed", target, top / target)


# The kernel's headers for programs are the same for all targets of a tree that nobody edits.
def _headers(tree: Path, jobs: int) -> Path:
    digest = hashlib.sha256(f"{tree.resolve()} {toolset.get().id} {_CC}".encode()).hexdigest()[:16]

    def make(staging: Path) -> None:
        _run([*_make(staging, _OWN_COMPILER[0], jobs), "-C", tree, "headers"], tree, "")

    return ensure(cache_dir() / "selftests" / f"headers-{digest}", make, what="making the kernel's headers")


def _make_once(tree: Path, target: str, kernel: Kernel, staging: Path, headers: Path, jobs: int) -> None:
    objects = staging / "objects"
    objects.mkdir()
    (objects / "usr").symlink_to(headers / "usr")
    _install(tree, target, kernel, objects, staging / "installed", jobs)
    shutil.rmtree(objects)


def _install(tree: Path, target: str, kernel: Kernel, objects: Path, installed: Path, jobs: int) -> None:
    if shutil.which("rsync") is None:
        raise HarnessError("rsync is not installed, and the selftests' install wants it", hint="apt-get install rsync")
    words = [f"TARGETS={target}", "SKIP_TARGETS=", "FORCE_TARGETS=1", f"KSFT_INSTALL_PATH={installed}"]
    if kernel.btf is not None:
        words += [f"VMLINUX_BTF={kernel.btf}", f"BPFTOOL={source.kit(kernel).bpftool}"]
    _run([*_make(objects, target, jobs), "-C", tree / _PLACE, *words, "install"], tree, f"{_PLACE}/{target}")


def _make(objects: Path, target: str, jobs: int) -> list[str | Path]:
    return [toolset.get().make, "-s", f"-j{jobs}", f"O={objects}", *_compilers(objects, target)]


def _compilers(objects: Path, target: str) -> list[str]:
    tools = toolset.get()
    if target not in _OWN_COMPILER and shutil.which("gcc"):
        return [f"CLANG={tools.clang}"]
    folder = objects / "bin-kernloop"
    folder.mkdir(parents=True, exist_ok=True)
    cc = folder / "cc"
    cc.write_text(_CC.format(cc=tools.cc, lib=tools.root / "usr/lib/x86_64-linux-gnu"))
    cc.chmod(0o755)
    return [
        *(f"{name}={cc}" for name in ("CC", "HOSTCC")),
        *(f"{name}={tools.ar}" for name in ("AR", "HOSTAR")),
        *(f"{name}={tools.ld}" for name in ("LD", "HOSTLD")),
        f"CLANG={tools.clang}",
    ]


# `inside` is the folder of the tree where the compiler runs.
def _run(argv: list[str | Path], tree: Path, inside: str) -> None:
    done = process.run(argv, seconds=_BUILD_SECONDS, what="building the selftests", check=False)
    if done.status == 0:
        return
    text = done.stdout + done.stderr
    if process.disk_full(text):
        raise HarnessError("building the selftests: the disk is full", hint="free some space, or: kernloop runs gc")
    found = tuple(
        replace(one, file=f"{inside}/{one.file}") if one.file and (tree / inside / one.file).exists() else one
        for one in compiler.parse(done.stderr.splitlines(), tree=str(tree))
    )
    errors = compiler.errors(found)
    if errors:
        first = errors[0]
        for one in errors:
            header = one.message.lstrip("'").partition(".h")[0] + ".h"
            if header in _PACKAGES:
                raise HarnessError(
                    f"{one.file} wants {header}, which is not on this machine",
                    hint=f"apt-get install {_PACKAGES[header]}",
                )
        where = f"{first.file}:{first.line}: " if first.file else ""
        raise NotBuilt(found, where + first.message, text)
    # make's own last line names only the target; what went wrong stands before it.
    said = [line for line in done.stderr.splitlines() if line.strip() and not re.match(r"make(\[\d+\])?: ", line)]
    raise NotBuilt(found, said[-1].strip() if said else f"make failed (exit {done.status})", text)


def installed(folder: Path, target: str, sources: Path) -> Selftests:
    """What `make install` put into `folder` for `target`, whose source is in `sources`."""
    listing = (folder / "kselftest-list.txt").read_text().split()
    programs = tuple(line.partition(":")[2] for line in listing if line.partition(":")[0] == target)
    settings = folder / target / "settings"
    found = re.search(r"^timeout=(\d+)", settings.read_text(), re.M) if settings.exists() else None
    names = _sched_ext(sources) if target == "sched_ext" else ()
    return Selftests(folder, target, programs, float(found[1]) if found else _DEFAULT_SECONDS, names)


# The tests of sched_ext's one program, in its order: that of the objects in its Makefile (runner.c: -t chooses one).
def _sched_ext(sources: Path) -> tuple[str, ...]:
    found = re.search(r"auto-test-targets\s*:=((?:.*\\\n)*.*)", (sources / "Makefile").read_text())
    files = found[1].replace("\\", " ").split() if found else []
    names = []
    for file in files:
        text = (sources / f"{file}.c").read_text() if (sources / f"{file}.c").exists() else ""
        names += re.findall(r'^\s*\.name\s*=\s*"(\w+)"', text, re.M)
    return tuple(names)
