# SPDX-License-Identifier: Apache-2.0
"""What is in a scheduler's BPF object: the data that static checks read. `load.load()` makes it.

Nothing here knows a kernel. What depends on one (does this kfunc exist, what is this enum's value) is asked of
`kernel.KernelTypes` and given to `world.World`.

How clang writes a scheduler:

- Each `SEC("struct_ops/...")` function is a symbol in a section of its own; subprograms are in `.text`.
- `.struct_ops.link` holds the ops table as its bytes are; relocations at its members' offsets name the programs.
- A call of a kfunc is `call -1` with a relocation to an undefined symbol; a call of a subprogram has src 1; a helper
  has its number. `bpf_ksym_exists(f)` is a 64-bit load of f's address: 0 when the kernel has no f.
- `SCX_*` constants are reads of `__SCX_*` variables in .rodata, which the loader fills from the kernel's BTF.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from kernloop.sched.obj.btf import Btf

__all__ = [
    "Block",
    "Call",
    "Core",
    "Extern",
    "Insn",
    "Line",
    "Map",
    "OpsTable",
    "Program",
    "Ref",
    "SchedObject",
    "Variable",
    "essential",
    "plain",
]


# The last three underscores with something else on both sides.
_FLAVOUR = re.compile(r"(.*[^_])___(?!_).+", re.DOTALL)


def essential(name: str) -> str:
    """The name that libbpf asks the kernel for: without the last flavour.

    scx_bpf_dsq_insert___v2___compat is the kernel's scx_bpf_dsq_insert___v2 (tools/lib/bpf/relo_core.c,
    bpf_core_essential_name_len).
    """
    found = _FLAVOUR.match(name)
    return found[1] if found else name


def plain(name: str) -> str:
    """What a person calls a kfunc: no flavour, no version: scx_bpf_dsq_insert."""
    at = name.find("___", 1)
    return name if at < 0 else name[:at]


class Line(NamedTuple):
    """Where an instruction comes from, by .BTF.ext: `source` is the text of that line, "" when it is not kept."""

    file: str
    line: int
    column: int
    source: str


@dataclass(frozen=True, slots=True)
class Call:
    """What a call instruction calls.

    `name` of a kfunc is as the object spells it, flavour included (see `essential`); of a helper as in bpf_helpers
    ("bpf_map_lookup_elem", or "helper#N" when unknown); of a subprogram the key in `SchedObject.programs`. "indirect"
    (callx) has no name.
    """

    kind: Literal["kfunc", "helper", "subprog", "indirect"]
    name: str


@dataclass(frozen=True, slots=True)
class Ref:
    """What a 64-bit load puts into its register, other than a number.

    - map: `name` in `SchedObject.maps`: its address
    - data: byte `offset` of data section `section`; `name` is the variable that holds it, "" if none does
    - subprog: the program `name`, as a callback (bpf_loop, bpf_for_each_map_elem, timers)
    - kfunc: the address of kfunc `name`, which code only asks for to know whether it exists
    - ksym, kconfig: an extern of that kind
    """

    kind: Literal["map", "data", "subprog", "kfunc", "ksym", "kconfig"]
    name: str
    section: str = ""
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Core:
    """A CO-RE relocation: what libbpf patches into the instruction when it knows the kernel.

    `kind` is libbpf's word: field_byte_offset, field_byte_size, field_exists, field_signed, field_lshift_u64,
    field_rshift_u64, type_id_local, type_id_target, type_exists, type_size, enumval_exists, enumval_value,
    type_matches.
    `type_id` is in the object's BTF; `access` the indices, as "0:1:2"; `name` for people: "task_struct.scx.slice",
    "scx_enq_flags.SCX_ENQ_LAST".
    """

    kind: str
    type_id: int
    access: str
    name: str


class Insn(NamedTuple):
    """One instruction; a 64-bit load, two slots in the program, is one.

    `index` is its place in `Program.insns`, which all of `sched.obj` counts by; `slot` its place in 8-byte units from
    the function's begin, which the verifier's log counts by. `code`, `dst`, `src`, `off`, `imm` are the fields as
    encoded; `imm64` is the whole of a 64-bit load, else `imm`. `target` is the index of the instruction that a jump
    goes to.
    """

    index: int  # type: ignore[assignment]  # nobody asks a tuple's index() of it
    slot: int
    code: int
    dst: int
    src: int
    off: int
    imm: int
    imm64: int
    target: int | None = None
    call: Call | None = None
    ref: Ref | None = None
    core: Core | None = None
    line: Line | None = None


class Block(NamedTuple):
    """Instructions `start` to `end - 1`, entered only at the first and left only after the last.

    `successors` are numbers of blocks; of a conditional jump's two the first is where it falls through. None: it exits.
    """

    number: int
    start: int
    end: int
    successors: tuple[int, ...]


@dataclass(frozen=True)
class Program:
    """One function of the object.

    `role`: "op" is a struct_ops program that an ops table names; "program" has a section of its own and no table names
    it (syscall, tracing, a struct_ops program nobody uses); "subprog" is called by others, static or not (`is_global`).
    `op` is the member of the ops table ("enqueue"), "" otherwise. `args` are the names of the parameters in C, () when
    BTF has no prototype. `lines` has what line info says, by index of the instruction it begins at.
    """

    name: str
    section: str
    op: str
    sleepable: bool
    insns: tuple[Insn, ...]
    blocks: tuple[Block, ...]
    line_info: tuple[tuple[int, Line], ...]
    role: Literal["op", "program", "subprog"] = "subprog"
    is_global: bool = False
    args: tuple[str, ...] = ()
    type_id: int = 0

    @cached_property
    def block_of(self) -> tuple[int, ...]:
        """The number of the block of each instruction."""
        found = [0] * len(self.insns)
        for block in self.blocks:
            for index in range(block.start, block.end):
                found[index] = block.number
        return tuple(found)

    @property
    def first_line(self) -> Line | None:
        """Where the function begins, as far as line info tells."""
        return self.line_info[0][1] if self.line_info else None


@dataclass(frozen=True)
class OpsTable:
    """A struct_ops map. `type_name` is what the kernel calls it without a flavour: sched_ext_ops, sched_ext_ops_cid.

    `members` has op -> program. `scalars` has all other members that are not 0, bytes as in the object: flags,
    timeout_ms, dispatch_max_batch, name ... `fields` are all members that the object's type has, `type_id`
    is in its BTF.
    """

    name: str
    section: str
    members: dict[str, str]
    scalars: dict[str, int | str]
    type_name: str = ""
    type_id: int = 0
    fields: tuple[str, ...] = ()


@dataclass(frozen=True)
class Map:
    """`type` is as BPF_MAP_TYPE_* without the prefix, lower case ("task_storage"); a size that the object leaves is 0.

    A loader often sets `max_entries` 0. `special` has the members of a value that the kernel knows by their type:
    bpf_spin_lock, bpf_timer, bpf_rb_root, bpf_list_head, kptr. `inner` is the
    type of the maps in a map of maps.
    """

    name: str
    type: str
    key_size: int
    value_size: int
    max_entries: int
    flags: int = 0
    inner: str = ""
    special: tuple[str, ...] = ()
    value_type: int = 0
    key_type: int = 0


@dataclass(frozen=True)
class Extern:
    """What the object wants from the kernel. `weak`: it may be missing. `type_id` is of its prototype or type."""

    name: str
    kind: Literal["kfunc", "ksym", "kconfig"]
    weak: bool
    type_id: int = 0


@dataclass(frozen=True)
class Variable:
    """A variable in a data section; `data` are its first bytes. `constant`: in .rodata; a loader may still set it."""

    name: str
    section: str
    offset: int
    size: int
    data: bytes
    constant: bool
    type_id: int = 0


@dataclass(frozen=True)
class SchedObject:
    """A whole object. Keys of `programs` are unique: the symbol's name, and `name@section+offset` for a second one.

    `variables` is keyed by name; `sections` has the bytes of each data section (.rodata, .data, .bss, ...).
    """

    path: Path
    licence: str
    ops: tuple[OpsTable, ...]
    programs: dict[str, Program]
    maps: dict[str, Map]
    externs: dict[str, Extern]
    variables: dict[str, Variable] = field(default_factory=dict)
    sections: dict[str, bytes] = field(default_factory=dict, repr=False)
    btf: Btf | None = field(default=None, repr=False)

    def op_programs(self) -> dict[str, str]:
        """program -> op, of all tables."""
        return {program: op for table in self.ops for op, program in table.members.items()}
