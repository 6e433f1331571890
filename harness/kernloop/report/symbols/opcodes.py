# SPDX-License-Identifier: Apache-2.0
"""The Code: line as instructions, the faulting one marked.

What the line holds: x86 has 42 bytes before the marked one, so it may begin inside an instruction
(`show_opcodes()`, arch/x86/kernel/dumpstack.c); arm64 has five words, the last one marked (`dump_kernel_instr()`,
arch/arm64/kernel/traps.c), riscv twelve parcels of 16 bits (`dump_instr()`, arch/riscv/kernel/traps.c). Boundaries are
certain from the start of the function: in the line itself, or else before it in vmlinux. Without both, that beginning
is taken which most others fall in step with, as decoding x86 from a wrong place does after a few instructions.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import capstone

from .decoded import Instruction

__all__ = ["Code", "Disassembler", "instructions", "machine_of", "parse_code", "plain_text"]

_MACHINES = {
    "EM_X86_64": (capstone.CS_ARCH_X86, capstone.CS_MODE_64),
    "EM_386": (capstone.CS_ARCH_X86, capstone.CS_MODE_32),
    "EM_AARCH64": (capstone.CS_ARCH_ARM64, capstone.CS_MODE_ARM),
    "EM_ARM": (capstone.CS_ARCH_ARM, capstone.CS_MODE_ARM),
    "EM_RISCV": (capstone.CS_ARCH_RISCV, capstone.CS_MODE_RISCV64 | capstone.CS_MODE_RISCVC),
}
# The longest x86 instruction.
_LONGEST = 15
_NOWHERE = 1 << 32
_DECIMAL = re.compile(r"\$(\d{10,20})\b")
# Registers that only one architecture prints.
_TELLING = {
    "rax": "EM_X86_64",
    "eax": "EM_386",
    "x29": "EM_AARCH64",
    "epc": "EM_RISCV",
    "badaddr": "EM_RISCV",
    "psr": "EM_ARM",
}


@dataclass(frozen=True)
class Code:
    """The bytes of the line, and where in them the marked instruction begins."""

    data: bytes
    marked: int


class Disassembler:
    """capstone for one machine (`EM_X86_64`); x86 in the syntax of the kernel's own tools (AT&T)."""

    def __init__(self, machine: str) -> None:
        architecture, mode = _MACHINES[machine]
        self.x86 = architecture == capstone.CS_ARCH_X86
        self._engine = capstone.Cs(architecture, mode)
        self._engine.detail = True
        if self.x86:
            self._engine.syntax = capstone.CS_OPT_SYNTAX_ATT

    def disassemble(self, data: bytes, address: int) -> list[capstone.CsInsn]:
        """The instructions up to the first that is none."""
        found: list[capstone.CsInsn] = []
        at = 0
        while at < len(data):
            before = at
            for insn in self._engine.disasm(data[at:], address + at):
                found.append(insn)
                at = insn.address - address + insn.size
                if insn.mnemonic == "ud1":
                    at += len(self.operands_of_ud1(data, insn.address - address)[1])
                    break
            else:
                break
            if at == before:
                break
        return found

    # capstone 5 ends it before its operands, which x86's WARN() and UBSAN have (`ARCH_WARN_ASM`,
    # arch/x86/include/asm/bug.h). They are encoded as those of imul are.
    def operands_of_ud1(self, data: bytes, at: int) -> tuple[str, bytes]:
        """Operands and their bytes of the ud1 at `at`."""
        opcode = data.index(b"\x0f\xb9", at)
        like = next(self._engine.disasm(data[at:opcode] + b"\x0f\xaf" + data[opcode + 2 : opcode + 16], 0), None)
        return (like.op_str, data[opcode + 2 : at + like.size]) if like else ("", b"")

    def function(self, data: bytes, address: int) -> list[capstone.CsInsn]:
        """The instructions of a whole function; bytes that are none are passed over."""
        found: list[capstone.CsInsn] = []
        at = 0
        while at < len(data):
            found += self.disassemble(data[at:], address + at)
            end = found[-1].address + found[-1].size - address if found else 0
            at = max(end, at) + 1 if end < len(data) else end
        return found


