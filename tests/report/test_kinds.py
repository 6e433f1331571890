# SPDX-License-Identifier: Apache-2.0
"""Every kind of crash by an example: kind, title, guilty function, and whether the report is whole."""

from __future__ import annotations

import pytest

from crashes import CPU, EXAMPLES, PANIC, RIP, STACK, TOOL, TRAP, G
from kernloop.report.crash import Crash
from kernloop.report.engine import parse_console
from kernloop.report.oops_table import ROWS
from kernloop.report.titles import clean_title


def parse(header: str, body: list[str]) -> Crash:
    lines = [f"[    7.123456][   T42] {line}" for line in [header, *body, "---[ end trace 0000000000000000 ]---"]]
    (crash,) = parse_console(lines)
    return crash


@pytest.mark.parametrize(("header", "body", "kind", "title", "function"), EXAMPLES, ids=[e[0][:60] for e in EXAMPLES])
def test_a_report_has_its_kind_title_and_guilty_function(
    header: str, body: list[str], kind: str, title: str | None, function: str | None
) -> None:
    crash = parse(header, body)
    assert (crash.kind, crash.function) == (kind, function)
    assert title is None or crash.title == title
    assert crash.family
    damaged = kind in ("slub", "kfence-unknown")
    assert damaged or not crash.corrupted


def test_every_kind_of_the_table_has_an_example() -> None:
    shown = {kind for _, _, kind, _, _ in EXAMPLES} | {"unexpected-reboot"}
    assert {row.kind for row in ROWS if not row.refine} <= shown


def test_a_reboot_is_one_only_in_the_middle_of_a_log() -> None:
    boot = ["Booting the kernel.", "[    0.000000] Linux version 7.3.4"]
    assert parse_console(boot) == ()
    (crash,) = parse_console([*boot, *boot])
    assert (crash.kind, crash.start_line) == ("unexpected-reboot", 3)


def test_a_header_without_its_body_says_so() -> None:
    crash = parse("WARNING: possible circular locking dependency detected", STACK)
    assert (crash.kind, crash.function) == ("warning", None)
    assert "below" in crash.corrupted


@pytest.mark.parametrize(
    "body",
    [
        [],
        [CPU],
        [*RIP[:1]],
        ["Call Trace:", "Modules linked in:", "random text", "more of it"],
        ["Call Trace:", " should_fail+0x1/0x2", *STACK[2:]],
    ],
)
def test_a_fault_without_a_sound_trace_is_corrupted(body: list[str]) -> None:
    assert parse("BUG: unable to handle page fault for address: ffffc90000000000", body).corrupted


def test_a_use_of_what_was_never_set_is_cut_without_its_origin() -> None:
    header = "BUG: KMSAN: uninit-value in kl_guilty+0x1/0x2"
    local = ["Local variable buf.i created at:", " kl_maker+0x1/0x20"]
    assert not parse(header, [*STACK[2:], *local]).corrupted
    cut = parse(header, STACK[2:])
    assert cut.corrupted and cut.function == G


def test_a_panic_behind_the_end_of_a_lost_report_on_one_line_is_found() -> None:
    line = "[    7.1] ---[ end trace 0000000000000000 ]---[    7.2] Kernel panic - not syncing: Fatal exception"
    (crash,) = parse_console([line])
    assert crash.panicked and crash.corrupted


def test_a_fingerprint_stays_the_same_over_rebuilds_and_runs() -> None:
    header = "BUG: KASAN: slab-use-after-free in memcpy+0x1/0x2"
    one = parse(header, ["Read of size 8 at addr ffff888000000000 by task kl/42", CPU, *TOOL])
    moved = [line.replace("0x12/0x40", "0x2f/0x77") for line in TOOL]
    two = parse(
        header.replace("0x1/0x2", "0x9/0xa"), ["Read of size 4 at addr ffff888777777777 by task x/9", CPU, *moved]
    )
    other = parse(header, ["Write of size 8 at addr ffff888000000000 by task kl/42", CPU, *TOOL])
    assert one.fingerprint == two.fingerprint != other.fingerprint
    assert one.title == two.title


