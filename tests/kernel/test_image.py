# SPDX-License-Identifier: Apache-2.0
"""Reading kernel images: release, build-id, BTF and config out of every packing, and a clear word for what is none."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from images import BANNER, BUILD_ID, CONFIG, NOTES, PACKERS, PVH, bzimage, note, vmlinux
from kernloop.errors import UsageError
from kernloop.kernel import image
from kernloop.kernel.notes import build_id_of_notes


def write(folder: Path, data: bytes) -> Path:
    path = folder / "bzImage"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("packing", list(PACKERS))
def test_an_image_says_its_release_build_id_btf_and_config_however_it_is_packed(packing: str, tmp_path: Path) -> None:
    kernel = vmlinux()
    found = image.read(write(tmp_path, bzimage(PACKERS[packing](kernel))))
    assert (found.release, found.banner, found.build_id) == ("7.3.4-test", BANNER, BUILD_ID.hex())
    assert (found.btf, found.ikconfig, found.vmlinux) == (b"btf-bytes", CONFIG, kernel)
    assert found.has_pvh is False


def test_what_an_image_lacks_is_none(tmp_path: Path) -> None:
    bare = PACKERS["gzip"](vmlinux(notes=b"", btf=None, config=None))
    found = image.read(write(tmp_path, bzimage(bare)))
    assert (found.build_id, found.btf, found.ikconfig, found.has_pvh) == ("", None, None, False)


def test_an_image_with_a_pvh_entry_can_be_started_directly(tmp_path: Path) -> None:
    assert image.read(write(tmp_path, bzimage(PACKERS["zstd"](vmlinux(notes=NOTES + PVH))))).has_pvh is True


def test_an_old_image_without_a_number_of_setup_sectors_has_four(tmp_path: Path) -> None:
    data = bytearray(bzimage(PACKERS["gzip"](vmlinux())))
    data[0x1F1] = 0
    assert image.read(write(tmp_path, bytes(data))).release == "7.3.4-test"


def test_a_vmlinux_is_told_from_a_bzimage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="an ELF file \\(a vmlinux\\?\\)") as caught:
        image.read(write(tmp_path, vmlinux()))
    assert "arch/x86/boot/bzImage" in caught.value.hint


@pytest.mark.parametrize("data", [b"", b"x", b"\0" * 4096, b"#!/bin/sh\n" * 200])
def test_a_file_that_is_no_image_is_said_to_be_none(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no x86 bzImage"):
        image.read(write(tmp_path, data))


@pytest.mark.parametrize("name", ["nothing", "."])
def test_a_path_that_cannot_be_read_is_named_with_the_reason(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read the kernel image"):
        image.read(tmp_path / name)


def test_an_unknown_packing_is_said_with_what_would_do(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"packed in a way that is not known here \(first bytes 42002241\)") as caught:
        image.read(write(tmp_path, bzimage(b'B\0"A rest')))
    assert "CONFIG_KERNEL_ZSTD" in caught.value.hint


@pytest.mark.parametrize("packing", list(PACKERS))
def test_a_packed_kernel_that_ends_too_soon_is_said_to_be_damaged(packing: str, tmp_path: Path) -> None:
    packed = PACKERS[packing](vmlinux())
    with pytest.raises(UsageError, match="bzImage"):
        image.read(write(tmp_path, bzimage(packed[: len(packed) // 2])))


@pytest.mark.parametrize("packing", list(PACKERS))
def test_a_packed_kernel_with_wrong_bytes_is_said_to_be_damaged(packing: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="bzImage"):
        image.read(write(tmp_path, bzimage(PACKERS[packing](vmlinux())[:13] + b"\xa5" * 200)))


@pytest.mark.parametrize("packing", list(PACKERS))
def test_an_image_that_holds_no_elf_is_said_to_be_damaged(packing: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="bzImage"):
        image.read(write(tmp_path, bzimage(PACKERS[packing](b"no elf at all" * 40))))


@pytest.mark.parametrize("kept", [0x206, 0x20F, 0x24A, 0x600, 3000])
def test_an_image_that_ends_in_its_header_is_said_to_be_damaged(kept: int, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="bzImage"):
        image.read(write(tmp_path, bzimage(PACKERS["zstd"](vmlinux()))[:kept]))


def test_the_build_id_is_found_behind_other_notes() -> None:
    assert build_id_of_notes(note(b"Linux\0", 257, b"x") + NOTES) == BUILD_ID.hex()


def test_a_note_of_the_same_number_from_another_owner_is_no_build_id() -> None:
    assert build_id_of_notes(note(b"XYZ\0", 3, b"1234")) == ""


@given(st.binary(max_size=64))
def test_any_bytes_for_notes_give_a_build_id_or_none(data: bytes) -> None:
    found = build_id_of_notes(data)
    assert found == bytes.fromhex(found).hex()
