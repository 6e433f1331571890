# SPDX-License-Identifier: Apache-2.0
"""The shared libraries that an ELF program of this host needs, found as ld.so(8) would find them."""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.segments import InterpSegment

from kernloop.errors import UsageError

__all__ = ["DAMAGE", "closure"]

# What pyelftools lets out of a damaged file: what its construct, a seek() to 2^63 and zlib happen to raise.
DAMAGE = (
    ELFError,
    struct.error,
    zlib.error,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    OverflowError,
    MemoryError,
)


@dataclass(frozen=True)
class _Needs:
    interpreter: str | None
    libraries: tuple[str, ...]
    search: tuple[str, ...]


def closure(program: Path) -> list[Path]:
    """Absolute paths of all that `program` needs at run time, its ld.so first; none for a static program or a script.

    Raises UsageError naming the library that is not to be found.
    """
    found: dict[str, Path] = {}
    pending: list[tuple[Path, tuple[str, ...]]] = [(program, ())]
    result: list[Path] = []
    while pending:
        path, inherited = pending.pop()
        needs = _needs(path)
        if needs is None:
            continue
        origin = str(path.resolve().parent)
        search = tuple(re.sub(r"\$\{?ORIGIN\}?", origin, folder) for folder in needs.search) + inherited
        if needs.interpreter and needs.interpreter not in found:
            found[needs.interpreter] = Path(needs.interpreter)
            result.insert(0, Path(needs.interpreter))
        for name in needs.libraries:
            if name in found or (needs.interpreter and name == Path(needs.interpreter).name):
                continue
            library = _find(name, search)
            if library is None:
                raise UsageError(
                    f"{program} needs the library {name}, which is not on this machine",
                    hint="install it here, or link the program statically",
                )
            found[name] = library
            result.append(library)
            pending.append((library, search))
    return result


def _needs(path: Path) -> _Needs | None:
    with path.open("rb") as file:
        try:
            elf = ELFFile(file)
        except ELFError:
            return None
        if elf["e_machine"] != "EM_X86_64":
            return None
        interpreter = next((s.get_interp_name() for s in elf.iter_segments() if isinstance(s, InterpSegment)), None)
        dynamic = elf.get_section_by_name(".dynamic")
        if not isinstance(dynamic, DynamicSection):
            return None
        libraries, search = [], []
        for tag in dynamic.iter_tags():
            if tag.entry.d_tag == "DT_NEEDED":
                libraries.append(str(tag.needed))  # type: ignore[attr-defined]
            elif tag.entry.d_tag == "DT_RPATH":
                search += str(tag.rpath).split(":")  # type: ignore[attr-defined]
            elif tag.entry.d_tag == "DT_RUNPATH":
                search += str(tag.runpath).split(":")  # type: ignore[attr-defined]
        return _Needs(interpreter, tuple(libraries), tuple(search))


def _find(name: str, search: tuple[str, ...]) -> Path | None:
    for folder in (*search, *_system_folders()):
        candidate = Path(folder) / name
        if candidate.exists() and candidate.read_bytes()[4:5] == b"\x02":  # ELFCLASS64: multiarch has others too
            return candidate
    return None


# What ld.so.cache is made from: /etc/ld.so.conf with its includes, then the built-in folders.
@cache
def _system_folders() -> tuple[str, ...]:
    folders: list[str] = []
    for file in [Path("/etc/ld.so.conf"), *sorted(Path("/etc/ld.so.conf.d").glob("*.conf"))]:
        if file.exists():
            folders += [line.strip() for line in file.read_text().splitlines() if line.strip().startswith("/")]
    return (*folders, "/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib")
