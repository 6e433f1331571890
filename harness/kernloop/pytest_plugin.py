# SPDX-License-Identifier: Apache-2.0
"""Tests of kernels with pytest: the fixtures `kernel` and `vm`, and what the VM said beside each failure.

>>> def test_release(vm):                                        # doctest: +SKIP
...     assert vm.exec(["uname", "-r"]).stdout.startswith(b"7.")

Every test gets a VM of its own, restored from a snapshot. pytest loads this module wherever kernloop is installed:
what takes time to import is imported by the first test that needs it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from kernloop.errors import HarnessError, UsageError

if TYPE_CHECKING:
    from kernloop.kernel.kernel import Kernel
    from kernloop.vm.client import VM
    from kernloop.vm.request import VmRequest

__all__ = ["kernel", "vm"]

_VM = pytest.StashKey["VM"]()
_TAIL_LINES = 25
_REPORT_LINES = 60
_OPTIONS = ("cpus", "memory", "append", "seed", "backend", "crash")


def pytest_addoption(parser: pytest.Parser) -> None:
    about = "the kernel that the fixtures kernel and vm use by default: debian:7.2, host, path:BZIMAGE, ..."
    parser.getgroup("kernloop").addoption("--kernloop-kernel", metavar="REF", help=about)
    parser.addini("kernloop_kernel", about)


def pytest_configure(config: pytest.Config) -> None:
    for line in (
        "kernel(ref): the kernel of a test, as `kernloop run --kernel` takes it",
        "vm(cpus, memory, append, seed, backend, crash): boots a guest, as every test with the fixture vm does. "
        'cpus=4 or "8,sockets=2"; memory in MiB; append: words for the kernel command line; seed: virtual time; '
        'crash="ok": the test may crash the kernel',
    ):
        config.addinivalue_line("markers", line)


def pytest_itemcollected(item: pytest.Item) -> None:
    if "vm" in getattr(item, "fixturenames", ()) and item.get_closest_marker("vm") is None:
        item.add_marker("vm")


@pytest.fixture
def kernel(request: pytest.FixtureRequest) -> Kernel:
    """The kernel of the test's marker, of --kernloop-kernel, of the setting kernloop_kernel, or debian:newest."""
    from kernloop.kernel import refs

    marker = request.node.get_closest_marker("kernel")
    if marker is not None and (len(marker.args) != 1 or marker.kwargs):
        raise UsageError("the marker kernel takes one reference", hint='@pytest.mark.kernel("debian:7.2")')
    config = request.config
    default = config.getoption("--kernloop-kernel") or config.getini("kernloop_kernel") or refs.DEFAULT
    return refs.resolve(marker.args[0] if marker else default)


@pytest.fixture
def vm(request: pytest.FixtureRequest, kernel: Kernel) -> Iterator[VM]:
    """A VM that nobody has used before, for this test alone; see kernloop.vm.client.VM."""
    from kernloop.vm import client

    options = _options(request.node)
    machine = client.start(_request(options, kernel), bound=True)
    request.node.stash[_VM] = machine
    try:
        yield machine
    finally:
        machine.stop()
    if crashed := _crash_of(request.node):
        pytest.fail(crashed, pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    yield
    if crashed := _crash_of(item):
        pytest.fail(crashed, pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if not report.failed:
        return report
    error = call.excinfo.value if call.excinfo else None
    if isinstance(error, HarnessError):
        # Extra attributes travel from a worker of xdist as they are.
        report.kernloop_error = not isinstance(error, UsageError)  # type: ignore[attr-defined]
        report.longrepr = _told(item, call, error)
    if (machine := item.stash.get(_VM, None)) is not None:
        report.sections += _sections(machine)
    return report
