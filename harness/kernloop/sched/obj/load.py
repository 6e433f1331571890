# SPDX-License-Identifier: Apache-2.0
"""From the bytes of an object to a SchedObject, as libbpf would read it (linux tools/lib/bpf/libbpf.c)."""

from __future__ import annotations

import struct
from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from operator import attrgetter
from pathlib import Path
from typing import Literal

from elftools.elf.elffile import ELFFile

from kernloop.errors import HarnessError, UsageError
from kernloop.host.elf import DAMAGE
from kernloop.sched.obj import btfext, decode, maps, structops, uapi
from kernloop.sched.obj.btf import Btf, BtfError
from kernloop.sched.obj.decode import DecodeError, Known
from kernloop.sched.obj.model import Call, Extern, Line, Program, Ref, SchedObject, Variable
from kernloop.sched.obj.symbols import Symbol, relocations, symbols

__all__ = ["ObjectError", "embedded", "load", "read"]

_EXECUTABLE = 4
_EM_BPF = 247


class ObjectError(UsageError):
    """The file is no BPF object, or one that is damaged or lacks what any check needs (types, code)."""


def load(path: Path) -> SchedObject:
    """Read the object in file `path`. Raises ObjectError."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ObjectError(f"cannot read {path}: {error.strerror}") from None
    return read(data, path)


def read(data: bytes, path: Path) -> SchedObject:
    """Read an object's bytes; `path` is what it is called. Raises ObjectError."""
    try:
        return _Reader(data, path).object()
    except ObjectError:
        raise
    except (*DAMAGE, BtfError, DecodeError) as error:
        said = error.message if isinstance(error, HarnessError) else f"{type(error).__name__}: {error}"
        raise ObjectError(
            f"{path} is no sound BPF object: {said}", hint="compile it with clang -g -O2 -target bpf"
        ) from None


def embedded(data: bytes) -> list[bytes]:
    """The BPF objects inside a program's bytes: a loader's skeletons. Their order is that in the file."""
    found, at = [], 0
    while (at := data.find(b"\x7fELF\x02\x01\x01", at)) >= 0:
        size = _size(data[at : at + 64])
        if size and at + size <= len(data):
            found.append(data[at : at + size])
            at += size
        else:
            at += 4
    return found


# The length of the BPF object that begins so: clang and libbpf put the section headers last.
def _size(head: bytes) -> int:
    if len(head) < 64 or struct.unpack_from("<H", head, 18)[0] != _EM_BPF:
        return 0
    (sections,) = struct.unpack_from("<Q", head, 40)
    each, count = struct.unpack_from("<HH", head, 58)
    return int(sections + each * count)


@dataclass(frozen=True)
class _Section:
    index: int
    name: str
    kind: str
    flags: int
    size: int


