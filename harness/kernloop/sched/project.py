# SPDX-License-Identifier: Apache-2.0
"""A folder with a build file: built by its own build system, outside the folder, and the scheduler in it found.

make writes beside the sources, so it gets a copy; meson and cargo have a folder of their own. All lie in the cache, by
the folder's path, and a second build goes on where the first one ended. The tools are the toolset's and the target
kernel's headers, libbpf and bpftool, by the variables that the schedulers' own Makefiles use; what the caller has set
in the environment wins.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from kernloop.errors import HarnessError, UsageError
from kernloop.host import process, progress, toolset
from kernloop.host.cache import exclusive
from kernloop.host.paths import cache_dir
from kernloop.kernel.source import BpfKit
from kernloop.report import compiler
from kernloop.report.compiler import Diagnostic
from kernloop.sched import compile as compiling
from kernloop.sched import embedded, project_cargo, project_copy

__all__ = ["OBJECT", "Built", "NotBuilt", "build"]

# What was built, or taken, under this name in the run directory.
OBJECT = "scheduler.bpf.o"

_SECONDS = 1800
# The interpreter and the libraries are the toolset's, in a guest as well.
_CC = """#!/bin/sh
exec "{cc}" -Wl,--dynamic-linker={lib}/ld-linux-x86-64.so.2,--disable-new-dtags,-rpath,{lib} "$@"
"""
_PKG_CONFIG = """Name: libbpf
Description: the target kernel's
Version: 1.7.0
Libs: {library} -lelf -lz -lzstd
Cflags: -I{include}
"""


@dataclass(frozen=True)
class Built:
    """The scheduler that came out, by its file's `name`; `program` is its loader, where it has one."""

    name: str
    program: Path | None


@dataclass(frozen=True)
class NotBuilt:
    """The build failed; `text` is all that was said."""

    diagnostics: tuple[Diagnostic, ...]
    summary: str
    text: str


def build(file: Path, target: str, kit: BpfKit, folder: Path) -> Built | NotBuilt:
    """Build what `file` (Makefile, meson.build, Cargo.toml) builds; of several schedulers the one called `target`.

    What was found is copied into `folder`. Raises UsageError when there is none or more than one, HarnessError.
    """
    file = file.absolute()
    _refuse_kernels_own(file.parent)
    about = hashlib.sha256(f"{file} {kit.tree} {kit.vmlinux_include} {toolset.get().id}".encode()).hexdigest()[:16]
    place = cache_dir() / "projects" / f"{file.parent.name}-{about}"
    what = f"building {file.parent.name}"
    with exclusive(f"project-{about}", what=what, seconds=_SECONDS):
        place.mkdir(parents=True, exist_ok=True)
        run = _Run(what, place, file.parent)
        if file.name == "Cargo.toml":
            env = {"BPF_CLANG": str(toolset.get().clang)}
            programs, objects = project_cargo.build(file, target, place / "target", run, _with_callers(env))
        elif file.name == "meson.build":
            programs, objects = _meson(file.parent, place, run, _environment(kit, place))
        else:
            programs, objects = _make(file, place, run, _environment(kit, place))
        if run.failed:
            return run.refusal()
        return _taken(_choose(programs, objects, target, file.parent), folder)


# Runs the steps of a build one after the other, until one fails.
class _Run:
    def __init__(self, what: str, place: Path, source: Path) -> None:
        self.what = what
        self.failed = False
        self.lines: list[str] = []
        self.diagnostics: list[Diagnostic] = []
        self._place = place
        self._source = source

    def __call__(
        self,
        argv: list[str | Path],
        env: Mapping[str, str],
        cwd: Path,
        on_line: Callable[[str], str | None] = lambda line: line,
    ) -> None:
        """`on_line` gives the text of a line that the compiler said, None for what is for no reader."""
        if self.failed:
            return

        def take(line: str) -> None:
            text = on_line(line)
            if text is not None:
                self.lines.append(text)
                if text.lstrip().startswith("Compiling"):
                    progress.say(f"{self.what}: {text.strip()[:60]}")

        status = process.follow(argv, take, seconds=_SECONDS, what=self.what, cwd=cwd, env=env)
        self.failed = status != 0

    def refusal(self) -> NotBuilt:
        """Raises HarnessError when it is the machine's fault."""
        text = "\n".join(self.lines).replace(str(self._place / "tree"), str(self._source)) + "\n"
        if process.disk_full(text):
            raise HarnessError(f"{self.what}: the disk is full", hint="free some space, or: kernloop runs gc")
        # cargo indents what a build script said.
        lines = [line.removeprefix("  ") if project_cargo.QUOTES in text else line for line in text.splitlines()]
        found = [*self.diagnostics, *compiler.parse(lines, tree=str(self._source))]
        errors = compiler.errors(found)
        mine = next((one for one in errors if one.fault == "machine"), None)
        if mine is not None:
            raise HarnessError(f"{self.what}: {mine.message}", hint=_cure(mine), evidence=None)
        said = [line.strip() for line in lines if line.strip() and not line.startswith("make")]
        placed = next((one for one in errors if one.line), errors[0] if errors else None)
        if placed is None:
            return NotBuilt(tuple(found), said[-1] if said else "it printed nothing", text)
        ordered = (placed, *(one for one in found if one is not placed))
        where = ":".join(str(part) for part in (placed.file, placed.line, placed.column) if part)
        return NotBuilt(ordered, f"{where}: {placed.message}" if where else placed.message, text)


