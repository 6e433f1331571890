# SPDX-License-Identifier: Apache-2.0
"""BPF programs and maps of a kernel, and what a map holds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from drgn import Object, Program
from drgn.helpers.linux.cpumask import for_each_possible_cpu

from kernloop.debug.bpf import Element, MapInfo, Maps, programs

__all__ = ["ProgramRow", "bpf_map", "bpf_maps", "bpf_programs", "bpf_variables"]

_PREFIX = "BPF_PROG_TYPE_"


@dataclass(frozen=True)
class ProgramRow:
    """`code` is where its machine code lies, None where it is interpreted; `size` that code's bytes; `maps` by id."""

    id: int
    name: str
    type: str
    code: int | None
    size: int
    maps: tuple[int, ...]


def bpf_programs(prog: Program) -> tuple[ProgramRow, ...]:
    maps = Maps(prog, [])
    return tuple(_row(maps, one) for one in programs(prog))


def bpf_maps(prog: Program) -> tuple[MapInfo, ...]:
    maps = Maps(prog, [])
    return tuple(maps.info(one) for _, one in sorted(maps.all().items()))


def bpf_map(prog: Program, which: str | int) -> Iterator[Element]:
    """The elements of the map with that id or name. Raises LookupError for none."""
    maps = Maps(prog, list(for_each_possible_cpu(prog)))
    one = _find(maps, which)
    since: int | None = 0
    while since is not None:
        page = maps.page(one, since, 256)
        yield from page.elements
        since = page.cursor


def bpf_variables(prog: Program, which: str | int) -> dict[str, object]:
    """The global variables in a map that is a section of a program (.bss, .data, .rodata)."""
    maps = Maps(prog, [])
    return maps.variables(_find(maps, which))


def _find(maps: Maps, which: str | int) -> Object:
    for number, one in maps.all().items():
        if which in (number, maps.info(one).name):
            return one
    raise LookupError(f"no BPF map {which}; bpf_maps() lists them")


def _row(maps: Maps, one: Object) -> ProgramRow:
    aux = one.aux
    names = {value: name for name, value in one.type.type_.enumerators or ()}
    kind = names.get(one.type.value_(), str(one.type.value_())).removeprefix(_PREFIX).lower()
    code = one.bpf_func.value_() if one.jited else None
    used = tuple(sorted(maps.used_by([one])))
    return ProgramRow(aux.id.value_(), maps.program_name(one), kind, code, one.jited_len.value_(), used)
