# SPDX-License-Identifier: Apache-2.0
"""Released schedulers: what is found without building, and what is said when one cannot be built."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kernloop.errors import HarnessError, UsageError
from kernloop.host import progress
from kernloop.host.needs import Distribution, State, rust_needs
from kernloop.host.paths import cache_dir
from kernloop.sched import released
from kernloop.sched.subject import Kind, find


def built(name: str, version: str) -> Path:
    """As `sched get` leaves it."""
    folder = cache_dir() / "released" / f"{name}-{version}"
    (folder / "bin").mkdir(parents=True)
    program = folder / "bin" / name
    program.write_text("#!/bin/sh\n" + version)
    program.chmod(0o755)
    (folder / "manifest.json").write_text(json.dumps({"name": name, "version": version, "program": name}))
    return program


def test_what_was_built_is_found_by_its_name_the_newest_first() -> None:
    assert find_names() == []
    old, new = built("scx_land", "1.9.0"), built("scx_land", "1.10.0")
    built("scx_other", "2.0.0")
    assert find_names() == ["scx_land 1.9.0", "scx_land 1.10.0", "scx_other 2.0.0"]
    assert find("scx_land", None, ("--slice-us", "5")).path == new
    assert (found := find("scx_land@1.9.0")).path == old
    assert found.kind is Kind.PROGRAM
    with pytest.raises(UsageError) as error:
        find("scx_land@3.0.0")
    assert error.value.hint == "a released one is built by: kernloop sched get scx_land@3.0.0"


def find_names() -> list[str]:
    return [f"{one.name} {one.version}" for one in released.listing()]


def test_another_program_of_that_name_in_the_path_is_not_chosen_silently(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = built("scx_land", "1.0.0")
    mine = tmp_path / "bin/scx_land"
    mine.parent.mkdir()
    mine.write_bytes(program.read_bytes())
    mine.chmod(0o755)
    monkeypatch.setenv("PATH", str(mine.parent))
    assert find("scx_land").path == program, "the same bytes are the same scheduler"
    mine.write_text("#!/bin/sh\nother\n")
    with pytest.raises(UsageError) as error:
        find("scx_land")
    assert str(mine) in error.value.hint
    assert "scx_land@1.0.0" in error.value.hint
    assert find("scx_land@1.0.0").path == program


@pytest.mark.parametrize("word", ["", "a b", "scx_land@", "scx_land@new", "../x", "-x", "a@1.0"])
def test_a_word_that_names_no_crate_is_refused_before_anything_is_asked(word: str) -> None:
    with pytest.raises(UsageError):
        released.get(word, seconds=1)


def test_what_rust_schedulers_take_is_named_with_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    lacking = {need.name: need for need in rust_needs(Distribution("Debian", "debian")) if need.state is State.WARN}
    assert lacking["rustc"].cure == "install Rust 1.91 or later: https://rustup.rs"
    assert lacking["pkg-config"].cure.startswith("apt-get install")
    with pytest.raises(HarnessError) as error:
        released.get("scx_land@1.0.0", seconds=1)
    assert "building scx_land takes rustc, gcc, pkg-config" in error.value.message
    assert "rustup.rs" in error.value.hint


def test_cargos_bar_becomes_a_share_of_the_time_and_its_words_stay() -> None:
    told: list[tuple[str, float | None, float | None]] = []
    lines: list[str] = []
    with progress.heard_by(lambda what, done=None, whole=None: told.append((what, done, whole))):
        line = released._told("building scx_land", lines)
        line("    Updating crates.io index")
        line(
            "   Compiling serde v1.0.229\r    Building [=>  ] 50/200: serde, libc(build)...\r\x1b[K"
            "   Compiling libc v0.2"
        )
    assert lines == ["    Updating crates.io index", "   Compiling serde v1.0.229", "   Compiling libc v0.2"]
    [(what, done, whole)] = told
    assert what == "building scx_land: serde"
    assert done is not None
    assert whole is not None
    assert whole == pytest.approx(4 * done)


def test_a_library_that_only_one_scheduler_wants_is_named_with_its_package(tmp_path: Path) -> None:
    lines = ["  = note: rust-lld: error: unable to find library -lseccomp", "error: could not compile `scx_land`"]
    with pytest.raises(HarnessError) as error:
        released._refuse("scx_land", "1.0.0", lines, tmp_path / "log")
    assert "links with libseccomp" in error.value.message
    assert "libseccomp-dev" in error.value.hint
