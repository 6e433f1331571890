# SPDX-License-Identifier: Apache-2.0
"""What GDB is to read for a guest: the vmlinux of that very build, where KASLR put it, and modules where they lie.

A kernel without debugging information gets an ELF file with the names of its own kallsyms: breakpoints and addresses
have names then, there are no types and lines. Modules without a file and what BPF has generated get one as well. Stacks
are found by the kernel's own tables (kernloop.debug.gdb.inside).
"""

from __future__ import annotations

import contextlib
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kernloop.errors import HarnessError, UsageError
from kernloop.host.paths import cache_dir
from kernloop.kernel import debugfiles
from kernloop.kernel.notes import build_id_of_notes
from kernloop.vm import kallsyms
from kernloop.vm.client import VM
from kernloop.vm.kallsyms import Symbol

__all__ = ["Loaded", "Module", "find", "write_elf"]

_VMLINUX = ""
# enum module_state (include/linux/module.h).
_LIVE = 0
_RELEASE = re.compile(rb"^OSRELEASE=(.*)$", re.MULTILINE)
_BUILD_ID = re.compile(rb"^BUILD-ID=([0-9a-f]+)$", re.MULTILINE)
_OFFSET = re.compile(rb"^KERNELOFFSET=([0-9a-f]+)$", re.MULTILINE)
# Sections that a debugger looks into. The kernel frees those of init once a module is up (do_init_module()).
_SECTION = re.compile(r"\.(text|data|rodata|bss|noinstr\.text|data\.\.\S+|text\.\S+)")
_INIT = re.compile(r"\.init\.(text|data|rodata)")
# The code's section; other symbols are absolute (SHN_ABS), for sections that lie in one another confuse GDB.
_TEXT, _ABSOLUTE = 1, 0xFFF1


@dataclass(frozen=True)
class Module:
    """A module of the guest; `path` None where its file is not at hand. `sections` are names and addresses, `orc` where
    its code lies, its two tables and how many entries these have."""

    name: str
    path: Path | None
    sections: tuple[tuple[str, int], ...]
    orc: tuple[int, int, int, int, int] = (0, 0, 0, 0, 0)


@dataclass(frozen=True)
class Loaded:
    """`file` is to be loaded `offset` bytes above where it was linked to. `dwarf`: it has types and lines. `scripts` is
    the tree's vmlinux-gdb.py, `names` a file of the names of code that has no other; `notes` say what there is not, and
    why."""

    file: Path
    offset: int
    dwarf: bool
    build_id: str
    source: Path | None
    scripts: Path | None
    names: Path | None
    modules: tuple[Module, ...]
    notes: tuple[str, ...]


def find(vm: VM, folder: Path, names: Path, files: tuple[Path, ...] = ()) -> Loaded:
    """What there is for the guest of `vm`, `files` from elsewhere among it: those of modules, a vmlinux with
    debugging information. Made files are in `folder`, and `names`.

    Raises UsageError for a file that is not the guest's, HarnessError.
    """
    from kernloop.debug.target import open_live

    with vm.memory() as memory, open_live(vm) as prog:
        from kernloop.debug import physical

        info = memory.vmcoreinfo or physical.find_vmcoreinfo(memory)
        offset = int(_word(_OFFSET, info) or "0", 16)
        build_id = _word(_BUILD_ID, info)
        notes: list[str] = []
        given = {_name_of(file): file for file in files}
        built = _vmlinux(vm, build_id, given, notes) or _package(_word(_RELEASE, info), build_id)
        images = debugfiles.noted(vm.run)
        modules = _modules(prog, lambda name: given.get(name) or (images.module_file(name) if images else None), notes)
        if unused := set(given) - {module.name for module in modules} - {_VMLINUX}:
            raise UsageError(
                f"the guest has no module {', '.join(sorted(unused))}", hint="load it first; vm exec NAME -- lsmod"
            )
        nameless = sorted(_nameless(prog, modules), key=lambda one: one.address)
        if nameless:
            write_elf(names, nameless)
        there = names if nameless else None
        if built is not None:
            scripts: Path | None = built.parent / "vmlinux-gdb.py"
            if scripts and not (scripts.exists() and (built.parent / "scripts/gdb/linux/constants.py").exists()):
                scripts = None
                notes.append("no lx- commands: the kernel was built without CONFIG_GDB_SCRIPTS")
            source = images.source if images else None
            return Loaded(built, offset, True, build_id, source, scripts, there, modules, tuple(notes))
        notes.append(
            "names only: this kernel's debugging information is not at hand, so there are no types, lines and locals; "
            "`modules FILE` takes a vmlinux, a kernel built from a tree has them, `debug drgn` has types by BTF"
        )
        where = kallsyms.tables(info)
        symbols = kallsyms.load(where, prog.read) if where else None
        if symbols is None:
            raise HarnessError("this kernel does not say where its symbols are", hint="it needs CONFIG_KALLSYMS")
    file = folder / "kallsyms.elf"
    if not file.exists():
        write_elf(file, [symbols[place] for place in range(len(symbols))])
    return Loaded(file, 0, False, build_id, None, None, there, modules, tuple(notes))


