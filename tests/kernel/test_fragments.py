# SPDX-License-Identifier: Apache-2.0
"""Kconfig fragments as users name and write them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernloop.errors import UsageError
from kernloop.kernel import fragments
from kernloop.kernel.fragments import PROFILES, Asked


@pytest.mark.parametrize("name", sorted(fragments.available()))
def test_a_fragment_of_ours_says_what_it_is_for_and_asks_for_each_symbol_once(name: str) -> None:
    asked = fragments.read(name, "x86_64")
    assert len({a.symbol for a in asked}) == len(asked)
    assert len(fragments.available()[name]) > 20


def test_the_fragments_that_users_expect_are_there() -> None:
    wanted = "base sched_ext bpf debug kgdb pstore watchdog lkdtm lockdep kasan kcsan kunit ftrace panic-on-oops"
    assert set(wanted.split()) <= set(fragments.available())


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_a_profile_names_fragments_that_are_there(profile: str) -> None:
    for name in PROFILES[profile].fragments:
        fragments.read(name, "x86_64")


def test_what_a_pc_needs_is_not_asked_of_another_machine() -> None:
    assert "PVH" in {a.symbol for a in fragments.read("base", "x86_64")}
    assert "PVH" not in {a.symbol for a in fragments.read("base", "arm64")}


def test_an_arm64_guest_would_get_the_console_of_its_machine_and_no_acpi() -> None:
    asked = {a.symbol: a.value for a in fragments.merged([fragments.read("base", "arm64")])}
    assert (asked["SERIAL_AMBA_PL011_CONSOLE"], asked["ACPI"]) == ("y", "n")


def test_the_profile_for_faults_that_hide_asks_for_what_finds_them_and_for_all_of_tiny() -> None:
    names = PROFILES["debug"].fragments
    asked = {a.symbol: a.value for name in names for a in fragments.read(name, "x86_64")}
    for symbol in ("KASAN", "KASAN_VMALLOC", "PROVE_LOCKING", "DEBUG_ATOMIC_SLEEP", "KGDB", "LKDTM", "MODULES"):
        assert asked[symbol] == "y", symbol
    assert set(PROFILES["tiny"].fragments) < set(names)


def test_the_last_word_on_a_symbol_holds() -> None:
    merged = fragments.merged([[Asked("A", "y", "one"), Asked("B", "m", "one")], [Asked("A", "n", "two")]])
    assert fragments.text(merged) == "# CONFIG_A is not set\nCONFIG_B=m\n"


def test_a_users_file_is_a_fragment(tmp_path: Path) -> None:
    file = tmp_path / "mine.config"
    file.write_text("# mine\nCONFIG_KASAN=y\n# CONFIG_NET is not set\nnonsense\n")
    assert [(a.symbol, a.value) for a in fragments.read(str(file), "x86_64")] == [("KASAN", "y"), ("NET", "n")]


def test_a_fragment_that_is_not_there_or_empty_is_refused_with_the_names_there_are(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as error:
        fragments.read("kasna", "x86_64")
    assert "kasan" in error.value.hint
    empty = tmp_path / "empty.config"
    empty.write_text("# nothing\n")
    with pytest.raises(UsageError, match="asks for no symbol"):
        fragments.read(str(empty), "x86_64")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("KASAN=y", ("KASAN", "y")),
        ("CONFIG_NR_CPUS=8", ("NR_CPUS", "8")),
        ("CMDLINE=quiet loglevel=3", ("CMDLINE", '"quiet loglevel=3"')),
        ('LOCALVERSION="-mine"', ("LOCALVERSION", '"-mine"')),
        ("PHYSICAL_START=0x1000000", ("PHYSICAL_START", "0x1000000")),
    ],
)
def test_a_setting_is_written_as_in_a_config(text: str, expected: tuple[str, str]) -> None:
    assert fragments.setting(text) == expected


@pytest.mark.parametrize("text", ["KASAN", "=y", "kasan =y", "KASAN=", ""])
def test_what_is_no_setting_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="sets no symbol"):
        fragments.setting(text)


def test_virtme_ng_is_asked_for_its_own_wishes() -> None:
    wishes = {a.symbol: a.value for a in fragments.virtme()}
    assert wishes["VIRTIO_FS"] == "y"
    assert wishes["NETFILTER"] == "n"


@given(st.text())
def test_any_text_is_read(text: str) -> None:
    for asked in fragments.parse(text, "x"):
        assert fragments.parse(fragments.text([asked]), "x") == [asked] or asked.value == "n"
