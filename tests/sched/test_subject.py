# SPDX-License-Identifier: Apache-2.0
"""What the words after `verify` mean, and what is said of those that cannot be right."""

from __future__ import annotations

from pathlib import Path

import pytest

from images import elf
from kernloop.errors import UsageError
from kernloop.sched import embedded, project_copy
from kernloop.sched.project_cargo import _diagnostic
from kernloop.sched.subject import Kind, find

FIFO = Path(__file__).parents[2] / "examples/schedulers/fifo.bpf.c"
_EM_AARCH64 = 183


def script(path: Path, first: str) -> Path:
    path.write_text(f"{first}\nexit 0\n")
    path.chmod(0o755)
    return path


def program(path: Path, machine: int = 62) -> Path:
    data = bytearray(elf({}, kind=2))
    data[18:20] = machine.to_bytes(2, "little")
    path.write_bytes(data)
    path.chmod(0o755)
    return path


def test_each_kind_of_scheduler_is_known_by_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "Makefile").touch()
    loader = program(tmp_path / "scx_land")
    assert find(str(FIFO)).kind is Kind.SOURCE
    assert find("kernel:scx_qmap", None, ("-e", "1")).kind is Kind.KERNEL
    assert find(str(loader), None, ("--slice-us", "5000")).args == ("--slice-us", "5000")
    assert find(str(loader)).kind is Kind.PROGRAM
    assert find("-v", str(loader), ("-x",)).args == ("-v", "-x")
    assert find(str(script(tmp_path / "start", "#!/bin/sh"))).kind is Kind.PROGRAM
    folder = find(str(tmp_path), None, ("-s",), "scx_a")
    assert (folder.kind, folder.path, folder.target) == (Kind.BUILD, tmp_path / "Makefile", "scx_a")
    assert find(str(tmp_path / "Makefile")).kind is Kind.BUILD
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find("scx_land").path == loader, "an installed program is found by its name"


def test_what_cannot_be_verified_says_why_and_what_to_do(tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    both = tmp_path / "both"
    both.mkdir()
    (both / "Makefile").touch()
    (both / "Cargo.toml").touch()
    damaged = tmp_path / "damaged"
    damaged.write_bytes(b"\x7fELF")
    damaged.chmod(0o755)
    plain = tmp_path / "plain"
    plain.write_bytes(b"hello\n")
    plain.chmod(0o755)
    for words, said, step in [
        ((str(bare),), "without a Makefile, meson.build or Cargo.toml", "give"),
        ((str(both),), "can be built in 2 ways: Cargo.toml, Makefile", f"kernloop verify {both}/Makefile"),
        ((str(program(tmp_path / "arm", _EM_AARCH64)),), "a program for AARCH64, guests are x86-64", ".bpf.o"),
        ((str(script(tmp_path / "py", "#!/usr/bin/python3")),), "a script for /usr/bin/python3", "#!/bin/sh"),
        ((str(damaged),), "a damaged ELF file", "build it again"),
        (("-v", str(plain)), "neither an ELF program nor a script", "#!/bin/sh"),
        ((str(FIFO), None, ("-x",)), "only a scheduler's own loader takes arguments", "verify BINARY"),
        ((str(FIFO), None, (), "scx_a"), "--target scx_a is for a folder", "leave it out"),
        (("scx_nosuch",), "scx_nosuch is not there", ""),
        ((None,), "give either a scheduler", "fifo.bpf.c"),
    ]:
        with pytest.raises(UsageError) as error:
            find(*words)  # type: ignore[arg-type]
        assert said in error.value.message
        assert step in error.value.hint
    (bare / "a.bpf.c").touch()
    with pytest.raises(UsageError) as error:
        find(str(bare))
    assert error.value.hint == f"give a file: kernloop verify {bare}/a.bpf.c"


def test_a_copy_for_make_follows_edits_and_keeps_what_was_built(tmp_path: Path) -> None:
    source, place = tmp_path / "source", tmp_path / "place"
    (source / "sub").mkdir(parents=True)
    (source / "a.c").write_text("1")
    (source / "sub/b.h").write_text("2")
    place.mkdir()
    copy = project_copy.refreshed(source, place / "tree")
    (copy / "a.o").write_text("built")
    kept = (copy / "a.c").stat().st_ino
    (source / "sub/b.h").unlink()
    (source / "new.c").write_text("3")
    assert project_copy.refreshed(source, place / "tree") == copy
    assert sorted(path.name for path in copy.rglob("*") if path.is_file()) == ["a.c", "a.o", "new.c"]
    assert (copy / "a.c").stat().st_ino == kept, "what is the same is not copied again"
    (source / "a.c").write_text("4")
    project_copy.refreshed(source, place / "tree")
    assert (copy / "a.c").read_text() == "4"


def test_a_program_without_an_object_inside_has_no_scheduler(tmp_path: Path) -> None:
    assert embedded.objects(program(tmp_path / "p")) == []
    (tmp_path / "odd").write_bytes(b"x" + b"\x7fELF\x02\x01\x01" * 40)
    assert embedded.objects(tmp_path / "odd") == []
    assert embedded.objects(tmp_path / "nosuch") == []
    assert not embedded.is_scheduler(b"\x7fELF")


def test_rustcs_complaint_keeps_its_place() -> None:
    found = _diagnostic(
        {"message": "cannot find function `writ`", "level": "error",
         "spans": [{"is_primary": False, "file_name": "x.rs", "line_start": 1, "column_start": 1},
                   {"is_primary": True, "file_name": "src/main.rs", "line_start": 18, "column_start": 14,
                    "text": [{"text": "    std::fs::writ(1)"}]}]}
    )  # fmt: skip
    assert (found.file, found.line, found.column, found.source) == ("src/main.rs", 18, 14, "std::fs::writ(1)")
    assert _diagnostic({"message": "no place", "spans": []}).line == 0
