# SPDX-License-Identifier: Apache-2.0
"""Kernel references as users write them, right and wrong."""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path

import pytest

from images import BUILD_ID, PACKERS, bzimage, vmlinux
from kernloop.errors import HarnessError, UsageError
from kernloop.host.apt import Package
from kernloop.kernel import kernel, refs

IMAGE = bzimage(PACKERS["gzip"](vmlinux()))


def offline(*_: object) -> list[Package]:
    raise HarnessError("no network", hint="check the network")


def cache_debian(tmp_path: Path, number: str, image: bytes = IMAGE) -> Path:
    """A Debian kernel in this test's cache."""
    folder = tmp_path / f"cache/kernloop/kernels/debian-{number}"
    folder.mkdir(parents=True)
    data = image.replace(b"7.3.4-test", number.encode().ljust(10, b"-")) if number != "7.3.4" else image
    (folder / "bzImage").write_bytes(data)
    kernel.store(
        folder,
        ref=f"debian:{number}",
        bzimage=folder / "bzImage",
        modules=None,
        config=None,
        source_version=None,
    )
    return folder


@pytest.mark.parametrize(
    "ref",
    ["", "debian", "debian:", "debian:latest", "debian:7", "debian:7.x", "7.3", "host:x", "path:", "sha256:12",
     "sha256:XYZXYZ", "tree", "deban:7.3", "debian:7.3 "],
)  # fmt: skip
def test_a_word_that_is_no_reference_is_answered_with_examples(ref: str) -> None:
    with pytest.raises(UsageError, match="is no kernel reference") as caught:
        refs.resolve(ref)
    assert repr(ref) in caught.value.message
    for example in ("debian:7.2", "debian:newest", "host", "path:", "kernloop kernel list"):
        assert example in caught.value.hint


def test_a_path_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"cannot read the kernel image {tmp_path}/bzImage: No such file"):
        refs.resolve(f"path:{tmp_path}/bzImage")


def test_a_folder_is_no_image(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Is a directory"):
        refs.resolve(f"path:{tmp_path}")


def test_a_vmlinux_is_no_bzimage_and_nothing_stays_in_the_cache(tmp_path: Path) -> None:
    (tmp_path / "vmlinux").write_bytes(vmlinux())
    with pytest.raises(UsageError, match="an ELF file"):
        refs.resolve(f"path:{tmp_path}/vmlinux")
    assert list(tmp_path.glob("cache/kernloop/kernels/*")) == []


def test_a_path_gives_a_kernel_known_by_its_content(tmp_path: Path) -> None:
    image = tmp_path / "bzImage"
    image.write_bytes(IMAGE)
    found = refs.resolve(f"path:{image}")
    assert (found.release, found.build_id) == ("7.3.4-test", BUILD_ID.hex())
    assert found.digest == hashlib.sha256(IMAGE).hexdigest()
    image.unlink()
    assert refs.resolve(f"sha256:{found.digest[:8]}") == found


def test_an_image_built_anew_under_the_same_name_is_another_kernel(tmp_path: Path) -> None:
    image = tmp_path / "bzImage"
    image.write_bytes(IMAGE)
    first = refs.resolve(f"path:{image}")
    image.write_bytes(IMAGE.replace(b"7.3.4-test", b"7.3.5-test"))
    second = refs.resolve(f"path:{image}")
    assert (first.release, second.release) == ("7.3.4-test", "7.3.5-test")
    assert first.image.read_bytes() == IMAGE


@pytest.mark.parametrize("name", ["config", "config-7.3"])
def test_the_config_that_lies_beside_an_image_is_taken(name: str, tmp_path: Path) -> None:
    image = tmp_path / "vmlinuz-7.3"
    image.write_bytes(IMAGE)
    (tmp_path / name).write_text("CONFIG_KASAN=y\n")
    assert refs.resolve(f"path:{image}").config == {"KASAN": "y"}


def test_the_config_of_a_build_tree_is_taken(tmp_path: Path) -> None:
    image = tmp_path / "linux/arch/x86/boot/bzImage"
    image.parent.mkdir(parents=True)
    image.write_bytes(IMAGE)
    (tmp_path / "linux/.config").write_text("CONFIG_LKDTM=y\n")
    assert refs.resolve(f"path:{image}").config == {"LKDTM": "y"}


def test_a_digest_that_nothing_has_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"0 cached kernels have the digest abcdef"):
        refs.resolve("sha256:abcdef")


def test_one_image_cached_under_two_names_is_found_by_its_digest(tmp_path: Path) -> None:
    folder = cache_debian(tmp_path, "7.3.4")
    found = refs.resolve(f"path:{folder}/bzImage")
    assert refs.resolve(f"sha256:{found.digest}").digest == found.digest


def test_without_the_network_the_newest_cached_kernel_that_fits_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kernloop.host.apt.candidates", offline)
    for number in ("7.3.4", "7.3.12", "6.17.13"):
        cache_debian(tmp_path, number)
    assert refs.resolve("debian:newest").ref == "debian:7.3.12"
    assert refs.resolve("debian:7.3").ref == "debian:7.3.12"
    assert refs.resolve("debian:6.17").ref == "debian:6.17.13"
    assert [found.ref for found in refs.cached()] == ["debian:6.17.13", "debian:7.3.4", "debian:7.3.12"]


def test_without_network_and_cache_the_networks_error_is_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kernloop.host.apt.candidates", offline)
    with pytest.raises(HarnessError, match="no network") as caught:
        refs.resolve("debian:7.3")
    assert caught.value.exit_code == 125


def test_a_machine_without_its_kernels_image_says_where_it_looked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "release", lambda: "9.9.9-nowhere")
    with pytest.raises(UsageError, match=r"9\.9\.9-nowhere is not there \(/boot/vmlinuz-9\.9\.9-nowhere"):
        refs.resolve("host")