@pytest.mark.parametrize(
    ("pc", "frame", "heading"),
    [
        (
            "RIP: 0010:[<ffffffff81000000>]  [<ffffffff81000000>] kl_guilty+0x1/0x2",
            " [<ffffffff81000000>] kl_caller+0x1/0x2",
            "Call Trace:",
        ),
        ("pc : kl_guilty+0x1/0x2", " kl_caller+0x1/0x2", "Call trace:"),
        ("PC is at kl_guilty+0x1/0x2", "[<80100000>] (kl_guilty) from [<80100008>] (kl_caller+0x1/0x2)", "Backtrace: "),
        (
            "NIP [c000000000001000] kl_guilty+0x1/0x2",
            "[c000000000002000] [c000000000001000] kl_caller+0x1/0x2 (unreliable)",
            "Call Trace:",
        ),
        ("epc : kl_guilty+0x1/0x2", "[<ffffffff80001000>] kl_caller+0x1/0x2", "Call Trace:"),
        (
            "Krnl PSW : 0704c00180000000 000000000010a000 (kl_guilty+0x1/0x2)",
            " [<000000000010a000>] kl_caller+0x1/0x2",
            "Call Trace:",
        ),
        ("EIP: kl_guilty+0x1/0x2", " kl_caller+0x1/0x2", "Call Trace:"),
    ],
)
def test_other_architectures_name_the_guilty_function_as_well(pc: str, frame: str, heading: str) -> None:
    crash = parse("Unable to handle kernel paging request at virtual address 0000dead", [CPU, pc, heading, frame])
    assert (crash.kind, crash.function) == ("paging-request", G)


def test_powerpc_names_it_below_its_row_of_registers() -> None:
    body = [
        CPU,
        "NIP:  c000000000a5f2b0 LR: c000000000a5f1a8 CTR: c000000000a5f000",
        "NIP [c000000000a5f2b0] kl_guilty+0x12/0x40",
        "Call Trace:",
        "[c000000003bd7b50] [c000000000a5f1a8] kl_caller+0x14/0x40 (unreliable)",
        "[c000000003bd7b90] [c000000000a5f0a8] kl_outer+0x14/0x40",
    ]
    assert parse("BUG: Kernel NULL pointer dereference on read at 0x00000008", body).function == G


def test_two_tasks_that_die_at_once_are_two_reports() -> None:
    one = [f"[    7.1][   T42] {line}" for line in ("BUG: kernel NULL pointer dereference, address: 8", *TRAP)]
    two = [
        f"[    7.1][   T43] {line}".replace("kl_guilty", "kl_other") for line in ("kernel BUG at lib/kl.c:7!", *TRAP)
    ]
    mixed = [line for pair in zip(one, two, strict=True) for line in pair]
    first, second = parse_console(mixed)
    assert (first.kind, first.function) == ("null-pointer-dereference", G)
    assert (second.kind, second.function) == ("kernel-bug", "kl_other")


def test_a_title_is_free_of_what_changes() -> None:
    text = "BUG: a\tthing at ffff888012345678 in kl+0x1/0x2 CPU#3 lib/kl.c:12:3 10.0.0.1 took 120 s\x00"
    assert clean_title(text) == "BUG: a thing at ADDR in kl CPU lib/kl.c:LINE IP took NUM s"


def test_a_header_that_printk_says_again_counts_once() -> None:
    header = "[    7.1] kernel BUG at lib/kl.c:7!"
    (crash,) = parse_console([header, "[    7.1] ** replaying previous printk message **", header, *TRAP])
    assert crash.start_line == 3


def test_a_console_that_is_cut_off_says_so() -> None:
    lines = [f"[    7.1] {line}" for line in ("kernel BUG at lib/kl.c:7!", *TRAP)]
    (crash,) = parse_console([*lines, "serialport: VM disconnected."])
    assert "cut off" in crash.corrupted


def test_a_file_system_may_panic_in_words_that_are_harmless_elsewhere() -> None:
    (crash,) = parse_console([f"{PANIC}EXT4-fs (device vda): panic forced after error", *STACK])
    assert crash.kind == "kernel-panic"
    assert parse_console(["[    7.1] EXT4-fs (vda): WARNING: mounting unchecked fs"]) == ()
