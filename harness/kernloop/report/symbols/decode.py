# SPDX-License-Identifier: Apache-2.0
"""`decode`: one report and the files of its kernel to file:line, source, code, and what registers mean.

Costs nothing before it is called, and then what the report needs: about 0.3 s of CPU time for a small kernel.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cached_property

import capstone

from ..crash import Crash
from ..frames import base_name
from .decoded import Decoded, DecodedFrame, Excerpt, Instruction, Location, Note
from .images import Images
from .locate import Located, Locator
from .notes import call_note, fault_notes, plain_notes
from .opcodes import Code, Disassembler, instructions, machine_of, parse_code, plain_text
from .origin import Function, branch_target
from .printed import Trace, TraceFrame, read_trace
from .source import Tree

__all__ = ["decode"]

_MAX_FUNCTION = 1 << 16
_MOST_NOTES = 8
# About as much of the code as x86 prints before the faulting instruction.
_SHOWN = 42
# An address that nothing has.
_NOWHERE = 1 << 32
# ud2, ud1, int3.
_TRAP = re.compile(rb"\x0f\x0b|(?:\x67\x48?)?\x0f\xb9|\xcc")
# So many bytes tell instructions apart.
_SAME = 4


def decode(crash: Crash, lines: Iterable[str], images: Images) -> Decoded:
    """What `images` tell of a crash, whose report consists of `lines`."""
    return _Decoder(crash, read_trace(lines), images).decoded()


class _Decoder:
    def __init__(self, crash: Crash, trace: Trace, images: Images) -> None:
        self._crash, self._trace, self._images = crash, trace, images
        vmlinux = images.vmlinux
        self._machine = machine_of(trace.registers, trace.code, vmlinux.machine if vmlinux else "")
        self._code = parse_code(trace.code, self._machine) if self._machine else None
        code = self._code or Code(b"", 0)
        self._locator = Locator(images, trace, code.data, code.marked)
        # Modules are opened by this, so it comes before DWARF.
        self._located = {frame: self._locator.locate(frame) for frame in trace.frames}
        self._dwarf = images.dwarf()
        self._tree = Tree(images.source, self._start_kernel(), vmlinux.path.parent if vmlinux else None)
        self._reasons: list[str] = []

    def decoded(self) -> Decoded:
        frames = tuple(self._frame(frame, self._located[frame]) for frame in self._trace.frames)
        guilty = _guilty(self._crash, frames)
        excerpts = self._excerpts(guilty) if guilty else ()
        code = tuple(self._instructions())
        notes = tuple(self._notes())[:_MOST_NOTES]
        reasons = [*self._images.problems, *self._locator.reasons, *self._without_dwarf(), *self._reasons]
        place = excerpts[0].place if excerpts else None
        return Decoded(frames, place, excerpts, code, notes, tuple(dict.fromkeys(reasons)))

    def _start_kernel(self) -> list[Location]:
        vmlinux = self._images.vmlinux
        found = [self._dwarf.places(symbol.address) for symbol in (vmlinux.find("start_kernel") if vmlinux else ())]
        return [place for places in found for place in places]

    def _frame(self, frame: TraceFrame, found: Located | str) -> DecodedFrame:
        places: tuple[Location, ...] = ()
        note, function, offset, size = "", frame.function, frame.offset, frame.size
        function = function or f"{frame.address or 0:#x}"
        if isinstance(found, str):
            note = found
        else:
            places = tuple(
                replace(self._tree.relative(place), function=place.function or found.symbol.name)  # assembler has none
                for place in self._dwarf.places(found.address)
            )
            note = "" if places else "no line is known"
            if not frame.function:
                function, size = found.symbol.name, found.symbol.size
                offset = found.address - found.start + (not frame.exact)
        return DecodedFrame(function, offset, size, frame.module, frame.reliable, frame.exact, places, note)

    # First what was written in a source file, then the header's inlined function that the fault is in.
    def _excerpts(self, guilty: DecodedFrame) -> tuple[Excerpt, ...]:
        written = next((place for place in guilty.places if not place.file.endswith(".h")), guilty.places[0])
        image = self._images.module(guilty.module) if guilty.module else self._images.vmlinux
        built = image.path.stat().st_mtime if image else None
        return tuple(self._tree.excerpt(place, built) for place in dict.fromkeys((written, guilty.places[0])))

    def _without_dwarf(self) -> Iterator[str]:
        for image in self._images.images:
            if not image.has_dwarf:
                yield f"{image.path} has no debugging information (DWARF): no lines, no variables"

    # The pointer's place in an ELF file.
    @cached_property
    def _where(self) -> Located | None:
        found = self._located.get(self._trace.pointer) if self._trace.pointer else None
        return found if isinstance(found, Located) else None

    @cached_property
    def _disassembler(self) -> Disassembler | None:
        return Disassembler(self._machine) if self._machine else None

    def _instructions(self) -> Iterator[Instruction]:
        where, code = self._where, self._code
        if code is None and self._trace.no_code:
            also = f"; the instructions are those of {where.image.path}" if where else ""
            self._reasons.append(f"no code: {self._trace.no_code}{also}")
            code = _stored(where) if where else None
        elif code is None and self._trace.code:
            self._reasons.append("the Code: line is of an architecture that is not disassembled here, or damaged")
        if code is None or self._disassembler is None:
            return
        before, address, offset = b"", 0, self._trace.pointer.offset if self._trace.pointer else None
        if where is not None:
            address = where.address
            first = address - code.marked
            if first > where.start:
                before = where.image.read(where.start, min(first - where.start, _MAX_FUNCTION))
            self._compare(where, code)
        yield from instructions(
            code, self._disassembler, offset=offset, address=address, before=before, text=self._text
        )

    # Bytes around it differ always: what the kernel patches at boot and run time (alternatives, static keys, thunks).
    def _compare(self, where: Located, code: Code) -> None:
        size = min(_SAME, len(code.data) - code.marked)
        there = where.image.read(where.address, size)
        here = code.data[code.marked : code.marked + size]
        # A module's bytes await its load addresses; WARN() is a static call that becomes a trap.
        if there and there != here and not where.image.is_module and not _TRAP.match(here):
            self._reasons.append(
                f"the faulting instruction is another in {where.image.path.name}: patched by the kernel, overwritten,"
                " or another build"
            )

    # With symbols in the place of addresses, which are none of the kernel that ran.
    def _text(self, insn: capstone.CsInsn) -> str:
        text = plain_text(insn)
        where = self._where
        if where is None or self._machine != "EM_X86_64":
            return text
        target = branch_target(insn)
        found = self._function(where).reference(insn)
        # A module's call of another function is one of the next instruction until it is relocated.
        if (
            target is not None
            and 0 <= target - where.start < where.symbol.size
            and not (found and where.image.is_module)
        ):
            return f"{insn.mnemonic} {where.symbol.name}+{target - where.start:#x}"
        if found is None or insn.mnemonic.startswith("nop"):  # the place of a call that was patched away
            return text
        name = f"{found.name}+{found.offset:#x}" if found.offset > 0 else found.name
        return f"{insn.mnemonic} {name}" if target is not None else f"{text}  # {name}"

    def _function(self, where: Located) -> Function:
        if where.start not in self._functions:
            size = min(where.symbol.size, _MAX_FUNCTION)
            data = where.image.read(where.start, size)
            disassembler = Disassembler("EM_X86_64")
            symbols = where.image.relocated(where.start, where.start + size) if where.image.is_module else {}
            self._functions[where.start] = Function(disassembler.function(data, where.start), symbols, self._dwarf)
        return self._functions[where.start]

    # Without an ELF file: what the Code: line has from the faulting instruction on.
    def _shown_function(self) -> tuple[Function, int]:
        code = self._code or Code(b"", 0)
        found = Disassembler("EM_X86_64").disassemble(code.data[code.marked :], _NOWHERE)
        return Function(found, {}, self._dwarf), _NOWHERE

    @cached_property
    def _functions(self) -> dict[int, Function]:
        return {}

    def _notes(self) -> Iterator[Note]:
        found: list[Note] = []
        where, trace = self._where, self._trace
        if self._machine == "EM_X86_64" and self._has_fault() and (where is not None or self._code is not None):
            function, address = (self._function(where), where.address) if where else self._shown_function()
            insn = function.at(address)
            if insn is not None:
                found += fault_notes(trace, insn, function, self._line(where) if where else "")
        if not found and self._machine == "EM_X86_64" and trace.pointer is not None and not trace.pointer.function:
            caller = next((f for f in trace.frames if f.function and f.reliable), None)
            place = self._located.get(caller) if caller else None
            if isinstance(place, Located) and (note := call_note(place, self._function(place))):
                found.append(note)
        found += plain_notes(trace, self._machine, found)
        yield from found

    # A WARNING, a lockup has registers, but no address that could not be accessed.
    def _has_fault(self) -> bool:
        return self._trace.fault is not None or self._trace.low is not None or self._trace.protection

    def _line(self, where: Located) -> str:
        for place in self._dwarf.places(where.address)[:1]:
            lines = self._tree.excerpt(self._tree.relative(place)).lines
            return next((line.text for line in lines if line.guilty), "")
        return ""


# What the file has where the kernel would have printed it.
def _stored(where: Located) -> Code | None:
    first = max(where.start, where.address - _SHOWN)
    data = where.image.read(first, where.address - first + _SHOWN // 2)
    return Code(data, where.address - first) if len(data) > where.address - first else None


def _guilty(crash: Crash, frames: tuple[DecodedFrame, ...]) -> DecodedFrame | None:
    wanted = base_name(crash.function) if crash.function else ""
    # After a jump to nowhere no frame is certain: the report took the first of them.
    for frame in sorted(frames, key=lambda one: not one.reliable):
        if frame.places and wanted:
            names = {base_name(frame.function), *(place.function for place in frame.places)}
            if wanted in names:
                return frame
    return None