class _Reader:
    def __init__(self, data: bytes, path: Path) -> None:
        self.path = path
        self.elf = ELFFile(BytesIO(data))
        if self.elf["e_machine"] != "EM_BPF":
            raise ObjectError(
                f"{path} is an ELF file for {self.elf['e_machine'].removeprefix('EM_')}, not BPF",
                hint="a scheduler with its own loader: kernloop verify --loader BINARY -- ARGS",
            )
        self.parts = list(self.elf.iter_sections())
        self.sections = [
            _Section(index, part.name, part["sh_type"], part["sh_flags"], part["sh_size"])
            for index, part in enumerate(self.parts)
        ]
        self.by_name = {section.name: section for section in self.sections}
        if ".BTF" not in self.by_name:
            raise ObjectError(f"{path} has no types: it lacks the section .BTF", hint="compile it with -g")
        self.btf = Btf(self.parts[self.by_name[".BTF"].index].data())
        ext = self.by_name.get(".BTF.ext")
        self.ext = btfext.read(self.parts[ext.index].data(), self.btf) if ext else btfext.Ext({}, {})
        self.symbols = self._symbols()
        self.relocations = self._relocations()

    def object(self) -> SchedObject:
        if not self.functions:
            raise ObjectError(f"{self.path} has no BPF program in it")
        tables = tuple(self._tables())
        ops = {program: op for table in tables for op, program in table.members.items()}
        licence = self.by_name.get("license")
        return SchedObject(
            path=self.path,
            licence=self.parts[licence.index].data().split(b"\0")[0].decode("utf-8", "replace") if licence else "",
            ops=tables,
            programs={name: self._program(name, symbol, ops) for symbol, name in self.functions.items()},
            maps={found.name: found for found in maps.read(self.btf)},
            externs=self.externs,
            variables=self.variables,
            sections=self.data,
            btf=self.btf,
        )

    # A section's own symbol has the section's name.
    def _symbols(self) -> list[Symbol]:
        return [
            one._replace(name=self.sections[one.section].name)
            if one.kind == "section" and one.section is not None
            else one
            for one in symbols(self.elf)
        ]

    # By section, then by byte offset in it.
    def _relocations(self) -> dict[int, dict[int, Symbol]]:
        found: dict[int, dict[int, Symbol]] = {}
        for part in self.parts:
            # The debugger's sections have most of them, and nobody asks for those.
            if part["sh_type"] != "SHT_REL" or part.name.startswith((".rel.debug", ".rel.BTF", ".rel.eh_frame")):
                continue
            place = found.setdefault(part["sh_info"], {})
            for offset, number in relocations(part):
                place[offset] = self.symbols[number]
        return found

    @cached_property
    def functions(self) -> dict[Symbol, str]:
        """The key of each function."""
        found: dict[Symbol, str] = {}
        taken: set[str] = set()
        for symbol in self.symbols:
            if symbol.kind != "func" or symbol.section is None:
                continue
            name = symbol.name
            if name in taken:
                name = f"{name}@{self.sections[symbol.section].name}+{symbol.value}"
            taken.add(name)
            found[symbol] = name
        return found

    @cached_property
    def externs(self) -> dict[str, Extern]:
        """Undefined symbols, with their kind by BTF: functions are kfuncs, variables stand in .ksyms or .kconfig."""
        sections: dict[int, str] = {}
        for part in self.btf.all("datasec"):
            if part.name in (".ksyms", ".kconfig"):
                sections |= {member.type_id: part.name for member in part.members}
        found: dict[str, Extern] = {}
        for symbol in self.symbols:
            if symbol.section is not None or not symbol.name or symbol.bind == "local":
                continue
            kind: Literal["kfunc", "ksym", "kconfig"] = "ksym"
            type_id = 0
            for declared in self.btf.ids(symbol.name):
                what = self.btf.type(declared)
                if what.kind == "func":
                    kind, type_id = "kfunc", what.type_id
                    break
                if what.kind == "var":
                    kind = "kconfig" if sections.get(declared) == ".kconfig" else "ksym"
                    type_id = what.type_id
                    break
            found[symbol.name] = Extern(symbol.name, kind, symbol.bind == "weak", type_id)
        return found

    @cached_property
    def data(self) -> dict[str, bytes]:
        """Sections of variables."""
        found = {}
        for section in self.sections:
            if not section.name.startswith((".rodata", ".data", ".bss", ".addr_space.")) or section.name in found:
                continue
            zeros = section.kind == "SHT_NOBITS"
            found[section.name] = bytes(min(section.size, 1 << 20)) if zeros else self.parts[section.index].data()
        return found

    @cached_property
    def variables(self) -> dict[str, Variable]:
        types = {found.name: found.type_id for found in self.btf.all("var")}
        found = {}
        for symbol in self.symbols:
            if symbol.kind != "object" or symbol.section is None:
                continue
            section = self.sections[symbol.section].name
            content = self.data.get(section)
            if content is None:
                continue
            found[symbol.name] = Variable(
                symbol.name,
                section,
                symbol.value,
                symbol.size,
                content[symbol.value : symbol.value + symbol.size],
                section.startswith(".rodata"),
                types.get(symbol.name, 0),
            )
        return found

    def _tables(self) -> list[structops.OpsTable]:
        found = []
        for symbol in self.symbols:
            if symbol.kind != "object" or symbol.section is None:
                continue
            section = self.sections[symbol.section]
            if section.name not in structops.SECTIONS:
                continue
            content = self.parts[section.index].data()[symbol.value : symbol.value + symbol.size]
            programs = {
                offset - symbol.value: self.functions[target]
                for offset, target in self.relocations.get(section.index, {}).items()
                if symbol.value <= offset < symbol.value + symbol.size and target in self.functions
            }
            found.append(structops.table(symbol.name, section.name, content, programs, self.btf))
        return found

    def _program(self, name: str, symbol: Symbol, ops: dict[str, str]) -> Program:
        assert symbol.section is not None
        section = self.sections[symbol.section]
        begin, end = symbol.value, symbol.value + symbol.size
        code = self.parts[section.index].data()[begin:end]
        lines = self.ext.lines_in(section.name, begin, end)
        cores = self.ext.cores_in(section.name, begin, end)
        calls, refs = self._referred(section, begin, code)
        insns = decode.decode(code, Known(calls, refs, cores, lines))
        where: dict[int, int] = {insn.slot: insn.index for insn in insns}
        info: list[tuple[int, Line]] = sorted(
            ((where[slot], line) for slot, line in lines.items() if slot in where), key=lambda item: item[0]
        )
        function = self.btf.find(symbol.name, "func")
        prototype = self.btf.resolve(function.type_id) if function else None
        op = ops.get(name, "")
        return Program(
            name=name,
            section=section.name,
            op=op,
            sleepable=section.name.split("/")[0].endswith(".s") or section.name == "syscall",
            insns=insns,
            blocks=decode.blocks(insns),
            line_info=tuple(info),
            role="op" if op else "subprog" if section.name == ".text" else "program",
            is_global=symbol.bind != "local",
            args=tuple(member.name for member in prototype.members) if prototype else (),
            type_id=function.type_id if function else 0,
        )

    # What the calls and 64-bit loads of a function refer to, by slot.
    def _referred(self, section: _Section, begin: int, code: bytes) -> tuple[dict[int, Call], dict[int, Ref]]:
        relocations = self.relocations.get(section.index, {})
        calls: dict[int, Call] = {}
        refs: dict[int, Ref] = {}
        # The second half of a 64-bit load has an opcode of 0.
        for slot, (opcode, registers, _, imm) in enumerate(struct.iter_unpack("<BBhi", code[: len(code) // 8 * 8])):
            symbol = relocations.get(begin + slot * 8)
            if opcode == decode.CALL:
                calls[slot] = self._call(section, begin // 8 + slot, registers >> 4, imm, symbol)
            elif opcode == decode.CALLX:
                calls[slot] = Call("indirect", "")
            elif opcode == decode.LD_IMM64:
                ref = self._ref(imm, symbol) if symbol else None
                if ref:
                    refs[slot] = ref
        return calls, refs

    def _call(self, section: _Section, slot: int, source: int, imm: int, symbol: Symbol | None) -> Call:
        if symbol is not None and symbol.section is None:
            return Call("kfunc", symbol.name)
        if symbol is not None and symbol.section is not None:
            return Call("subprog", self._function_at(symbol.section, symbol.value + (imm + 1) * 8))
        if source == 1:
            return Call("subprog", self._function_at(section.index, (slot + 1 + imm) * 8))
        return Call("helper", uapi.helper(imm))

    def _ref(self, imm: int, symbol: Symbol) -> Ref | None:
        if symbol.section is None:
            extern = self.externs.get(symbol.name)
            return Ref(extern.kind, extern.name) if extern else None
        section = self.sections[symbol.section]
        offset = symbol.value + imm
        if section.flags & _EXECUTABLE:
            return Ref("subprog", self._function_at(section.index, offset), section.name, offset)
        if section.name == ".maps" or section.name in structops.SECTIONS:
            return Ref("map", symbol.name, section.name)
        variables = self._in_section.get(section.name, [])
        after = bisect_right(variables, offset, key=attrgetter("offset"))
        # Of two at one place the first one is it.
        for variable in variables[max(after - 2, 0) : after]:
            if variable.offset <= offset < variable.offset + max(variable.size, 1):
                return Ref("data", variable.name, section.name, offset)
        return Ref("data", "", section.name, offset)

    # In the order of their places.
    @cached_property
    def _in_section(self) -> dict[str, list[Variable]]:
        found: dict[str, list[Variable]] = {}
        for variable in sorted(self.variables.values(), key=attrgetter("offset")):
            found.setdefault(variable.section, []).append(variable)
        return found

    @cached_property
    def _starts(self) -> dict[tuple[int, int], str]:
        return {(symbol.section, symbol.value): name for symbol, name in self.functions.items() if symbol.section}

    def _function_at(self, section: int, offset: int) -> str:
        name = self._starts.get((section, offset))
        if name is None:
            raise DecodeError(
                f"a call goes to byte {offset} of {self.sections[section].name}, where no function begins"
            )
        return name
