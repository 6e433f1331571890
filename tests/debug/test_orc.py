# SPDX-License-Identifier: Apache-2.0
"""Stacks by ORC tables in a memory of our own making, and registers by what QEMU's monitor and its dumps say."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from drgn import Architecture, Platform, Program, Symbol, SymbolBinding, SymbolKind

from kernloop.debug.code import Code
from kernloop.debug.orc import Orc
from kernloop.debug.registers import PT_REGS, Registers, of_monitor, of_vmcore

TEXT, TABLE, ENTRIES, STACK = 0xFFFFFFFF81000000, 0xFFFFFFFF82000000, 0xFFFFFFFF82100000, 0xFFFFC90000000000
SP, BP, PREV_SP = 3, 4, 8
END, CALL, REGS = 1, 2, 3
# Where each begins: offset, sp register and offset, bp register and offset, type.
FUNCTIONS = (
    ("leaf", 0x000, SP, 24, 0, 0, CALL),
    ("frame", 0x100, BP, 16, PREV_SP, -16, CALL),
    ("entry", 0x200, SP, 0, 0, 0, REGS),
    ("outer", 0x300, SP, 8, 0, 0, CALL),
    ("last", 0x400, 0, 0, 0, 0, END),
    ("schedule", 0x500, SP, 8, 0, 0, CALL),
    ("bare", 0x600, 0, 0, 0, 0, 0),
)
# 6.12 numbers registers otherwise (arch/x86/include/asm/orc_types.h).
FORMER = {SP: 5, BP: 4, PREV_SP: 1, 0: 0}
SYMBOLS = {
    "_stext": TEXT,
    "_etext": TEXT + 0x1000,
    "__start_orc_unwind_ip": TABLE,
    "__stop_orc_unwind_ip": TABLE + 4 * len(FUNCTIONS),
    "__start_orc_unwind": ENTRIES,
    **{name: TEXT + at for name, at, *_ in FUNCTIONS},
}
MONITOR = """CPU#0

