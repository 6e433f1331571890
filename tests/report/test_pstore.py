# SPDX-License-Identifier: Apache-2.0
"""Records of pstore, from stores that real guests left: all of them found, told apart, and nothing lost twice."""

from __future__ import annotations

import lzma
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernloop.report.pstore import Layout, dumps, erst_count, layout_of, lost, plain, read_erst, read_ramoops

STORES = Path(__file__).parent.parent / "fixtures/pstore"
# echo c > /proc/sysrq-trigger in debian:7.3.4, printk's level at 0.
ERST = lzma.decompress((STORES / "erst-panic-7.3.4-debian.xz").read_bytes())
# lkdtm: EXCEPTION, then PANIC; before that a line to /dev/pmsg0. 7.3.4 with the fragments pstore and lkdtm.
RAMOOPS = lzma.decompress((STORES / "ramoops-lkdtm-7.3.4.xz").read_bytes())
LAYOUT = Layout(0x1FC04000, 1 << 20, 0x8000, 0x8000, 0x1000, 0x1000, 16)
PANIC = "[    3.871211] Kernel panic - not syncing: sysrq triggered crash"


def test_the_pieces_of_a_log_in_erst_are_one_log_from_the_boot_to_the_panic() -> None:
    pieces = read_erst(ERST)
    assert [(piece.why, piece.count, piece.part) for piece in pieces] == [("Panic", 1, part) for part in (1, 2, 3)]
    assert erst_count(ERST) == 3
    [log] = dumps(pieces)
    lines = plain(log.text).splitlines()
    assert (log.name, log.why) == ("dmesg-erst", "Panic")
    assert "Linux version 7.3.4+deb13-cloud-amd64" in lines[0]
    assert any("Kernel panic - not syncing: sysrq triggered crash" in line for line in lines)
    assert log.time > 1.7e9


def test_a_crash_that_the_console_does_not_show_is_lost_and_one_that_it_shows_is_not() -> None:
    text = plain(dumps(read_erst(ERST))[0].text)
    [(name, crash)] = lost(["[    1.000000] fine"], {"dmesg-erst-1": text})
    assert (name, crash.function) == ("dmesg-erst-1", "sysrq_handle_crash")
    header = next(line for line in text.splitlines() if "Kernel panic - not syncing" in line)
    assert lost([header], {"dmesg-erst-1": text}) == []
    assert lost([header.replace("] ", "][   T93] ", 1) + "\r"], {"dmesg-erst-1": text}) == []
    assert lost([header.replace("[    ", "[   9")], {"dmesg-erst-1": text}) != []


def test_ramoops_has_each_crash_the_console_and_what_programs_wrote() -> None:
    found = dumps(read_ramoops(RAMOOPS, LAYOUT))
    assert [record.name for record in found] == ["dmesg-ramoops", "dmesg-ramoops", "console-ramoops", "pmsg-ramoops"]
    assert [(record.why, record.count) for record in found[:2]] == [("Oops", 1), ("Panic", 2)]
    assert "Run /init as init process" in found[2].text
    assert "NULL pointer" not in found[2].text
    assert found[3].text == "from a program\n"


def test_an_oops_that_a_later_log_holds_again_is_one_crash() -> None:
    logs = dumps(read_ramoops(RAMOOPS, LAYOUT))[:2]
    texts = {str(number): plain(record.text) for number, record in enumerate(logs)}
    assert [crash.function for _, crash in lost([], texts)].count("lkdtm_EXCEPTION") == 1


@pytest.mark.parametrize(
    ("words", "console", "layout"),
    [
        ("quiet", (), None),
        ("ramoops.mem_address=0x1f000000 ramoops.mem_size=1M", (), Layout(0x1F000000, 1 << 20)),
        (
            "ramoops.mem_address=520093696 ramoops.mem_size=0x10000 ramoops.record_size=5000 ramoops.ecc=1",
            (),
            Layout(520093696, 0x10000, 4096, ecc=16),
        ),
        ("ramoops.mem_name=oops", (), None),
        (
            "ramoops.mem_name=oops ramoops.record_size=0x8000 ramoops.console_size=0x8000 ramoops.ecc=1",
            ("[    0.712719] ramoops: using 0x100000@0x1fc04000, ecc: 16",),
            Layout(0x1FC04000, 1 << 20, 0x8000, 0x8000, ecc=16),
        ),
        ("ramoops.mem_address=none ramoops.mem_size=1M", (), None),
    ],
)
def test_ramoops_lies_where_the_kernels_words_or_the_kernel_itself_say(
    words: str, console: tuple[str, ...], layout: Layout | None
) -> None:
    assert layout_of(words.split(), console) == layout


@given(at=st.integers(0, 32 << 10), junk=st.binary(min_size=1, max_size=64), length=st.integers(0, 64 << 10))
def test_a_damaged_store_gives_what_is_left_and_never_raises(at: int, junk: bytes, length: int) -> None:
    for whole in (ERST, RAMOOPS):
        spoilt = (whole[:at] + junk + whole[at + len(junk) :])[:length]
        for record in dumps([*read_erst(spoilt), *read_ramoops(spoilt, LAYOUT)]):
            lost([], {"": plain(record.text)})
