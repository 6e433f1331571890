# SPDX-License-Identifier: Apache-2.0
"""Stacks unwound by the kernel's own tables (ORC), from its memory: right without frame pointers and without DWARF.

What arch/x86/kernel/unwind_orc.c does, from outside: its tables are searched where they lie, modules have theirs in
struct module. Code that BPF has generated keeps a frame pointer.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from drgn import FaultError, Object, Program

from kernloop.debug.code import Code
from kernloop.debug.registers import PT_REGS, Registers

__all__ = ["Call", "Orc", "Stack"]

# arch/x86/include/asm/orc_types.h
_AX, _DX, _SP, _BP, _DI, _R10, _R13, _PREV_SP, _SP_INDIRECT, _BP_INDIRECT = range(1, 11)
_UNDEFINED, _END, _CALL, _REGS, _REGS_PARTIAL = range(5)
# What 6.12's header called by other numbers, in the order of those.
_FORMER = (0, _PREV_SP, _DX, _DI, _BP, _SP, _R10, _R13, _BP_INDIRECT, _SP_INDIRECT)
_FORMER_SP = 5
# Functions of any kernel: where one begins its frame is the stack pointer's.
_KNOWN = ("schedule", "do_exit", "vfs_read", "do_idle")
_SAVED = {_AX: "rax", _DX: "rdx", _DI: "rdi", _R10: "r10", _R13: "r13"}
_ENTRY = struct.Struct("<hhH")
# struct pt_regs: ip, cs, flags, sp behind the words of PT_REGS and orig_ax; ORC_TYPE_REGS_PARTIAL has these only.
_IRET = 8 * (len(PT_REGS) + 1)
_PAGE = 4096
_MOST_CALLS = 96
_MOST_GUESSES = 96
_LAST = (1 << 64) - 1
# struct inactive_task_frame (arch/x86/include/asm/switch_to.h): bp and the return address are its last words.
_INACTIVE, _INACTIVE_BP = 56, 40
_INACTIVE_SAVED = ("r15", "r14", "r13", "r12", "rbx", "rbp")


@dataclass(frozen=True)
class _Entry:
    sp_offset: int
    bp_offset: int
    sp_reg: int
    bp_reg: int
    type: int
    signal: bool


_NULL_ENTRY = _Entry(8, 0, _SP, 0, _CALL, False)
_FRAME_POINTER = _Entry(16, -16, _BP, _PREV_SP, _CALL, False)


@dataclass(frozen=True)
class Call:
    """One frame. `sp` is the stack pointer in it, `interrupted` whether an interrupt or exception came here;
    `registers` those that such a one saved."""

    ip: int
    sp: int
    name: str
    module: str
    interrupted: bool
    registers: dict[str, int] | None = None

    @property
    def function(self) -> str:
        return self.name.partition("+")[0]

    def __str__(self) -> str:
        return f"{self.name} [{self.module}]" if self.module else self.name


@dataclass(frozen=True)
class Stack:
    """The innermost call first. `whole`: it ends where stacks end; else why it does not is in `why`."""

    calls: tuple[Call, ...]
    whole: bool
    why: str = ""

    @property
    def functions(self) -> tuple[str, ...]:
        return tuple(call.function for call in self.calls)


class Orc:
    """The unwinder of `prog`. Stacks of tasks that run meanwhile can be wrong: `Stack.whole` is False when seen."""

    def __init__(self, prog: Program, code: Code) -> None:
        self._prog = prog
        self._code = code
        self._entries: dict[int, _Entry | None] = {}

    @cached_property
    def known(self) -> bool:
        """Whether the kernel has ORC (CONFIG_UNWINDER_ORC)."""
        return self._table is not None

    def sleeping(self, task: Object) -> Stack:
        """Of a task that is on no CPU."""
        sp = task.thread.sp.value_()
        read = self._reader()
        try:
            words = struct.unpack("<7Q", read(sp, _INACTIVE))
        except FaultError:
            return Stack((), False, "its stack cannot be read")
        saved = dict(zip(_INACTIVE_SAVED, words, strict=False))
        forked = self._code.address("ret_from_fork_asm")
        return self._unwind(words[6], sp + _INACTIVE, words[5], words[6] == forked, saved, read)

    def running(self, registers: Registers) -> Stack:
        """Of a CPU, by what its registers are; that of the kernel it interrupted as well."""
        if registers.user:
            return Stack((), True, "in user space")
        read = self._reader()
        found = self._unwind(registers.ip, registers.sp, registers.bp, True, dict(registers.words), read)
        return found if found.whole or len(found.calls) > 1 else self._guessed(found, registers, read)

    # The registers that kdump saves of the CPU that panicked are those in __crash_kexec(), which has no unwind data
    # (STACK_FRAME_NON_STANDARD in kernel/crash_core.c): who called it is who leads to the stack's end.
    def _guessed(self, found: Stack, registers: Registers, read: Callable[[int, int], bytes]) -> Stack:
        for at in range(registers.sp, registers.sp + 8 * _MOST_GUESSES, 8):
            try:
                ip = _word(read, at)
            except FaultError:
                break
            if self._code.in_image(ip) and (entry := self._find(ip - 1)) and entry.type == _CALL:
                rest = self._unwind(ip, at + 8, registers.bp, False, None, read)
                if rest.whole and len(rest.calls) > 1:
                    return Stack((*found.calls, *rest.calls), False, f"{found.why}; its caller is a guess")
        return found

    # `saved` are the registers at `ip`, as far as they are known.
    def _unwind(
        self, ip: int, sp: int, bp: int, signal: bool, saved: dict[str, int] | None, read: Callable[[int, int], bytes]
    ) -> Stack:
        calls: list[Call] = []
        why = ""
        while len(calls) < _MOST_CALLS:
            calls.append(self._call(ip, sp, signal, saved))
            entry = self._find(ip if signal else (ip - 1) & _LAST)
            if entry is None or entry.type == _UNDEFINED:
                why = f"no unwind data for {calls[-1].name}"
                break
            if entry.type == _END:
                return Stack(tuple(calls), True)
            signal, before = entry.signal, sp
            try:
                base = _base(entry, sp, bp, saved, read)
                if base is None:
                    why = f"{calls[-1].name} keeps its stack in a register that is not known"
                    break
                if entry.type == _CALL:
                    ip, sp, saved = _word(read, base - 8), base, None
                else:
                    ip, cs, _flags, sp = struct.unpack("<4Q", read(base + (_IRET if entry.type == _REGS else 0), 32))
                    full = entry.type == _REGS
                    words = struct.unpack(f"<{len(PT_REGS)}Q", read(base, 8 * len(PT_REGS))) if full else ()
                    saved = dict(zip(PT_REGS, words, strict=True)) if full else saved
                    if cs & 3:
                        return Stack(tuple(calls), True)
                if entry.bp_reg == _PREV_SP:
                    bp = _word(read, base + entry.bp_offset)
                elif entry.bp_reg == _BP:
                    bp = _word(read, bp + entry.bp_offset)
                elif saved is not None:
                    bp = saved.get("rbp", bp)
            except FaultError:
                why = "the stack cannot be read there"
                break
            if entry.type == _CALL and entry.sp_reg in (_SP, _BP) and sp <= before:
                why = "the stack leads backwards"
                break
        return Stack(tuple(calls), False, why or "it is longer")

    def _call(self, ip: int, sp: int, signal: bool, saved: dict[str, int] | None) -> Call:
        name, module = self._code.name(ip, behind=not signal)
        return Call(ip, sp, name, module, signal, dict(saved) if signal and saved else None)

    def _find(self, ip: int) -> _Entry | None:
        if ip not in self._entries:
            self._entries[ip] = self._search(ip)
        return self._entries[ip]

    def _search(self, ip: int) -> _Entry | None:
        if ip == 0:
            return _NULL_ENTRY
        if self._table and self._code.in_image(ip):
            return self._in(*self._table, ip)
        module = self._code.module_at(ip)
        if module is not None:
            arch = module.struct.arch
            count = arch.num_orcs.value_()
            return self._in(arch.orc_unwind_ip.value_(), arch.orc_unwind.value_(), count, ip) if count else None
        return _FRAME_POINTER if self._code.generated(ip) else None

    @cached_property
    def _table(self) -> tuple[int, int, int] | None:
        names = ("__start_orc_unwind_ip", "__start_orc_unwind", "__stop_orc_unwind_ip")
        ips, entries, end = (self._code.address(name) for name in names)
        return (ips, entries, (end - ips) // 4) if ips and entries and end > ips else None

    def _in(self, ips: int, entries: int, count: int, ip: int) -> _Entry | None:
        row = self._row(ips, entries, count, ip)
        if row is None:
            return None
        sp_offset, bp_offset, word = row
        sp_reg, bp_reg = word & 15, word >> 4 & 15
        if self._former and max(sp_reg, bp_reg) < len(_FORMER):
            sp_reg, bp_reg = _FORMER[sp_reg], _FORMER[bp_reg]
        return _Entry(sp_offset, bp_offset, sp_reg, bp_reg, word >> 8 & 7, bool(word >> 11 & 1))

    # __orc_find(): the last that begins at or before `ip`. They are looked at where they lie: the table is large.
    def _row(self, ips: int, entries: int, count: int, ip: int) -> tuple[int, int, int] | None:
        read = self._prog.read
        try:
            first, last = 0, count - 1
            while first < last:
                middle = (first + last + 1) // 2
                at = ips + 4 * middle
                if at + int.from_bytes(read(at, 4), "little", signed=True) <= ip:
                    first = middle
                else:
                    last = middle - 1
            sp_offset, bp_offset, word = _ENTRY.unpack(read(entries + _ENTRY.size * first, _ENTRY.size))
        except FaultError:
            return None
        return sp_offset, bp_offset, word

    # Whether registers have the numbers of 6.12's header: no symbol and no version tells.
    @cached_property
    def _former(self) -> bool:
        begins = [address for name in _KNOWN if (address := self._code.address(name))]
        rows = [self._row(*self._table, address) for address in begins] if self._table else []
        return any(row is not None and (row[0], row[2] & 15) == (8, _FORMER_SP) for row in rows)

    # Reads a page once: faster, and one moment's.
    def _reader(self) -> Callable[[int, int], bytes]:
        pages: dict[int, bytes] = {}

        def read(address: int, size: int) -> bytes:
            data = b""
            while len(data) < size:
                page, into = divmod(address + len(data), _PAGE)
                if not 0 <= page < 1 << 52:
                    raise FaultError("no address", address)
                if page not in pages:
                    pages[page] = self._prog.read(page * _PAGE, _PAGE)
                data += pages[page][into : into + size - len(data)]
            return data

        return read


def _base(
    entry: _Entry, sp: int, bp: int, saved: dict[str, int] | None, read: Callable[[int, int], bytes]
) -> int | None:
    match entry.sp_reg:
        case 3:
            return sp + entry.sp_offset
        case 4:
            return bp + entry.sp_offset
        case 9:
            return _word(read, sp) + entry.sp_offset
        case 10:
            return _word(read, bp + entry.sp_offset)
        case register if register in _SAVED:
            return (saved or {}).get(_SAVED[register])
    return None


def _word(read: Callable[[int, int], bytes], address: int) -> int:
    return int.from_bytes(read(address, 8), "little")
