# SPDX-License-Identifier: Apache-2.0
"""initramfs archives, read back by a parser written from the format's document alone."""

from __future__ import annotations

import stat
from pathlib import PurePosixPath

from hypothesis import given
from hypothesis import strategies as st

from archives import members
from kernloop.vm import cpio

NAMES = st.text("abcde-_.", min_size=1, max_size=5).filter(lambda name: name not in (".", ".."))
FILES = st.dictionaries(NAMES, st.binary(max_size=40), max_size=8)


def test_an_archive_holds_what_was_put_in_with_types_and_modes() -> None:
    entries = [
        cpio.regular("bin/tool", b"\x7fELF", 0o755),
        cpio.symlink("bin/sh", "tool"),
        cpio.device("dev/console", 5, 1),
        cpio.directory("tmp", 0o1777),
    ]
    found = {member.name: member for member in members(cpio.archive(entries))}
    assert set(found) == {"bin", "bin/sh", "bin/tool", "dev", "dev/console", "tmp"}
    assert (found["bin/tool"].mode, found["bin/tool"].data) == (stat.S_IFREG | 0o755, b"\x7fELF")
    assert (stat.S_IFMT(found["bin/sh"].mode), found["bin/sh"].data) == (stat.S_IFLNK, b"tool")
    assert (found["dev/console"].mode, found["dev/console"].rdev) == (stat.S_IFCHR | 0o600, (5, 1))
    assert found["tmp"].mode == stat.S_IFDIR | 0o1777


@given(FILES)
def test_equal_contents_give_equal_bytes_in_any_order(files: dict[str, bytes]) -> None:
    entries = [cpio.regular(name, data) for name, data in files.items()]
    archive = cpio.archive(entries)
    assert archive == cpio.archive(reversed(entries))
    assert len(archive) % 512 == 0
    assert {member.name: member.data for member in members(archive)} == files


@given(st.lists(st.lists(NAMES, min_size=1, max_size=4).map("/".join), max_size=6))
def test_every_folder_comes_before_what_lies_in_it(paths: list[str]) -> None:
    inside = {str(parent) for path in paths for parent in PurePosixPath(path).parents}
    leaves = [path for path in paths if path not in inside]
    seen: set[str] = {"."}
    for member in members(cpio.archive(cpio.regular(path, b"") for path in leaves)):
        assert str(PurePosixPath(member.name).parent) in seen
        seen.add(member.name)


def test_a_folder_that_was_named_keeps_its_mode() -> None:
    found = members(cpio.archive([cpio.directory("root", 0o700), cpio.regular("root/file", b"")]))
    assert [(member.name, stat.S_IMODE(member.mode)) for member in found] == [("root", 0o700), ("root/file", 0o644)]


def test_owners_and_times_are_no_ones_so_that_no_machine_differs() -> None:
    found = members(cpio.archive([cpio.regular("a/b", b"x")]))
    assert {(member.owner, member.mtime) for member in found} == {((0, 0), 0)}
    assert len({member.inode for member in found}) == len(found)


def test_slashes_around_a_path_do_not_matter() -> None:
    assert cpio.archive([cpio.regular("/root/file", b"1")]) == cpio.archive([cpio.regular("root/file", b"1")])
