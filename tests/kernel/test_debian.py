# SPDX-License-Identifier: Apache-2.0
"""Debian's kernels, from package lists recorded from the archive: which are whole, which one a number means."""

from __future__ import annotations

import pytest

from kernloop.errors import UsageError
from kernloop.host.apt import Package
from kernloop.kernel import debian


def package(name: str, version: str, size: int = 1 << 20) -> Package:
    return Package(name, version, "linux", version, size)


def old(number: str, deb: str, version: str) -> list[Package]:
    """Up to 6.18: everything in one package."""
    return [package(f"linux-image-{number}+{deb}-cloud-amd64", version, 30 << 20)]


PARTS = ("image", "binary", "modules", "base")


def new(number: str, deb: str, version: str, kinds: tuple[str, ...] = PARTS) -> list[Package]:
    """From 6.19: an empty linux-image that depends on the parts."""
    return [package(f"linux-{kind}-{number}+{deb}-cloud-amd64", version, 10 << 20) for kind in kinds]


ARCHIVE = [
    *old("6.12.94", "deb13", "6.12.94-1"),
    *old("6.12.107", "deb13", "6.12.107-1"),
    *old("6.17.13", "deb13", "6.17.13-1~bpo13+1"),
    *new("7.2.13", "deb14", "7.2.13-1"),
    *new("7.3.4", "deb13", "7.3.4-1~bpo13+1"),
    *new("7.1.2", "deb13", "7.1.2-1", kinds=("image", "binary", "base")),
]


@pytest.fixture
def archive(monkeypatch: pytest.MonkeyPatch) -> None:
    def candidates(pattern: str) -> list[Package]:
        assert debian._NAME.pattern == pattern
        return ARCHIVE

    monkeypatch.setattr("kernloop.host.apt.candidates", candidates)


@pytest.mark.usefixtures("archive")
def test_kernels_are_listed_by_number_not_by_spelling() -> None:
    assert [release.number for release in debian.releases()] == ["6.12.94", "6.12.107", "6.17.13", "7.2.13", "7.3.4"]


@pytest.mark.usefixtures("archive")
def test_a_kernel_of_which_the_archive_kept_some_parts_only_is_not_offered() -> None:
    assert "7.1.2" not in [release.number for release in debian.releases()]


@pytest.mark.usefixtures("archive")
def test_a_kernel_in_parts_is_fetched_with_all_it_needs_and_without_the_empty_package() -> None:
    release = debian.pick("7.2", debian.releases())
    kinds = [package.name.split("-")[1] for package in release.packages]
    assert kinds == ["binary", "modules", "base"]
    assert (release.release, release.size) == ("7.2.13+deb14-cloud-amd64", 30 << 20)


@pytest.mark.usefixtures("archive")
def test_a_kernel_in_one_package_is_that_package() -> None:
    [only] = debian.pick("6.17", debian.releases()).packages
    assert only.name == "linux-image-6.17.13+deb13-cloud-amd64"


@pytest.mark.usefixtures("archive")
@pytest.mark.parametrize(
    ("wanted", "number"),
    [("7.3", "7.3.4"), ("6.12", "6.12.107"), ("6.12.94", "6.12.94"), ("6", "6.17.13"), ("7", "7.3.4")],
)
def test_a_number_means_the_newest_kernel_that_begins_with_it(wanted: str, number: str) -> None:
    assert debian.pick(wanted, debian.releases()).number == number


@pytest.mark.usefixtures("archive")
@pytest.mark.parametrize("wanted", ["6.1", "7.3.40", "8.0", "6.12.9"])
def test_a_number_that_is_not_there_is_answered_with_those_that_are(wanted: str) -> None:
    with pytest.raises(UsageError, match=f"no cloud kernel {wanted}") as caught:
        debian.pick(wanted, debian.releases())
    assert "6.12 6.17 7.2 7.3" in caught.value.hint


@pytest.mark.usefixtures("archive")
def test_two_builds_of_one_release_are_two_folders() -> None:
    release = debian.pick("7.3", debian.releases())
    rebuilt = debian._assemble(new("7.3.4", "deb13", "7.3.4-2"))
    assert rebuilt is not None
    assert rebuilt.release == release.release
    assert rebuilt.folder != release.folder
    assert ":" not in release.folder.name


@pytest.mark.parametrize(
    ("release", "version"), [("7.3.4+deb13-cloud-amd64", (7, 3, 4)), ("6.12", (6, 12)), ("7.4-rc1", (7, 4)), ("x", ())]
)
def test_the_number_at_the_head_of_a_release(release: str, version: tuple[int, ...]) -> None:
    assert debian.version_of(release) == version
