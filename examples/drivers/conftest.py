# SPDX-License-Identifier: Apache-2.0
"""Modules for the tests here, built for the kernel that the tests run in."""

from __future__ import annotations

from pathlib import Path

import pytest

from kernloop.kernel import modules
from kernloop.kernel.kernel import Kernel


@pytest.fixture
def driver(kernel: Kernel, request: pytest.FixtureRequest) -> modules.BuiltModules:
    """The folder kl_fifo, or the one that DRIVER in the environment names, built for the test's kernel."""
    return modules.build_for(kernel, Path(request.config.getoption("--driver")))


def pytest_addoption(parser: pytest.Parser) -> None:
    default = str(Path(__file__).parent / "kl_fifo")
    parser.addoption("--driver", default=default, help="the folder with the module to test")
