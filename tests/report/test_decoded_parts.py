# SPDX-License-Identifier: Apache-2.0
"""The symbolizer's parts without a kernel: Code: lines of three architectures, values, reports as they are printed."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernloop.report.crash import Crash
from kernloop.report.severity import Severity
from kernloop.report.symbols import Images, decode
from kernloop.report.symbols.opcodes import Disassembler, instructions, machine_of, parse_code
from kernloop.report.symbols.origin import full_name
from kernloop.report.symbols.printed import read_trace
from kernloop.report.symbols.values import meaning

CRASH = Crash("null-pointer-dereference", Severity.OOPS, "", "f", "", 0, None, None, 1, 1, (), (), False)
# Of 7.3 kernels in our guests: lkdtm's EXCEPTION and WARNING_MESSAGE.
EXCEPTION = (
    "48 89 df e8 ed 0c ea ff 8b 44 24 18 5a 59 48 83 c4 10 5b c3 b8 f4 ff ff ff eb f3 cc cc cc cc cc cc cc cc cc cc 0f"
    " 1f 44 00 00 <c7> 04 25 00 00 00 00 00 00 00 00 c3 66 66 2e 0f 1f 84 00 00 00 00"
)
WARN = (
    "cc ff 66 66 2e 0f 1f 84 00 00 00 00 00 66 90 0f 1f 44 00 00 8b 05 e9 97 a7 00 8d 70 02 89 35 e0 97 a7 00 48 8d 3d"
    " 95 77 71 00 <67> 48 0f b9 3a c3 66 66 2e 0f 1f 84 00 00 00 00 00 0f 1f 40 00 0f"
)


def shown(words: str, machine: str, offset: int | None = None) -> list[tuple[int, str, bool]]:
    code = parse_code(tuple(words.split()), machine)
    assert code
    return [(i.offset, i.text, i.guilty) for i in instructions(code, Disassembler(machine), offset=offset)]


def test_x86_code_begins_at_a_boundary_with_and_without_the_function_s_offset() -> None:
    known = shown(EXCEPTION, "EM_X86_64", 5)
    assert known[:2] == [(0, "nopl (%rax, %rax)", False), (5, "movl $0, 0", True)]
    guessed = shown(EXCEPTION, "EM_X86_64")
    assert (0, "movl $0, 0", True) in guessed
    # What stands before is shown from where the boundaries are beyond doubt.
    assert (-42 + 14, "addq $0x10, %rsp", False) in guessed
    assert {offset + 42 for offset, _, _ in guessed if offset < -15} <= {0, 3, 8, 12, 13, 14, 18, 19, 20, 25}


def test_a_warning_s_trap_has_its_operands_and_does_not_spoil_what_follows() -> None:
    found = shown(WARN, "EM_X86_64")
    at = found.index((0, "ud1 (%edx), %rdi", True))
    assert found[at + 1][:2] == (5, "retq")


def test_arm64_and_riscv_words_are_turned_into_instructions() -> None:
    arm = shown("d503201f b9400001 aa0003e1 910003fd (b9000020)", "EM_AARCH64", 0x20)
    assert arm[0] == (0x10, "nop", False)
    assert arm[-1] == (0x20, "str w0, [x1]", True)
    riscv = shown("0613 0fd0 b823 00d5 1141 e422 0800 8522 87aa 4501 (b023) 00a7", "EM_RISCV", 0x20)
    assert riscv[-1] == (0x20, "sd a0, 0(a5)", True)


def test_the_architecture_is_that_of_its_registers() -> None:
    assert machine_of({"rax": 0}, ()) == "EM_X86_64"
    assert machine_of({"x29": 0}, ()) == "EM_AARCH64"
    assert machine_of({}, ("0f", "<0b>")) == "EM_X86_64"
    assert machine_of({"rax": 0}, (), "EM_RISCV") == "EM_RISCV"
    assert machine_of({}, ("b9000020",)) == ""


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0xDEAD000000000100, "LIST_POISON1"),
        (0xDEAD000000000122, "LIST_POISON2"),
        (0xDEAD000000000130, "LIST_POISON1 +0x30 or LIST_POISON2 +0xe"),
        (0xDEAD0000000000E0, "LIST_POISON1 -0x20 or LIST_POISON2 -0x42"),
        (0x6B6B6B6B6B6B6B6B, "POISON_FREE"),
        (0xA56B6B6B6B6B6B6B, "last word of a freed slab object"),
        (0x5A5A5A5A5A5A5A5A, "POISON_INUSE"),
        (0xCCCCCCCCCCCCCCCC, "POISON_FREE_INITMEM"),
        (0xFFFFFFFFFFFFFFF4, "-ENOMEM"),
        (0xFFFFFFFFFFFFFDFB, "-EPROBE_DEFER"),
        (0xDFFFFC0000000000, "KASAN_SHADOW_OFFSET"),
        (0x1234567812345678, "no canonical address"),
        (0x00007F0012345678, "user space"),
        (0x6361626C6C61636B, "the text 'kcallbac'"),
    ],
)
def test_values_that_the_kernel_uses_on_purpose_are_named(value: int, words: str) -> None:
    assert words in meaning(value)


@pytest.mark.parametrize("value", [0, 0x18, 0xFFFF888002500000, 0xFFFFFFFF81000000, 0xFFFFC90000013E20])
def test_ordinary_values_and_small_ones_are_not_explained(value: int) -> None:
    assert meaning(value) == ""


def test_registers_and_code_are_the_kernel_s_not_user_space_s() -> None:
    found = read_trace(
        [
            "RIP: 0010:f+0x5/0x20 [mod]",
            "Code: 90 90 <c7> 04",
            "RSP: 0018:ffff8880027a7df8 EFLAGS: 00010286",
            "RAX: ffffffff813f74a0 RBX: ffff88800282b000 RCX: 0000000000000027",
            "Call Trace:",
            " <TASK>",
            " ? stale+0x1/0x2",
            " caller+0x15/0x20",
            "RIP: 0033:0x4ae3f7",
            "Code: 48 89 fa <5b> c3",
            "RAX: ffffffffffffffda RBX: 000000001a35a440 RCX: 00000000004ae3f7",
        ]
    )
    assert found.pointer and (found.pointer.function, found.pointer.offset, found.pointer.module) == ("f", 5, "mod")
    assert found.code == ("90", "90", "<c7>", "04")
    assert (found.registers["rax"], found.registers["rsp"]) == (0xFFFFFFFF813F74A0, 0xFFFF8880027A7DF8)
    assert [(f.function, f.reliable, f.exact) for f in found.frames] == [
        ("f", True, True),
        ("stale", False, False),
        ("caller", True, False),
    ]


def test_arm64_s_pointer_is_one_frame_and_saved_registers_mark_exact_ones() -> None:
    found = read_trace(
        [
            "Unable to handle kernel NULL pointer dereference at virtual address 0000000000000018",
            "pc : f+0x8/0x20",
            "lr : g+0x10/0x40",
            "x29: ffff80008000bd90 x28: ffff000002a40000 x27: 0000000000000000",
            "Call trace:",
            " f+0x8/0x20 (P)",
            " g+0x10/0x40 (L)",
            " el1h_64_irq+0x6c/0x70 [mod 0123456789abcdef0123456789abcdef01234567]",
            " idle+0x4/0x8 (P)",
        ]
    )
    assert found.fault == 0x18
    assert [(f.function, f.exact) for f in found.frames] == [
        ("f", True),
        ("g", False),
        ("el1h_64_irq", False),
        ("idle", True),
    ]
    assert found.modules == {"mod": "0123456789abcdef0123456789abcdef01234567"}


def test_the_null_register_is_told_without_a_vmlinux() -> None:
    lines = [
        "BUG: kernel NULL pointer dereference, address: 00000000000005a8",
        "RIP: 0010:f+0x7/0x20",
        "Code: 48 8b 87 48 04 00 00 <48> 8b 80 a8 05 00 00 c3",
        "RAX: 0000000000000000 RBX: ffff88800282b000 RCX: 0000000000000027",
    ]
    note = decode(CRASH, lines, Images([])).notes[0]
    assert (note.subject, note.value) == ("rax", 0)
    assert "is NULL; the instruction accesses 0x5a8 bytes behind it" in note.text


def test_of_an_error_in_a_pointer_the_address_alone_does_not_tell_which() -> None:
    note = decode(CRASH, ["BUG: unable to handle page fault for address: fffffffffffffffc"], Images([])).notes[0]
    assert not note.certain
    assert "ENOMEM" not in note.text
    assert "plus a member's offset" in note.text


def test_the_whole_name_of_each_part_of_a_register() -> None:
    assert [full_name(name) for name in ("eax", "al", "ah", "r8d", "r15b", "sil", "ebp", "spl", "rip")] == [
        *("rax", "rax", "rax", "r8", "r15", "rsi", "rbp", "rsp", "rip")
    ]


PIECES = st.sampled_from(
    [
        "RIP: 0010:f+0x5/0x20",
        "Code: 90 90 <c7> 04",
        "Code: ",
        "(b9000020)",
        "RAX: ffffffff813f74a0",
        " f+0x0/0x0 [m]",
        "Kernel Offset: 0x1",
        "KASAN: null-ptr-deref in range [0x0000000000000018-0x000000000000001f]",
        "address: 0000000000000000",
        "Unable to handle kernel",
        "[<ffffffff81000000>] ",
        "?",
        " ",
        "\x00",
        "Tainted: G  6.1 #1",
    ]
)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.one_of(PIECES, st.text(max_size=20)), max_size=6).map("".join), max_size=12))
def test_no_text_is_an_error(lines: list[str]) -> None:
    decode(CRASH, lines, Images([]))


@pytest.mark.parametrize(
    "line",
    [
        "Code: " + "a" * 100_000,
        "Code: " + "aa " * 30_000 + "!",
        "Tainted: " + " " * 100_000,
        "RIP: 0010:" + "f" * 100_000,
        "BUG: KASAN: " + " in " * 30_000,
        "Unable to handle " + "at " * 30_000,
        " f+0x1/0x2 [" + "m" * 100_000,
        "RAX: " * 30_000,
    ],
)
def test_no_line_takes_long(line: str) -> None:
    begun = time.process_time()
    decode(CRASH, [line] * 20, Images([]))
    assert time.process_time() - begun < 2


def test_what_x86_prints_behind_the_end_of_a_trace_is_of_the_first_oops_and_no_frame() -> None:
    found = read_trace(
        [
            "BUG: unable to handle page fault for address: ffff8880028cd000",
            "RIP: 0010:second+0x5/0x20",
            "Call Trace:",
            " caller+0x15/0x20",
            "---[ end trace 0000000000000000 ]---",
            "RIP: 0010:first+0x1/0x10",
            "RAX: 0000000000000001 RBX: 0000000000000002 RCX: 0000000000000003",
            "Kernel Offset: 0x2600000 from 0xffffffff81000000 (relocation range: 0x0-0x1)",
        ]
    )
    assert [frame.function for frame in found.frames] == ["second", "caller"]
    assert found.registers == {}
    assert found.shift == 0x2600000


def test_a_corrupted_stack_s_function_is_a_frame() -> None:
    line = "Kernel panic - not syncing: stack-protector: Kernel stack is corrupted in: lkdtm_CORRUPT_STACK+0x45/0x50"
    (frame,) = read_trace([line]).frames
    assert (frame.function, frame.offset, frame.exact) == ("lkdtm_CORRUPT_STACK", 0x45, False)
