# SPDX-License-Identifier: Apache-2.0
"""Runs inside GDB, by its own Python: stacks go on where its own unwinders end or guess.

The kernel's assembly has no call frame information, and what runs on an interrupt's stack has one that is wrong: by
itself GDB ends at the first interrupt, and makes up calls behind a system call. The kernel's own tables (ORC) know:
what arch/x86/kernel/unwind_orc.c does. Code that BPF has generated keeps a frame pointer. A kernel without debugging
information has nothing but these. Nothing of kernloop is imported: it is another Python.
"""

from __future__ import annotations

import struct
from collections import Counter
from typing import Any

import gdb
import gdb.unwinder

_UNDEFINED, _END, _CALL, _REGS, _REGS_PARTIAL = range(5)
# arch/x86/include/asm/orc_types.h: what the numbers of registers mean was changed once, by 7.x.
_OLD = dict(enumerate(("", "prev", "rdx", "rdi", "rbp", "rsp", "r10", "r13", "*rbp", "*rsp")))
_NEW = dict(enumerate(("", "rax", "rdx", "rsp", "rbp", "rdi", "r10", "r13", "prev", "*rsp", "*rbp")))
_ENTRY = struct.Struct("<hhH")
_SAMPLES = 64
# struct pt_regs (arch/x86/include/asm/ptrace.h), up to orig_ax; then ip, cs, flags, sp.
_PT_REGS = ("r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rsi", "rdi")
_IRET = 8 * (len(_PT_REGS) + 1)
_CALLEE_SAVED = ("rbx", "r12", "r13", "r14", "r15")
_KERNEL = 1 << 63
_LAST = (1 << 64) - 1
# Modules and what BPF generates lie behind the image (arch/x86/include/asm/pgtable_64_types.h: MODULES_VADDR; the
# image has 512 MiB without KASLR and 1 GiB with).
_GENERATED = (0xFFFFFFFFA0000000, 0xFFFFFFFFFF000000)
_PAGE = 4096
_PROLOGUE = 32


class _Id:
    def __init__(self, sp: int, pc: int) -> None:
        self.sp, self.pc = gdb.Value(sp), gdb.Value(pc)