def _cure(found: Diagnostic) -> str:
    if found.kind == "missing-header":
        return f"install the package that has {found.symbol}, or set CC to a compiler that finds it"
    if found.kind == "missing-tool":
        return f"install {found.symbol}"
    return "kernloop doctor checks the machine"


def _with_callers(env: Mapping[str, str]) -> dict[str, str]:
    return {**env, **{name: os.environ[name] for name in env if name in os.environ}}


# What tools/sched_ext/Makefile and that of github.com/sched-ext/scx take from outside.
def _environment(kit: BpfKit, place: Path) -> dict[str, str]:
    tools = toolset.get()
    programs = place / "bin"
    programs.mkdir(exist_ok=True)
    text = _CC.format(cc=tools.cc, lib=tools.root / "usr/lib/x86_64-linux-gnu")
    for name in ("cc", "clang"):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    link = programs / "bpftool"
    link.unlink(missing_ok=True)
    link.symlink_to(kit.bpftool)
    (programs / "libbpf.pc").write_text(_PKG_CONFIG.format(library=kit.libbpf, include=kit.libbpf_include))
    includes = " ".join(f"-I{folder}" for folder in kit.includes)
    ours = {
        "CC": str(programs / "cc"),
        "BPF_CLANG": str(tools.clang),
        "CLANG": str(tools.clang),
        "BPFTOOL": str(kit.bpftool),
        "VMLINUX_H": str(kit.vmlinux_include / "vmlinux.h"),
        "BPF_CFLAGS": " ".join([*compiling.FLAGS, includes]),
        "BPF_INCLUDES": includes,
        "CFLAGS": " ".join(["-O2", *(f"-I{folder}" for folder in kit.includes[:-1])]),
        "LIBBPF_DEPS": f"{kit.libbpf} -lelf -lz -lzstd",
        "PKG_CONFIG_PATH": str(programs),
    }
    # What is called without a variable is ours as well: another clang may not know what the headers take.
    return {**_with_callers(ours), "PATH": f"{programs}:{os.environ.get('PATH', os.defpath)}"}


def _make(file: Path, place: Path, run: _Run, env: Mapping[str, str]) -> tuple[list[Path], list[Path]]:
    copy = project_copy.refreshed(file.parent, place / "tree")
    run([toolset.get().make, f"-j{os.cpu_count() or 1}", "-f", file.name], env, copy)
    return _products(copy)


def _meson(source: Path, place: Path, run: _Run, env: Mapping[str, str]) -> tuple[list[Path], list[Path]]:
    meson = shutil.which("meson")
    if meson is None:
        raise HarnessError(f"{source} is built by meson, which is not installed", hint="pip install meson ninja")
    out = place / "out"
    if not (out / "build.ninja").exists():
        run([meson, "setup", "--buildtype=release", out, source], env, source)
    run([meson, "compile", "-C", out], env, source)
    return _products(out)


# Programs with a scheduler inside, and objects that are one.
def _products(folder: Path) -> tuple[list[Path], list[Path]]:
    programs, objects = [], []
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not path.is_file():
            continue
        with path.open("rb") as file:
            head = file.read(20)
        if not head.startswith(b"\x7fELF") or len(head) < 20:
            continue
        if head[18] == _EM_BPF:
            if embedded.is_scheduler(path.read_bytes()):
                objects.append(path)
        elif head[16] in _RUNNABLE and os.access(path, os.X_OK) and embedded.schedulers(path):
            programs.append(path)
    return programs, objects


_EM_BPF = 247
_RUNNABLE = (2, 3)  # ET_EXEC, ET_DYN


# A scheduler with a loader of its own is meant with it: the loader sets what the object reads.
def _choose(programs: Iterable[Path], objects: Iterable[Path], target: str, folder: Path) -> Path:
    loaders = {path.name: path for path in programs}
    bare = {_stem(path): path for path in objects}
    found = loaders or bare
    if not found:
        raise UsageError(
            f"{folder} was built, and no scheduler came out: no program with a sched_ext object in it, no .bpf.o",
            hint="does its default target build the scheduler? Or give the .bpf.c: kernloop verify FILE.bpf.c",
        )
    if target:
        if chosen := loaders.get(target) or bare.get(target.removesuffix(".bpf.o").removesuffix(".bpf")):
            return chosen
        raise UsageError(f"{folder} builds no scheduler {target}", hint=f"it builds {', '.join(sorted(found))}")
    if len(found) > 1:
        raise UsageError(
            f"{folder} builds {len(found)} schedulers: {', '.join(sorted(found))}",
            hint=f"say which: --target {min(found)}",
        )
    return next(iter(found.values()))


# scx_a.bpf.o, and scx_a.bpf.l3o of bpftool's linker.
def _stem(path: Path) -> str:
    return path.name.partition(".")[0]


# Into the run directory: the next build, of another run perhaps, writes over it.
def _taken(found: Path, folder: Path) -> Built:
    if not embedded.schedulers(found):
        shutil.copyfile(found, folder / OBJECT)
        return Built(f"{_stem(found)}.bpf.o", None)
    program = folder / found.name
    shutil.copy2(found, program)
    return Built(found.name, program)


def _refuse_kernels_own(folder: Path) -> None:
    tree = folder.parent.parent
    if folder.name == "sched_ext" and (tree / "kernel/sched").is_dir():
        names = " ".join(f"kernel:{path.name.removesuffix('.bpf.c')}" for path in sorted(folder.glob("*.bpf.c")))
        raise UsageError(
            f"{folder} is the kernel's own",
            hint=f"kernloop verify --kernel tree:{tree} kernel:scx_simple" + (f"; it has {names}" if names else ""),
        )
