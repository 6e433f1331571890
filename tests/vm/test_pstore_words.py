# SPDX-License-Identifier: Apache-2.0
"""Which kernels get memory for ramoops."""

from __future__ import annotations

from pathlib import Path

import pytest

from kernloop.kernel.kernel import Kernel
from kernloop.vm import pstore


@pytest.mark.parametrize(
    ("config", "append", "given"),
    [
        ("CONFIG_PSTORE_RAM=y", (), True),
        ("CONFIG_PSTORE_RAM=m", (), False),
        ("CONFIG_PSTORE_RAM=y\nCONFIG_ACPI_APEI=y", (), False),
        ("CONFIG_PSTORE_RAM=y", ("ramoops.mem_name=mine",), False),
        ("", (), False),
    ],
)
def test_a_kernel_gets_ramoops_when_nothing_else_keeps_its_log(
    config: str, append: tuple[str, ...], given: bool, tmp_path: Path
) -> None:
    path = tmp_path / "config"
    path.write_text(config + "\n")
    kernel = Kernel("path:/x", "7.3.4", "", "", "", Path("/x"), None, None, None, path, None)
    words = pstore.words(kernel, 512, append)
    assert bool(words) is given
    if given:
        assert words[0] == "memmap=0x40000$0x1f000000"
        assert pstore.words(kernel, 8192, ())[0] == "memmap=0x40000$0x7f000000"
