# SPDX-License-Identifier: Apache-2.0
"""From a scheduler's C source to a BPF object for one target kernel.

The object has the same bytes on every machine: the compiler is the toolset's, and no path of this machine is in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from elftools.elf.elffile import ELFFile

from kernloop.errors import HarnessError, UsageError
from kernloop.host import process, toolset
from kernloop.host.elf import DAMAGE
from kernloop.kernel.source import BpfKit
from kernloop.report.compiler import Diagnostic, errors, parse
from kernloop.report.lines import split_lines

__all__ = ["FLAGS", "Compiled", "check_source", "compile_scheduler", "examples", "own_loader", "take_object"]

# tools/sched_ext/Makefile of 7.3 has these, but for the paths.
FLAGS = (
    "-g",
    "-O2",
    "-target",
    "bpf",
    "-mcpu=v3",
    "-mlittle-endian",
    "-D__TARGET_ARCH_x86",
    "-fms-extensions",
    "-Wall",
    "-Wno-compare-distinct-pointer-types",
    "-Wno-microsoft-anon-tag",
    "-fno-color-diagnostics",
)


@dataclass(frozen=True)
class Compiled:
    """`object` is None when there were errors; `diagnostics` has warnings as well, `text` what the compiler said."""

    object: Path | None
    diagnostics: tuple[Diagnostic, ...]
    text: str


def compile_scheduler(source: Path, kit: BpfKit, out: Path) -> Compiled:
    """Compile `source` to `out`. Raises HarnessError when clang itself fails."""
    tools = toolset.get()
    # The name of a file in the object is what its user knows it by, wherever the folders are.
    maps = [
        f"-ffile-prefix-map={kit.tree}=linux",
        f"-ffile-prefix-map={kit.vmlinux_include}=vmlinux",
        f"-ffile-prefix-map={kit.libbpf_include}=libbpf",
    ]
    done = process.run(
        [
            tools.clang,
            *FLAGS,
            *(f"-I{folder}" for folder in kit.includes),
            "-I.",
            "-fdebug-compilation-dir=.",
            *maps,
            "-c",
            source.name,
            "-o",
            out,
        ],
        seconds=120,
        what=f"compiling {source.name}",
        cwd=source.absolute().parent,
        check=False,
    )
    diagnostics = tuple(parse(split_lines(done.stderr)))
    if done.status == 0:
        return Compiled(out, diagnostics, done.stderr)
    # Without a line it is no complaint about the source: clang could not run, or was killed.
    if not any(found.line for found in errors(diagnostics)):
        raise HarnessError(
            f"clang failed (exit {done.status}): {done.stderr.strip()[-300:]}",
            hint="is the disk full? kernloop doctor checks the tools",
        )
    return Compiled(None, diagnostics, done.stderr)


def take_object(path: Path) -> Path:
    """`path` if it is a BPF object file. Raises UsageError."""
    try:
        with path.open("rb") as file:
            machine = str(ELFFile(file)["e_machine"])  # a number, if nobody knows it
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    except DAMAGE:
        raise UsageError(f"{path} is no ELF object", hint="give the .bpf.c, or the .bpf.o that clang made") from None
    if machine != "EM_BPF":
        raise UsageError(
            f"{path} is an ELF file for {machine.removeprefix('EM_')}, not BPF",
            hint="a scheduler with its own loader: kernloop verify --loader BINARY -- ARGS",
        )
    return path


def examples(kit: BpfKit) -> list[str]:
    """The C schedulers that the kernel's own tools/sched_ext has."""
    return sorted(p.name.removesuffix(".bpf.c") for p in (kit.tree / "tools/sched_ext").glob("scx_*.bpf.c"))


def own_loader(name: str, kit: BpfKit, folder: Path) -> Path:
    """Build scheduler `name` of the kernel's tools/sched_ext with its own loader, as its Makefile would.

    Raises UsageError for a name that is not there.
    """
    if name not in examples(kit):
        raise UsageError(f"the kernel's tools/sched_ext has no {name}", hint="it has: " + " ".join(examples(kit)))
    tools = toolset.get()
    sources = kit.tree / "tools/sched_ext"
    built = compile_scheduler(sources / f"{name}.bpf.c", kit, folder / f"{name}.bpf.o")
    if built.object is None:
        raise HarnessError(f"{name} of {kit.source.package} does not compile: {built.text[-300:]}")
    skeleton = process.run(
        [kit.bpftool, "gen", "skeleton", built.object, "name", name], seconds=60, what=f"making {name}'s skeleton"
    ).stdout
    (folder / f"{name}.bpf.skel.h").write_text(skeleton)
    program = folder / name
    process.run(
        [
            tools.cc,
            "-O2",
            "-static",
            "-pthread",
            "-w",
            f"-I{folder}",
            *(f"-I{path}" for path in kit.includes[:-1]),
            sources / f"{name}.c",
            kit.libbpf,
            "-lelf",
            "-lz",
            "-lzstd",
            "-o",
            program,
        ],
        seconds=300,
        what=f"building {name}",
    )
    return program


def check_source(source: Path) -> None:
    """Raises UsageError when `source` cannot be a scheduler's C source."""
    try:
        head = source.read_bytes()[:65536]
    except IsADirectoryError:
        raise UsageError(f"{source} is a folder", hint="give the scheduler's .bpf.c or .bpf.o") from None
    except OSError as error:
        raise UsageError(
            f"cannot read {source}: {error.strerror}", hint="examples/schedulers has some to start from"
        ) from None
    if b"\0" in head:
        raise UsageError(f"{source} is no C source: it has NUL bytes in it", hint="give a .bpf.c or a .bpf.o")
    if b"SEC(" not in head and b"SCX_OPS_DEFINE" not in head and not source.name.endswith(".bpf.c"):
        raise UsageError(
            f"{source} is no BPF program in C: it names no SEC() and no SCX_OPS_DEFINE()",
            hint="examples/schedulers/fifo.bpf.c shows the smallest one",
        )
