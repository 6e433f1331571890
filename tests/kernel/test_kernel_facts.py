# SPDX-License-Identifier: Apache-2.0
"""A kernel in the cache: what was read of it once is what every later call says."""

from __future__ import annotations

import hashlib
import json
import lzma
from pathlib import Path

import pytest

from images import BUILD_ID, PACKERS, PVH, bzimage, vmlinux
from kernloop.errors import HarnessError
from kernloop.kernel import kernel
from kernloop.kernel.kernel import Kernel

PLAIN = bzimage(PACKERS["gzip"](vmlinux()))


def stored(folder: Path, image: bytes = PLAIN, *, config: str | None = None, modules: bool = False) -> Kernel:
    folder.mkdir(exist_ok=True)
    (folder / "bzImage").write_bytes(image)
    named = None
    if config is not None:
        named = folder / "config-7.3"
        named.write_text(config)
    if modules:
        (folder / "modules/kernel/drivers").mkdir(parents=True)
    kernel.store(
        folder,
        ref="debian:7.3.4",
        bzimage=folder / "bzImage",
        modules=folder / "modules" if modules else None,
        config=named,
        source_version="7.3.4-1",
    )
    return kernel.load(folder)


def test_what_was_stored_is_loaded_again(tmp_path: Path) -> None:
    found = stored(tmp_path)
    assert (found.ref, found.release, found.build_id) == ("debian:7.3.4", "7.3.4-test", BUILD_ID.hex())
    assert found.digest == hashlib.sha256(PLAIN).hexdigest()
    assert found.source_version == "7.3.4-1"
    assert found.btf is not None
    assert found.btf.read_bytes() == b"btf-bytes"
    assert (found.vmlinux, found.modules, found.bootable) == (None, None, tmp_path / "bzImage")


def test_a_kernel_moved_with_its_folder_still_works(tmp_path: Path) -> None:
    stored(tmp_path / "before", modules=True)
    (tmp_path / "before").rename(tmp_path / "after")
    found = kernel.load(tmp_path / "after")
    assert found.image == tmp_path / "after/bzImage"
    assert found.modules == tmp_path / "after/modules"


def test_the_elf_inside_is_booted_where_that_is_possible(tmp_path: Path) -> None:
    found = stored(tmp_path, bzimage(PACKERS["zstd"](vmlinux(notes=PVH))))
    assert found.bootable == tmp_path / "vmlinux"
    assert found.bootable.read_bytes()[:4] == b"\x7fELF"


def test_a_kernel_with_kasan_is_unpacked_by_itself_for_it_dies_where_pvh_begins(tmp_path: Path) -> None:
    found = stored(tmp_path, bzimage(PACKERS["zstd"](vmlinux(notes=PVH))), config="CONFIG_KASAN_GENERIC=y\n")
    assert found.bootable == tmp_path / "bzImage"


def test_the_config_beside_the_image_outranks_the_one_in_it(tmp_path: Path) -> None:
    found = stored(tmp_path, config="CONFIG_KASAN=y\n")
    assert found.config == {"KASAN": "y"}


def test_symbols_are_on_off_or_unknown(tmp_path: Path) -> None:
    found = stored(tmp_path)
    assert [found.has(name) for name in ("SCHED_CLASS_EXT", "MODULES", "KASAN", "NO_SUCH")] == [
        True,
        True,
        False,
        False,
    ]
    assert found.has_sched_ext is True
    blind = stored(tmp_path / "blind", bzimage(PACKERS["gzip"](vmlinux(config=None))))
    assert blind.config is None
    assert blind.has("SCHED_CLASS_EXT") is None


@pytest.mark.parametrize(("btf", "expected"), [(b"\0task\0sched_ext_ops\0", True), (b"\0task\0", False), (None, None)])
def test_without_a_config_the_btf_says_whether_there_is_sched_ext(
    btf: bytes | None, expected: bool | None, tmp_path: Path
) -> None:
    found = stored(tmp_path, bzimage(PACKERS["gzip"](vmlinux(config=None, btf=btf))))
    assert found.has_sched_ext is expected


def test_a_module_is_found_by_either_spelling_packed_or_not(tmp_path: Path) -> None:
    found = stored(tmp_path, modules=True)
    folder = tmp_path / "modules/kernel/drivers"
    (folder / "virtio-pci.ko").write_bytes(b"plain")
    (folder / "virtio_console.ko.xz").write_bytes(lzma.compress(b"packed"))
    (folder / "not_virtio_pci.ko").write_bytes(b"other")
    assert found.module("virtio_pci") == b"plain"
    assert found.module("virtio_console") == b"packed"
    assert found.module("virtio") is None


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", json.dumps({"ref": "x"})])
def test_a_damaged_record_says_which_folder_to_remove(text: str, tmp_path: Path) -> None:
    stored(tmp_path)
    (tmp_path / "kernel.json").write_text(text)
    with pytest.raises(HarnessError, match="is damaged") as caught:
        kernel.load(tmp_path)
    assert caught.value.hint == f"remove it: rm -r {tmp_path}"


def test_an_image_that_is_gone_is_said_with_what_to_remove(tmp_path: Path) -> None:
    stored(tmp_path)
    (tmp_path / "bzImage").unlink()
    with pytest.raises(HarnessError, match=r"bzImage is gone") as caught:
        kernel.load(tmp_path)
    assert str(tmp_path) in caught.value.hint