def write_elf(file: Path, symbols: Sequence[Symbol]) -> None:
    """An ELF file with nothing but `symbols`, at the addresses that they have."""
    rows = [row for row in symbols if row.address >> 47 == (1 << 17) - 1]  # per-CPU data has offsets until 6.x
    rows.sort(key=lambda row: row.kind.isupper())  # local ones come first in ELF
    first = 1 + sum(not row.kind.isupper() for row in rows)
    code = [row.address for row in rows if row.is_code]
    low, high = min(code), max(code) + 1
    names, table = bytearray(b"\0"), bytearray(24)
    for row in rows:
        kind = 2 if row.is_code else 1  # STT_FUNC, STT_OBJECT
        bind = 16 if row.kind.isupper() else 0  # STB_GLOBAL
        place = _TEXT if row.is_code else _ABSOLUTE
        table += struct.pack("<IBBHQQ", len(names), bind | kind, 0, place, row.address, row.size)
        names += row.name.encode() + b"\0"
    words = b"\0.text\0.symtab\0.strtab\0.shstrtab\0"
    at = 64
    places = []
    for part in (table, names, words):
        places.append((at, len(part)))
        at += len(part)

    def section(name: bytes, kind: int, flags: int, at: int, place: tuple[int, int], *more: int) -> bytes:
        link, info, entry = more or (0, 0, 0)
        return struct.pack("<IIQQQQIIQQ", words.find(name), kind, flags, at, *place, link, info, 8, entry)

    # SHT_NOBITS with SHF_ALLOC | SHF_EXECINSTR; SHT_SYMTAB: the section of its names, the first global; SHT_STRTAB.
    headers = [
        bytes(64),
        section(b".text", 8, 6, low, (64, high - low)),
        section(b".symtab", 2, 0, 0, places[0], 3, first, 24),
        section(b".strtab", 3, 0, 0, places[1]),
        section(b".shstrtab", 3, 0, 0, places[2]),
    ]
    ident = b"\x7fELF\2\1\1" + bytes(9)
    head = ident + struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0, 0, at, 0, 64, 0, 0, 64, len(headers), 4)
    file.write_bytes(b"".join((head, table, names, words, *headers)))


def _word(pattern: re.Pattern[bytes], text: bytes) -> str:
    found = pattern.search(text)
    return found[1].decode() if found else ""


# The vmlinux to read: the one that is `given`, the one of a kernel that was built here.
def _vmlinux(vm: VM, build_id: str, given: dict[str, Path], notes: list[str]) -> Path | None:
    if (file := given.get(_VMLINUX)) is not None:
        if _build_id_of(file) != build_id:
            raise UsageError(
                f"{file} is of another build than the guest's kernel", hint=f"that one's build-id is {build_id}"
            )
        return file
    built = debugfiles.vmlinux(vm.run, build_id)
    if built is not None and _build_id_of(built) != build_id:
        notes.append(f"{built} is of another build than the guest's kernel: it was built anew since")
        return None
    return built


# That of Debian's package with debugging information, where it has been fetched.
def _package(release: str, build_id: str) -> Path | None:
    found = sorted((cache_dir() / "debug").glob(f"linux-image-{release}-dbg_*/vmlinux"))
    return next((file for file in found if _build_id_of(file) == build_id), None)


def _build_id_of(file: Path) -> str:
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    try:
        with file.open("rb") as source:
            for section in ELFFile(source).iter_sections("SHT_NOTE"):
                if found := build_id_of_notes(section.data()):
                    return found
    except (OSError, ELFError) as error:
        raise UsageError(f"{file} is no ELF file that can be read: {error}", hint="a .ko or a vmlinux") from None
    return ""


# As the kernel calls it; a file that is no module is its image.
def _name_of(file: Path) -> str:
    name, found, _ = file.name.partition(".ko")
    return name.replace("-", "_") if found else _VMLINUX


def _modules(prog: Any, file_of: Callable[[str], Path | None], notes: list[str]) -> tuple[Module, ...]:
    import drgn

    from kernloop.debug.code import code_of

    known = {module.name: module for module in code_of(prog).modules}
    found = []
    for module, _ in prog.loaded_modules():
        if isinstance(module, drgn.RelocatableModule):
            about = known.get(module.name)
            coming = about is not None and about.struct.state.value_() != _LIVE
            sections = {
                name: at
                for name, at in module.section_addresses.items()
                if _SECTION.fullmatch(name) or (coming and _INIT.fullmatch(name))
            }
            file = file_of(module.name)
            if file is not None and module.build_id and _build_id_of(file) != module.build_id.hex():
                notes.append(f"{file} is of another build than the guest's {module.name}")
                file = None
            orc = (0, 0, 0, 0, 0)
            if about is not None:
                begin, end = about.areas[0]
                arch = about.struct.arch
                tables = (arch.orc_unwind_ip.value_(), arch.orc_unwind.value_(), arch.num_orcs.value_())
                orc = (begin, end, *tables)
            found.append(Module(module.name, file, tuple(sections.items()), orc))
    return tuple(found)


# Code that no file of ours has: of modules, and what BPF has generated (kernel/bpf/core.c: bpf_kallsyms).
def _nameless(prog: Any, modules: tuple[Module, ...]) -> Iterator[Symbol]:
    from drgn import FaultError

    from kernloop.debug.code import code_of
    from kernloop.debug.walk import Broken, entries

    known = {module.name for module in modules if module.path is not None}
    for module in code_of(prog).modules:
        if module.name not in known:
            for one in module.symbols:
                yield Symbol(one.name, "t" if one.code else "d", one.address, one.size)
    with contextlib.suppress(LookupError, Broken, FaultError):
        for one in entries(prog["bpf_kallsyms"], "struct bpf_ksym", "lnode"):
            begin = one.start.value_()
            yield Symbol(one.name.string_().decode(errors="replace"), "t", begin, one.end.value_() - begin)
