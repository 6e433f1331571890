# SPDX-License-Identifier: Apache-2.0
"""What DWARF says of an address: file, line, inlined functions, and which variable is in which register.

drgn reads the DWARF: in C, lazily, and with the relocations of modules. The program here has no memory and no target:
vmlinux is an extra module whose range is that of its sections (bias 0), a kernel module one whose sections lie where
`Image` put them, so one address means the same to both.

A register is looked up the other way round: each is given a number of its own, and the variable that then has this
number is in it. drgn evaluates the location lists for that, with inlined functions and entry values.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import drgn

from .decoded import Location
from .elf import Image

__all__ = ["ARCHITECTURES", "Dwarf", "Variable"]

logging.getLogger("drgn").addHandler(logging.NullHandler())
logging.getLogger("drgn").propagate = False

ARCHITECTURES = {
    "EM_X86_64": drgn.Architecture.X86_64,
    "EM_AARCH64": drgn.Architecture.AARCH64,
    "EM_RISCV": drgn.Architecture.RISCV64,
    "EM_S390": drgn.Architecture.S390X,
    "EM_PPC64": drgn.Architecture.PPC64,
}
_FAULTS = (LookupError, ValueError, TypeError, drgn.FaultError, drgn.ObjectAbsentError)
# A number that no variable has by chance.
_MARK = 0x5EED_0000_0000_0000
_STEP = 0x10_0000
# `struct pt_regs` of arch/x86/include/asm/ptrace.h, each 8 bytes; what is none of DWARF's registers has no mark.
_PT_REGS = (
    *("r15", "r14", "r13", "r12", "bp", "bx", "r11", "r10", "r9", "r8", "ax", "cx", "dx", "si", "di"),
    *("orig_ax", "ip", "cs", "flags", "sp", "ss"),
)
_UNMARKED = ("orig_ax", "ip", "cs", "flags", "ss")


@dataclass(frozen=True)
class Variable:
    """A variable or parameter of the function `scope`, which may be an inlined one."""

    name: str
    type: drgn.Type
    scope: str


class Dwarf:
    """The debugging information of vmlinux and modules of one kernel."""

    def __init__(self, images: Iterable[Image]) -> None:
        self.images = tuple(images)
        machine = self.images[0].machine if self.images else "EM_X86_64"
        architecture = ARCHITECTURES.get(machine)
        platform = drgn.Platform(architecture) if architecture else drgn.host_platform
        self._machine = machine
        self._program = drgn.Program(platform)
        for image in self.images:
            if image.is_module:
                module = self._program.relocatable_module(str(image.path), image.start, create=True)
                for section in image.sections:
                    module.section_addresses[section.name] = section.address
            else:
                module = self._program.extra_module(str(image.path), create=True)
            module.address_ranges = [(image.start, image.end)]
            with _damaged():
                module.try_file(str(image.path), force=True)

    def places(self, address: int) -> tuple[Location, ...]:
        """The function that `address` is in and what is inlined there, innermost first; none without DWARF."""
        with _damaged():
            found = self._program.source_location(address)
            return tuple(Location(place.name() or "", place.filename, place.line) for place in found if place.filename)
        return ()

    def in_register(self, address: int, register: str) -> list[Variable]:
        """The variables that are in `register` (x86-64: `rax`) at `address`, those of inlined functions first."""
        number = self._numbers.get(register)
        return [v for value, v in self._variables(address) if value == number] if number is not None else []

    def in_scope(self, address: int) -> list[Variable]:
        """All variables of the functions at `address`, whether they are anywhere or not."""
        return [variable for _, variable in self._variables(address)]

    def returns(self, function: str, address: int) -> drgn.Type | None:
        """The type that the function at `address` returns."""
        found = self._object(function, address, drgn.FindObjectFlags.FUNCTION)
        return found.type if found is not None else None

    def variable(self, name: str, address: int, near: int) -> drgn.Type | None:
        """The type of the global variable at `address`; a static one in the file of the code at `near`."""
        files = [place.file for place in self.places(near)]
        return self._object(name, address, drgn.FindObjectFlags.VARIABLE, *reversed(files))

    def declared(self, function: str) -> drgn.Type | None:
        """The type that a function of this name returns, be it inlined everywhere; of several any."""
        with _damaged():
            kind: drgn.Type = self._program.object(function, drgn.FindObjectFlags.FUNCTION).type_.type
            return kind
        return None

    # Several files may have one of this name.
    def _object(self, name: str, address: int, flags: drgn.FindObjectFlags, *files: str) -> drgn.Type | None:
        for file in (None, *files):
            with _damaged():
                found = self._program.object(name, flags, file)
                if found.address_ == address:
                    return found.type_
        return None

    @cached_property
    def _numbers(self) -> dict[str, int]:
        if self._machine != "EM_X86_64":
            return {}
        names = [name for name in _PT_REGS if name not in _UNMARKED]
        return {name if name[0] == "r" else f"r{name}": _MARK + index * _STEP for index, name in enumerate(names)}

    # Made here, so that modules without a vmlinux do, and no index of all types is needed for it.
    @cached_property
    def _pt_regs(self) -> drgn.Type:
        program = self._program
        word = program.int_type("unsigned long", 8, False)
        members = [drgn.TypeMember(word, name, index * 64) for index, name in enumerate(_PT_REGS)]
        return program.struct_type("pt_regs", len(members) * 8, members)

    def _variables(self, address: int) -> list[tuple[int | None, Variable]]:
        if not self._numbers:
            return []
        with _damaged():
            members = {name.removeprefix("r") if name[1:].isalpha() else name: n for name, n in self._numbers.items()}
            registers = drgn.Object(self._program, self._pt_regs, {**members, "ip": address})
            return list(_locals(self._program.stack_trace(registers)))
        return []


def _locals(trace: drgn.StackTrace) -> Iterator[tuple[int | None, Variable]]:
    for frame in trace:
        for name in frame.locals():
            found = None
            with _damaged():
                found = frame[name]
            if found is not None:
                yield _number(found), Variable(name, found.type_, frame.name)
        if not frame.is_inline:
            return


# What is not there, and what cannot be read: of damaged or unknown DWARF drgn raises a bare Exception.
@contextlib.contextmanager
def _damaged() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if type(error) is not Exception and not isinstance(error, _FAULTS):
            raise


# The pointer or integer that an object is; None for one that is nowhere, in memory, or of another kind.
def _number(found: drgn.Object) -> int | None:
    if found.absent_ or found.address_ is not None:
        return None
    with _damaged():
        return int(found.value_())
    return None
