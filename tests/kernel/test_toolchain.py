# SPDX-License-Identifier: Apache-2.0
"""The programs that build a kernel, and what is said when one is not there."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from kernloop.errors import HarnessError, UsageError
from kernloop.host.needs import build_needs, distribution
from kernloop.kernel import toolchain


@pytest.mark.parametrize(("arch", "package"), [("arm64", "gcc-aarch64-linux-gnu"), ("riscv", "gcc-riscv64-linux-gnu")])
def test_a_cross_compiler_that_is_not_there_is_named_with_its_package(
    arch: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if any(need.packages for need in build_needs(distribution())):
        pytest.skip("kernels cannot be built here")
    # Programs of this machine, cross compilers left out.
    for name in ("gcc", "make", "flex", "bison", "bc", "perl", "cpio", "rsync", "git", "ccache"):
        (tmp_path / name).symlink_to(shutil.which(name) or name)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HarnessError) as error:
        toolchain.find(arch, llvm=False)
    assert f"{package.removeprefix('gcc-')}-gcc is not installed" in str(error.value)
    assert package in error.value.hint
    assert "--llvm" in error.value.hint


def test_an_architecture_that_is_not_known_is_refused_with_those_that_are() -> None:
    with pytest.raises(UsageError) as error:
        toolchain.find("vax", llvm=False)
    assert error.value.hint == "--arch: x86_64 arm64 riscv"