def machine_of(registers: dict[str, int], words: tuple[str, ...], machine: str = "") -> str:
    """The ELF machine of a report: that of vmlinux, or as its registers and its Code: line tell; empty when unknown."""
    bytewise = "EM_X86_64" if any(word.startswith("<") and len(word) == 4 for word in words) else ""
    found = machine or next((name for register, name in _TELLING.items() if register in registers), bytewise)
    return found if found in _MACHINES else ""


def parse_code(words: tuple[str, ...], machine: str) -> Code | None:
    """The bytes of a Code: line's words; None where none is marked, or one could not be read by the kernel."""
    data, marked = b"", None
    for word in words:
        bare = word.strip("<>()")
        if machine == "EM_ARM" and len(bare) != 8:
            return None  # Thumb
        if len(bare) != len(word):
            marked = len(data)
        if "?" in bare:
            if marked is not None:
                return None
            data = b""
            continue
        data += bytes.fromhex(bare) if machine in ("EM_X86_64", "EM_386") else bytes.fromhex(bare)[::-1]
    return Code(data, marked) if marked is not None else None


def instructions(
    code: Code,
    disassembler: Disassembler,
    *,
    offset: int | None,
    address: int = 0,
    before: bytes = b"",
    text: Callable[[capstone.CsInsn], str] | None = None,
) -> tuple[Instruction, ...]:
    """The instructions of `code`; `offset` is that of the marked one in its function, `address` its own.

    `before` is what vmlinux has from the function's start to the line's first byte, `text` writes an instruction.
    """
    begin = _begin(code, disassembler, offset, before)
    if begin is None:
        begin = code.marked
    # Where nobody knows the address, targets of jumps are told as offsets in the function.
    address = address or (_NOWHERE if offset is None else offset)
    first = address - (code.marked - begin)
    # Cut at the mark: what precedes it ends there, whatever a wrong byte before it makes of it.
    found = disassembler.disassemble(code.data[begin : code.marked], first)
    found += disassembler.disassemble(code.data[code.marked :], address)
    return tuple(_instruction(insn, code, disassembler, address, offset or 0, text or plain_text) for insn in found)


def _instruction(
    insn: capstone.CsInsn,
    code: Code,
    disassembler: Disassembler,
    address: int,
    offset: int,
    text: Callable[[capstone.CsInsn], str],
) -> Instruction:
    encoded, words = bytes(insn.bytes), text(insn)
    if insn.mnemonic == "ud1" and disassembler.x86:
        operands, more = disassembler.operands_of_ud1(code.data, code.marked + insn.address - address)
        encoded, words = encoded + more, f"ud1 {operands}"
    return Instruction(insn.address - address + offset, encoded.hex(" "), words, insn.address == address)


def plain_text(insn: capstone.CsInsn) -> str:
    """The instruction as capstone writes it, but for addresses in decimal."""
    operands = _DECIMAL.sub(lambda match: f"${int(match[1]):#x}", insn.op_str)
    return f"{insn.mnemonic} {operands}".strip()


# Where in the line the first instruction begins.
def _begin(code: Code, disassembler: Disassembler, offset: int | None, before: bytes) -> int | None:
    if not disassembler.x86:
        return 0
    if offset is not None and offset <= code.marked:
        return code.marked - offset
    if before:
        data = before + code.data[: code.marked]
        at = 0
        for insn in disassembler.disassemble(data, 0):
            if insn.address >= len(before):
                break
            at = insn.address + insn.size
        if at >= len(before) and _hits(code, disassembler, at - len(before)):
            return at - len(before)
    votes: Counter[int] = Counter()
    for start in range(min(_LONGEST, code.marked)):
        if _hits(code, disassembler, start):
            for insn in disassembler.disassemble(code.data[start : code.marked], start):
                votes[insn.address] += 1
    if not votes:
        return None
    # The earliest boundary that at least half as many beginnings agree on as on any.
    most = max(votes.values())
    return min(at for at, count in votes.items() if count * 2 >= most)


# Whether decoding from `start` comes upon the marked byte.
def _hits(code: Code, disassembler: Disassembler, start: int) -> bool:
    if start == code.marked:
        return True
    found = disassembler.disassemble(code.data[start : code.marked], start)
    return bool(found) and found[-1].address + found[-1].size == code.marked