CPU#1
RAX=0000000000000001 RBX=ffff888003a1c000 RCX=0000000000000000 RDX=0000000000000000
RSI=0000000000000000 RDI=ffffffff82a01234 RBP=ffff888003a1c000 RSP=ffffc9000009be00
R8 =0000000000000000 R9 =0000000000000009 R10=000000000000000a R11=0000000000000000
R12=0000000000000000 R13=0000000000000000 R14=0000000000000000 R15=0000000000000000
RIP=ffffffff81f0f0f0 RFL=00000046 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT=1
ES =0000 0000000000000000 ffffffff 00c00000
"""


def program(stack: Sequence[int], *, former: bool = False) -> Program:
    prog = Program(Platform(Architecture.X86_64))
    number = FORMER.__getitem__ if former else int
    ips = b"".join(struct.pack("<i", TEXT + at - (TABLE + 4 * n)) for n, (_, at, *_) in enumerate(FUNCTIONS))
    rows = b"".join(
        struct.pack("<hhH", offset, bp_offset, number(sp) | number(bp) << 4 | kind << 8 | (kind == REGS) << 11)
        for _, _, sp, offset, bp, bp_offset, kind in FUNCTIONS
    )
    words = struct.pack(f"<{len(stack)}Q", *stack)
    for begin, data in ((TABLE, ips), (ENTRIES, rows), (STACK, words)):
        filled = data.ljust(8192, b"\0")
        prog.add_memory_segment(
            begin, len(filled), lambda _a, count, at, _p, filled=filled: filled[at : at + count], False
        )
    prog.register_symbol_finder("made", symbols, enable_index=0)
    return prog


def symbols(prog: Program, name: str | None, address: int | None, one: bool) -> list[Symbol]:
    found = [
        Symbol(each, at, 0x100, SymbolBinding.GLOBAL, SymbolKind.FUNC)
        for each, at in SYMBOLS.items()
        if name in (None, each) and (address is None or (each[0] != "_" and at <= address < at + 0x100))
    ]
    return found[:1] if one else found


def registers(ip: int, sp: int, bp: int = 0) -> Registers:
    return Registers(0, {"rip": ip, "rsp": sp, "rbp": bp}, 0, False)


def orc(stack: Sequence[int], *, former: bool = False) -> Orc:
    prog = program(stack, former=former)
    return Orc(prog, Code(prog))


@pytest.mark.parametrize("former", [False, True])
def test_a_stack_goes_from_the_leaf_through_a_frame_pointer_to_the_last_function(former: bool) -> None:
    stack = [0, 0, TEXT + 0x120, 0xBEEF, 0xBEEF, 0, TEXT + 0x405]
    found = orc(stack, former=former).running(registers(TEXT + 0x10, STACK, STACK + 40))
    assert [call.name for call in found.calls] == ["leaf+0x10", "frame+0x20", "last+0x5"]
    assert found.whole


def test_an_interrupt_is_gone_through_by_the_registers_it_saved() -> None:
    saved = [7] * (len(PT_REGS) + 1)
    stack = [*saved, TEXT + 0x310, 0x10, 0x202, STACK + 0x800, 0x18]
    stack += [0] * (0x100 - len(stack)) + [TEXT + 0x401]
    found = orc(stack).running(registers(TEXT + 0x200, STACK))
    assert [call.name for call in found.calls] == ["entry+0x0", "outer+0x10", "last+0x1"]
    assert found.whole and found.calls[0].interrupted and found.calls[1].registers is not None


def test_registers_of_user_space_end_the_stack() -> None:
    stack = [*[7] * (len(PT_REGS) + 1), 0x401000, 0x33, 0x202, 0x7FFF0000, 0x2B]
    found = orc(stack).running(registers(TEXT + 0x200, STACK))
    assert [call.name for call in found.calls] == ["entry+0x0"] and found.whole


def test_a_return_address_of_nothing_ends_it_and_it_says_so() -> None:
    found = orc([0, 0, 0x1234567890]).running(registers(TEXT + 0x10, STACK))
    assert not found.whole and "no unwind data for 0x1234567890" in found.why


def test_a_return_address_of_zero_ends_it_but_a_call_of_null_is_gone_through() -> None:
    found = orc([0, 0, 0]).running(registers(TEXT + 0x10, STACK))
    assert [call.name for call in found.calls] == ["leaf+0x10", "0x0"] and not found.whole
    found = orc([TEXT + 0x405]).running(registers(0, STACK))
    assert [call.name for call in found.calls] == ["0x0", "last+0x5"] and found.whole


def test_who_called_a_function_without_unwind_data_is_guessed_and_said_to_be() -> None:
    found = orc([1, TEXT + 0x610, TEXT + 0x120, 0, TEXT + 0x305, TEXT + 0x405]).running(registers(TEXT + 0x620, STACK))
    assert [call.name for call in found.calls] == ["bare+0x20", "outer+0x5", "last+0x5"]
    assert not found.whole and "a guess" in found.why


def test_a_stack_that_cannot_be_read_says_so() -> None:
    found = orc([]).running(registers(TEXT + 0x10, 0x1000))
    assert (found.whole, found.why) == (False, "the stack cannot be read there")


def test_no_stack_is_endless() -> None:
    found = orc([TEXT + 0x305] * 900).running(registers(TEXT + 0x300, STACK))
    assert not found.whole and len(found.calls) <= 100


def test_the_monitors_registers_have_names_flags_and_what_the_cpu_does() -> None:
    empty, one = of_monitor(MONITOR)
    assert (empty.cpu, empty.ip) == (0, 0)
    assert (one.cpu, one.ip, one.sp, one.words["rdi"]) == (
        1,
        0xFFFFFFFF81F0F0F0,
        0xFFFFC9000009BE00,
        0xFFFFFFFF82A01234,
    )
    assert (one.words["r8"], one.words["r9"], one.words["r10"]) == (0, 9, 10)
    assert (one.interrupts, one.halted, one.user) == (False, True, False)
    assert replace(one, flags=0x246).interrupts


def test_a_kdump_has_the_registers_of_each_cpu_in_its_notes(tmp_path: Path) -> None:
    def note(ip: int, cs: int) -> bytes:
        words = [*range(15), 0, ip, cs, 0x202, STACK, 0x18]
        data = struct.pack("<32xi76x", 40 + (cs & 3)) + struct.pack("<21Q", *words) + bytes(56)
        return struct.pack("<III", 5, len(data), 1) + b"CORE\0\0\0\0" + data

    notes = note(TEXT, 0x10) + note(0x401000, 0x33)
    head = bytearray(2 * 4096)
    head[:8] = b"KDUMP   "
    struct.pack_into("<i", head, 428, 4096)
    struct.pack_into("<QQ", head, 4096 + 48, len(head), len(notes))
    (tmp_path / "core").write_bytes(bytes(head) + notes)
    first, second = of_vmcore(tmp_path / "core")
    assert (first.cpu, first.ip, first.user, first.interrupts, first.words["rdi"]) == (0, TEXT, False, True, 14)
    assert (second.cpu, second.ip, second.user) == (1, 0x401000, True)
    assert (first.pid, second.pid) == (40, 43)


def test_what_is_no_dump_has_no_registers(tmp_path: Path) -> None:
    for data in (b"", b"KDUMP   ", b"KDUMP   " + bytes(500), b"\x7fELF", b"hello"):
        (tmp_path / "core").write_bytes(data)
        assert of_vmcore(tmp_path / "core") == ()