class _Orc(gdb.unwinder.Unwinder):  # type: ignore[misc]
    """`everything` is its part: there is no debugging information. `modules` are begin, end, the addresses of their two
    tables and how many entries these have."""

    def __init__(self) -> None:
        super().__init__("kernloop")
        self.everything = False
        self.modules: list[tuple[int, int, int, int, int]] = []
        self._image: tuple[int, int, int, int, int] | None = None
        self._registers: dict[int, str] = {}
        self._found: dict[int, tuple[int, int, int] | None] = {}
        self._pages: dict[int, bytes] = {}
        self._interrupted: set[tuple[int, int]] = set()

    def know(self, everything: bool, modules: list[tuple[int, int, int, int, int]]) -> None:
        self.everything, self.modules = everything, modules
        self._image = None
        self._found.clear()
        self._pages.clear()

    def moved(self) -> None:
        self._interrupted.clear()

    def __call__(self, frame: Any) -> Any:
        pc, sp, bp = (int(frame.read_register(name)) & _LAST for name in ("rip", "rsp", "rbp"))
        exact = frame.level() == 0 or (pc, sp) in self._interrupted
        if exact:
            self._interrupted.add((pc, sp))
        if pc < _KERNEL:
            return _last(frame, pc, sp, bp, sp)  # user space is not ours
        try:
            return self._unwound(frame, pc, sp, bp, pc if exact else pc - 1)
        except (gdb.error, struct.error, OverflowError):
            return None

    def _unwound(self, frame: Any, pc: int, sp: int, bp: int, at: int) -> Any:
        entry = self._entry(at)
        if entry is None:
            if not self._generated(at):
                return None
            begin = _begin(at)
            pushed = _pushed(begin, pc) if frame.level() == 0 else 2
            base = bp + 16 if pushed == 2 else sp + 8 * (pushed + 1)
            told = frame.create_unwind_info(_Id(base, begin))
            _save(told, rip=_word(base - 8), rsp=base, rbp=_word(base - 16) if pushed else bp)
            return told
        sp_offset, bp_offset, word = entry
        sp_from, bp_from = self._registers.get(word & 15, ""), self._registers.get(word >> 4 & 15, "")
        kind = word >> 8 & 7
        if kind == _END:
            return _last(frame, pc, sp, bp, sp)
        if kind == _UNDEFINED or not (self.everything or kind != _CALL or sp_from[:1] == "*" or _is_assembly(at)):
            return None
        if sp_from == "*rsp":
            base = _word(sp) + sp_offset
        elif sp_from == "*rbp":
            base = _word(bp + sp_offset)
        else:
            base = (int(frame.read_register(sp_from)) & _LAST) + sp_offset
        told = frame.create_unwind_info(_Id(base, _begin(at)))
        if kind == _CALL:
            was = {"rip": _word(base - 8), "rsp": base, "rbp": bp}
            # What has pushed nothing has not changed them either: it would have to give them back.
            if sp_from == "rsp" and sp_offset == 8:
                was |= {name: int(frame.read_register(name)) & _LAST for name in _CALLEE_SAVED}
        else:
            if kind == _REGS:
                was = dict(zip(_PT_REGS, struct.unpack("<15Q", _read(base, 120)), strict=True))
                base += _IRET
            else:
                was = {name: int(frame.read_register(name)) & _LAST for name in _PT_REGS}
            was["rip"], cs, _, was["rsp"] = struct.unpack("<4Q", _read(base, 32))
            if cs & 3:
                return _last(frame, pc, sp, bp, base)
            self._interrupted.add((was["rip"], was["rsp"]))
        if bp_from == "prev":
            was["rbp"] = _word(base + bp_offset)
        elif bp_from == "rbp":
            was["rbp"] = _word(bp + bp_offset)
        _save(told, **was)
        return told

    def _generated(self, pc: int) -> bool:
        begin, end = _GENERATED
        return begin <= pc < end and not any(one[0] <= pc < one[1] for one in self.modules) and not _has_source(pc)

    def _entry(self, pc: int) -> tuple[int, int, int] | None:
        if pc not in self._found:
            self._found[pc] = self._search(pc)
        return self._found[pc]

    # __orc_find(): the last that begins at or before it.
    def _search(self, pc: int) -> tuple[int, int, int] | None:
        if self._image is None:
            self._image = self._find_image()
        tables = (one for one in (self._image, *self.modules) if one[0] <= pc < one[1])
        _, _, ips, entries, count = next(tables, (0, 0, 0, 0, 0))
        if count == 0:
            return None
        first, last = 0, count - 1
        while first < last:
            middle = (first + last + 1) // 2
            at = ips + 4 * middle
            if at + int.from_bytes(self._kept(at, 4), "little", signed=True) <= pc:
                first = middle
            else:
                last = middle - 1
        return _ENTRY.unpack(self._kept(entries + _ENTRY.size * first, _ENTRY.size))

    def _find_image(self) -> tuple[int, int, int, int, int]:
        names = ("_stext", "_etext", "__start_orc_unwind_ip", "__start_orc_unwind", "__stop_orc_unwind_ip")
        try:
            begin, end, ips, entries, stop = (int(gdb.parse_and_eval(f"(unsigned long)&{name}")) for name in names)
        except gdb.error:
            return (0, 0, 0, 0, 0)  # CONFIG_UNWINDER_ORC is not set
        count = (stop - ips) // 4
        # Nearly all stacks are found by the stack pointer.
        sampled = (entries + _ENTRY.size * (count * part // _SAMPLES) for part in range(_SAMPLES))
        usual = Counter(_ENTRY.unpack(self._kept(at, _ENTRY.size))[2] & 15 for at in sampled).most_common(1)[0][0]
        self._registers = next((one for one in (_NEW, _OLD) if one.get(usual) == "rsp"), {})
        return (begin, end, ips, entries, count if self._registers else 0)

    # The tables do not change.
    def _kept(self, address: int, size: int) -> bytes:
        data = b""
        while len(data) < size:
            page, into = divmod(address + len(data), _PAGE)
            if page not in self._pages:
                self._pages[page] = _read(page * _PAGE, _PAGE)
            data += self._pages[page][into : into + size - len(data)]
        return data


class _NoShell(gdb.Function):  # type: ignore[misc]
    """In place of GDB's own, which runs a command of this machine: no expression of a guest's is to do that."""

    def __init__(self) -> None:
        super().__init__("_shell")

    def invoke(self, *_: Any) -> Any:
        raise gdb.GdbError("no command of this machine is run from an expression")


# A stack ends at a frame that is its own caller: one without makes GDB refuse the whole of it.
def _last(frame: Any, pc: int, sp: int, bp: int, base: int) -> Any:
    told = frame.create_unwind_info(_Id(base, pc))
    _save(told, rip=pc, rsp=sp, rbp=bp)
    return told


def _save(told: Any, **registers: int) -> None:
    kind = gdb.lookup_type("long")
    for name, value in registers.items():
        told.add_saved_register(name, gdb.Value(value - (1 << 64) if value >= _KERNEL else value).cast(kind))


def _read(address: int, size: int) -> bytes:
    return bytes(gdb.selected_inferior().read_memory(address, size))


def _word(address: int) -> int:
    return int.from_bytes(_read(address, 8), "little")


# How far generated code has come with its frame pointer: 0 before `push %rbp` or behind `leave`, 1 before `mov`, 2.
def _pushed(begin: int, pc: int) -> int:
    code = _read(begin, _PROLOGUE)
    at = code.find(b"\x55\x48\x89\xe5")
    if _read(pc - 1, 1) == b"\xc9" or (at >= 0 and pc <= begin + at):
        return 0
    return 1 if at >= 0 and pc == begin + at + 1 else 2


# Where its function begins, which names a frame as long as it lasts.
def _begin(pc: int) -> int:
    words = gdb.execute(f"info symbol {pc:#x}", to_string=True).split()
    return pc - int(words[2]) if len(words) > 2 and words[1] == "+" and words[2].isdigit() else pc


def _is_assembly(pc: int) -> bool:
    table = gdb.find_pc_line(pc).symtab
    return table is None or table.filename.endswith(".S")


def _has_source(pc: int) -> bool:
    return gdb.find_pc_line(pc).symtab is not None


_orc = _Orc()
gdb.unwinder.register_unwinder(None, _orc, replace=True)
gdb.events.cont.connect(lambda _: _orc.moved())
_NoShell()
# What the owner calls when it has read the guest's modules.
kernloop_code = _orc.know
