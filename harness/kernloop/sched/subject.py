# SPDX-License-Identifier: Apache-2.0
"""What the words after `verify` mean: a source, an object, a folder that builds one, a program, one of the kernel's.

Nothing is built, fetched or run here: what cannot be right is said before anything else is done.
"""

from __future__ import annotations

import filecmp
import os
import shlex
import shutil
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from elftools.elf.elffile import ELFFile

from kernloop.errors import UsageError
from kernloop.host.elf import DAMAGE
from kernloop.sched import compile as compiling
from kernloop.sched import released

__all__ = ["BUILD_FILES", "OF_KERNEL", "Kind", "Subject", "find", "program"]

OF_KERNEL = "kernel:"
# What builds a folder, by the file it has; make looks for its own in this order.
BUILD_FILES = ("Cargo.toml", "meson.build", "GNUmakefile", "makefile", "Makefile")
# The interpreters that a micro-VM has are busybox's.
_GUEST_SHELLS = ("/bin/sh", "/bin/ash", "/bin/busybox")


class Kind(StrEnum):
    SOURCE = "source"
    OBJECT = "object"
    BUILD = "build"
    PROGRAM = "program"
    KERNEL = "kernel"


@dataclass(frozen=True)
class Subject:
    """`name` is what the caller said. `path` is the file; of BUILD the file that builds, None of a kernel's own.

    `args` are for the scheduler's own loader, `target` is the scheduler meant where a folder builds several.
    """

    kind: Kind
    name: str
    path: Path | None
    args: tuple[str, ...] = ()
    target: str = ""

    @property
    def own_loader(self) -> bool:
        """Whether a program of its own loads it, as far as can be known before it is built."""
        return self.kind in (Kind.PROGRAM, Kind.KERNEL, Kind.BUILD)


def find(scheduler: str | None, loader: str | None = None, args: tuple[str, ...] = (), target: str = "") -> Subject:
    """What to verify. With `loader` that is the program, and `scheduler` the first of its arguments.

    Raises UsageError.
    """
    if loader is not None:
        words = (*([scheduler] if scheduler else []), *args)
        found = _of_kernel(loader, words) or Subject(Kind.PROGRAM, loader, program(_there(loader)), words)
    elif scheduler is None:
        raise UsageError(
            "give either a scheduler (.bpf.c, .bpf.o, a folder, a program) or --loader BINARY",
            hint="kernloop verify examples/schedulers/fifo.bpf.c",
        )
    else:
        found = _of_kernel(scheduler, args) or _by_file(scheduler, args, target)
    if found.args and found.kind in (Kind.SOURCE, Kind.OBJECT):
        raise UsageError(
            f"{shlex.join(found.args)}: only a scheduler's own loader takes arguments",
            hint="kernloop verify BINARY -- ARGS",
        )
    if target and found.kind is not Kind.BUILD:
        raise UsageError(f"--target {target} is for a folder that builds several schedulers", hint="leave it out")
    return found


def program(path: Path) -> Path:
    """`path` if a guest can run it. Raises UsageError."""
    if not os.access(path, os.X_OK):
        raise UsageError(
            f"{path} is no program that can be run",
            hint=f"chmod +x {path}, or: kernloop verify FILE.bpf.c; a scheduler's source needs no --loader",
        )
    with path.open("rb") as file:
        head = file.read(256)
        if head.startswith(b"\x7fELF"):
            file.seek(0)
            machine = _machine(path)
            if machine != "EM_X86_64":
                raise UsageError(
                    f"{path} is a program for {machine.removeprefix('EM_')}, guests are x86-64",
                    hint="build it for x86-64, or give its .bpf.o or .bpf.c, which are for any machine",
                )
        elif head.startswith(b"#!"):
            words = head[2:].split(b"\n")[0].split()
            interpreter = words[0].decode(errors="replace") if words else ""
            if interpreter not in _GUEST_SHELLS:
                raise UsageError(
                    f"{path} is a script for {interpreter or 'nothing'}, which a guest does not have",
                    hint="guests have busybox: begin it with #!/bin/sh, or give the program that it starts",
                )
        else:
            raise UsageError(f"{path} is neither an ELF program nor a script", hint="its first line must be #!/bin/sh")
    return path


def _of_kernel(name: str, args: tuple[str, ...]) -> Subject | None:
    return Subject(Kind.KERNEL, name, None, args) if name.startswith(OF_KERNEL) else None


def _by_file(name: str, args: tuple[str, ...], target: str) -> Subject:
    path = _there(name)
    if path.is_dir():
        return Subject(Kind.BUILD, name, _build_file(path), args, target)
    if path.name in BUILD_FILES:
        return Subject(Kind.BUILD, name, path, args, target)
    try:
        with path.open("rb") as file:
            head = file.read(4)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    if path.suffix == ".o" or (head == b"\x7fELF" and _machine(path) == "EM_BPF"):
        return Subject(Kind.OBJECT, name, compiling.take_object(path))
    if head == b"\x7fELF" or head.startswith(b"#!"):
        return Subject(Kind.PROGRAM, name, program(path), args)
    compiling.check_source(path)
    return Subject(Kind.SOURCE, name, path, args)


# A file, a scheduler that `sched get` built, or a program of this name in the PATH.
def _there(name: str) -> Path:
    path = Path(name)
    if path.exists():
        return path
    built = released.find(name)
    installed = Path(found) if "/" not in name and (found := shutil.which(name)) else None
    if built and installed and not filecmp.cmp(built.program, installed, shallow=False):
        raise UsageError(
            f"{name} is two programs: {installed}, and {built.name} {built.version} that sched get built",
            hint=f"kernloop verify {installed}, or: kernloop verify {built.name}@{built.version}",
        )
    if built or installed:
        return built.program if built else installed or path
    if name.startswith("scx_") and "/" not in name and not name.endswith((".c", ".o")):
        raise UsageError(f"{name} is not there", hint=f"a released one is built by: kernloop sched get {name}")
    raise UsageError(f"{name} is not there", hint="examples/schedulers has some to start from")


def _build_file(folder: Path) -> Path:
    found = [folder / name for name in BUILD_FILES if (folder / name).is_file()]
    kinds = {path.name.lower().removeprefix("gnu"): path for path in found}
    if len(kinds) > 1:
        raise UsageError(
            f"{folder} can be built in {len(kinds)} ways: {', '.join(path.name for path in kinds.values())}",
            hint="name the file: " + " or ".join(f"kernloop verify {path}" for path in kinds.values()),
        )
    if not kinds:
        sources = sorted(folder.glob("*.bpf.c"))
        raise UsageError(
            f"{folder} is a folder without a Makefile, meson.build or Cargo.toml",
            hint=f"give a file: kernloop verify {sources[0]}" if sources else "give the scheduler's .bpf.c or .bpf.o",
        )
    return found[0]


def _machine(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return str(ELFFile(file)["e_machine"])
    except (OSError, *DAMAGE):
        raise UsageError(f"{path} is a damaged ELF file", hint="build it again") from None
