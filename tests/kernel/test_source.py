# SPDX-License-Identifier: Apache-2.0
"""Which kernel source is taken for a kernel: its own, else the nearest that its BPF programs can be built with."""

from __future__ import annotations

from pathlib import Path

import pytest

from kernloop.errors import HarnessError, SubjectError
from kernloop.host.apt import Package
from kernloop.kernel import source
from kernloop.kernel.kernel import Kernel, KernelSource

KNOWN = [
    ("linux-source-6.12", "6.12.94-1"),
    ("linux-source-6.12", "6.12.107-1"),
    ("linux-source-6.17", "6.17.13-1~bpo13+1"),
    ("linux-source-7.2", "7.2.13-1"),
    ("linux-source-7.3", "7.3.4-1~bpo13+1"),
    ("linux-source-7.3", "7.3.12-1"),
]


def a_kernel(release: str, source_version: str | None = None) -> Kernel:
    return Kernel("path:x", release, "", "", "", Path("/x"), None, None, None, None, source_version)


@pytest.mark.parametrize(
    ("release", "version", "wanted"),
    [
        # The very source it was built from, even if a newer one of the same series is there.
        ("7.3.4+deb13-cloud-amd64", "7.3.4-1~bpo13+1", KernelSource("linux-source-7.3", "7.3.4-1~bpo13+1", True)),
        # Its own series, the newest of it, numbers compared as numbers.
        ("6.12.99", "6.12.99-1", KernelSource("linux-source-6.12", "6.12.107-1", False)),
        ("7.3.1", None, KernelSource("linux-source-7.3", "7.3.12-1", False)),
        ("6.12.200", None, KernelSource("linux-source-6.12", "6.12.107-1", False)),
        # No source of its series: the next newer one, for headers work backwards and not forwards.
        ("6.16.3", None, KernelSource("linux-source-6.17", "6.17.13-1~bpo13+1", False)),
        ("6.18.5", None, KernelSource("linux-source-7.2", "7.2.13-1", False)),
        # Newer than all: the newest there is.
        ("8.1.0-rc1", None, KernelSource("linux-source-7.3", "7.3.12-1", False)),
    ],
)
def test_the_source_that_fits_a_kernel_best(
    release: str, version: str | None, wanted: KernelSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = [Package(name, number, "linux", number, 1) for name, number in KNOWN]
    monkeypatch.setattr("kernloop.host.apt.candidates", lambda pattern: packages)
    assert source.candidate(a_kernel(release, version)) == wanted


def test_without_the_network_a_source_in_the_cache_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(pattern: str) -> list[Package]:
        raise HarnessError("no network")

    monkeypatch.setattr("kernloop.host.apt.candidates", offline)
    assert source.candidate(a_kernel("7.3.4")) is None
    (tmp_path / "cache/kernloop/sources/linux-source-7.3_7.3.4-1").mkdir(parents=True)
    assert source.candidate(a_kernel("7.3.4", "7.3.4-1")) == KernelSource("linux-source-7.3", "7.3.4-1", True)


def test_a_kernel_without_btf_is_refused_with_the_option_to_set() -> None:
    with pytest.raises(SubjectError, match="path:x has no BTF") as caught:
        source.kit(a_kernel("7.3.4"))
    assert "CONFIG_DEBUG_INFO_BTF" in caught.value.hint
    assert caught.value.exit_code == 1
