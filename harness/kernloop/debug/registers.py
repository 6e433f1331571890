# SPDX-License-Identifier: Apache-2.0
"""The registers of a guest's CPUs, from QEMU's monitor or from the notes of a vmcore."""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["INTERRUPTS", "PT_REGS", "Registers", "of_monitor", "of_vmcore"]

_CPU = re.compile(r"^CPU#(\d+)\s*$", re.MULTILINE)
_WORD = re.compile(r"\b(R[A-Z0-9]{1,2})\s*=([0-9a-f]{16})")
_FLAGS = re.compile(r"\bRFL=([0-9a-f]+)")
_STATE = re.compile(r"\b(CPL|HLT)=(\d)")
INTERRUPTS = 1 << 9
# struct pt_regs and the head of struct user_regs_struct, which a PRSTATUS note holds (arch/x86/include/asm/ptrace.h,
# user_64.h): the same order.
PT_REGS = ("r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rsi", "rdi")
_AFTER = ("orig_rax", "rip", "cs", "rflags", "rsp", "ss")
# struct elf_prstatus: where pr_reg begins.
_PR_REG = 112
_PR_PID = 32
# The name of a note that QEMU adds for each CPU (target/i386/arch_dump.c).
_QEMU = b"QEMU\0"
_NT_PRSTATUS = 1
_USER = 3
# struct disk_dump_header and struct kdump_sub_header (crash's diskdump.h): the sub header is the second block.
_KDUMP = b"KDUMP   "
_BLOCK_SIZE_AT, _NOTES_AT = 428, 48
_MOST_NOTES = 4 << 20


@dataclass(frozen=True)
class Registers:
    """One CPU. `words` are its general registers by their lower-case names; `halted` is None where nobody says.
    `pid` is the task's that kdump found there: its notes do not number CPUs."""

    cpu: int
    words: Mapping[str, int]
    flags: int
    user: bool
    halted: bool | None = None
    pid: int | None = None

    @property
    def ip(self) -> int:
        return self.words.get("rip", 0)

    @property
    def sp(self) -> int:
        return self.words.get("rsp", 0)

    @property
    def bp(self) -> int:
        return self.words.get("rbp", 0)

    @property
    def interrupts(self) -> bool:
        return bool(self.flags & INTERRUPTS)


def of_monitor(text: str) -> tuple[Registers, ...]:
    """Of the text of QEMU's `info registers -a`; empty where it says nothing that is known."""
    marks = list(_CPU.finditer(text))
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    found = []
    for mark, end in zip(marks, ends, strict=True):
        part = text[mark.end() : end]
        words = {name.lower(): int(value, 16) for name, value in _WORD.findall(part)}
        flags = _FLAGS.search(part)
        state = {name: int(value) for name, value in _STATE.findall(part)}
        user = state.get("CPL") == _USER
        halted = bool(state["HLT"]) if "HLT" in state else None
        found.append(Registers(int(mark[1]), words, int(flags[1], 16) if flags else 0, user, halted))
    return tuple(found)


def of_vmcore(path: Path) -> tuple[Registers, ...]:
    """Of the notes of a vmcore, ELF or kdump-compressed; in the order of the notes, which is the CPUs' in QEMU's."""
    found: list[Registers] = []
    data = _note_bytes(path)
    by_qemu = _QEMU in data
    for number, at in _notes(data):
        if number == _NT_PRSTATUS and len(at) >= _PR_REG + 8 * (len(PT_REGS) + len(_AFTER)):
            values = struct.unpack_from(f"<{len(PT_REGS) + len(_AFTER)}Q", at, _PR_REG)
            words = dict(zip((*PT_REGS, *_AFTER), values, strict=True))
            [pid] = struct.unpack_from("<i", at, _PR_PID)
            user = words["cs"] & 3 == _USER
            found.append(Registers(len(found), words, words["rflags"], user, pid=None if by_qemu else pid))
    return tuple(found)


def _note_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        head = file.read(_BLOCK_SIZE_AT + 4)
        if head.startswith(_KDUMP) and len(head) == _BLOCK_SIZE_AT + 4:
            [block] = struct.unpack_from("<i", head, _BLOCK_SIZE_AT)
            file.seek(max(block, 0) + _NOTES_AT)
            where = file.read(16)
        elif head.startswith(b"\x7fELF"):
            return _elf_notes(path)
        else:
            return b""
        if len(where) != 16:
            return b""
        offset, size = struct.unpack("<QQ", where)
        file.seek(offset)
        return file.read(min(size, _MOST_NOTES))


def _elf_notes(path: Path) -> bytes:
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    with path.open("rb") as file:
        try:
            parts = [part for part in ELFFile(file).iter_segments() if part["p_type"] == "PT_NOTE"]
        except ELFError:
            return b""
        return b"".join(bytes(part.data()) for part in parts if part["p_filesz"] <= _MOST_NOTES)


def _notes(data: bytes) -> list[tuple[int, bytes]]:
    found, at = [], 0
    while at + 12 <= len(data):
        name_size, size, number = struct.unpack_from("<III", data, at)
        begin = at + 12 + (name_size + 3 & ~3)
        if begin + size > len(data):
            break
        if data[at + 12 : at + 16] == b"CORE":
            found.append((number, data[begin : begin + size]))
        at = begin + (size + 3 & ~3)
    return found
