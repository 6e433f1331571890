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
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from kernloop.errors import HarnessError, UsageError

if TYPE_CHECKING:
    from kernloop.kernel.kernel import Kernel
    from kernloop.vm.client import VM
    from kernloop.vm.request import VmRequest

__all__ = ["kernel", "vm"]

_OPTIONS = ("cpus", "memory", "append", "seed", "backend", "crash")
_TAIL_LINES = 20
_REPORT_LINES = 60
_OVER_SECONDS = 10.0
# A test's VM, how much its console held when the test got it, and whether a report has told of a crash already.
_VM = pytest.StashKey["VM"]()
_BEGAN = pytest.StashKey[int]()
_TOLD = pytest.StashKey[bool]()


@dataclass(frozen=True)
class _Seen:
    """What is known of a VM: "running" or the verdict on it, and the lines of its console that say why."""

    verdict: str
    summary: str
    next: str = ""
    lines: tuple[int, int] | None = None

    @property
    def crashed(self) -> bool:
        return self.verdict in ("panic", "oops")

    @property
    def ours(self) -> bool:
        return self.verdict in ("lost", "infra", "unknown")


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
def vm(request: pytest.FixtureRequest) -> Iterator[VM]:
    """A VM that nobody has used before, for this test alone; see kernloop.vm.client.VM."""
    from kernloop.vm import client

    item = request.node
    options = _options(item)  # before a kernel is fetched
    machine = client.start(_request(options, request.getfixturevalue("kernel")), bound=True)
    item.stash[_VM] = machine
    item.stash[_BEGAN] = (machine.run / "console.log").stat().st_size
    yield machine
    machine.stop()
    _must_not_crash(item)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    yield
    if _VM in item.stash:
        _must_not_crash(item)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if not report.failed or call.excinfo is None:
        return report
    ours = False
    if isinstance(error := call.excinfo.value, HarnessError):
        ours = not isinstance(error, UsageError)
        report.longrepr = call.excinfo.getrepr(style="value")
        report.sections.append(("kernloop: next step", _advice(item, call.excinfo, error)))
        if error.evidence is not None and _VM not in item.stash:
            report.sections += _sections(error.evidence, _judged(error.evidence), 0)
    if _VM in item.stash:
        machine = item.stash[_VM]
        seen = _look(machine)
        ours = ours or seen.ours
        item.stash[_TOLD] = seen.crashed
        report.sections += _sections(machine.run, seen, item.stash[_BEGAN])
    # An attribute of a report travels from xdist's workers as it is.
    report.kernloop_failed = ours  # type: ignore[attr-defined]
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_report_teststatus(report: pytest.CollectReport | pytest.TestReport) -> tuple[str, str, str] | None:
    """What kernloop or the machine failed at is an error, not a failure of what is tested."""
    return ("error", "E", "ERROR") if getattr(report, "kernloop_failed", False) else None


# The words of the markers, the nearest to the test first.
def _options(item: pytest.Item) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for marker in item.iter_markers("vm"):
        unknown = [*map(str, marker.args), *(name for name in marker.kwargs if name not in _OPTIONS)]
        if unknown:
            raise UsageError(f"the marker vm does not know {unknown[0]!r}", hint=f"it takes {', '.join(_OPTIONS)}")
        found = {**marker.kwargs, **found}
    if found.get("crash", "ok") != "ok":
        raise UsageError(f"the marker vm does not know crash={found['crash']!r}", hint='crash="ok", or leave it out')
    return found


def _request(options: dict[str, Any], kernel: Kernel) -> VmRequest:
    from kernloop.vm.request import VmRequest
    from kernloop.vm.topology import parse_cpus

    words = {name: value for name, value in options.items() if name in ("memory", "seed", "backend")}
    if "cpus" in options:
        words["topology"] = parse_cpus(str(options["cpus"]))
    if append := options.get("append", ()):
        words["append"] = (append,) if isinstance(append, str) else tuple(append)
    # By digest: what `debian:newest` is could change under a long test run.
    return VmRequest(kernel=f"sha256:{kernel.digest}", **words)


def _must_not_crash(item: pytest.Item) -> None:
    if item.stash.get(_TOLD, False) or _options(item).get("crash") == "ok":
        return
    seen = _look(item.stash[_VM])
    if seen.crashed:
        item.stash[_TOLD] = True
        pytest.fail(f"the kernel crashed: {seen.summary}", pytrace=False)


def _look(machine: VM) -> _Seen:
    from kernloop import runs

    with contextlib.suppress(HarnessError):
        facts = machine.info().facts
        if (crash := facts["crash"]) is not None:
            return _Seen(crash["verdict"], crash["title"], lines=tuple(crash["lines"]))
        if facts["state"] == "panicked":
            return _Seen("panic", "the kernel panicked; the console does not say where")
        if facts["state"] != "stopped":
            return _Seen(facts["state"], "; ".join(facts["reports"]) or "the kernel reported nothing")
    with contextlib.suppress(HarnessError):
        runs.wait_until_over(machine.run, _OVER_SECONDS)
    return _judged(machine.run)


# A run that is over.
def _judged(run: Path) -> _Seen:
    from kernloop import runs

    verdict = runs.read_json(run / "verdict.json")
    console = [file for file in verdict.get("evidence", ()) if file["path"].endswith("console.log")]
    lines = next((tuple(file["lines"]) for file in console if file.get("lines")), None)
    return _Seen(verdict.get("verdict", "unknown"), verdict.get("summary", ""), verdict.get("next", ""), lines)


# The verdict, and of the console the report of the kernel or the last that it printed since it held `began` bytes.
def _sections(run: Path, seen: _Seen, began: int) -> list[tuple[str, str]]:
    try:
        console = (run / "console.log").read_bytes()
    except OSError:
        return []
    if seen.lines:
        first, last = seen.lines
        what, shown = f"lines {first} to {last}", _lines(console)[first - 1 : last][:_REPORT_LINES]
    else:
        what, shown = "since the test began", _lines(console[began:])[-_TAIL_LINES:]
    verdict = f"{seen.verdict}: {seen.summary}" + (f"\nnext: {seen.next}" if seen.next else "") + f"\nrun: {run}"
    return [("kernloop: the VM", verdict), (f"kernloop: the console, {what}", "\n".join(shown) or "(nothing)")]


# Only a newline ends a line here, as for the parser that counted them.
def _lines(console: bytes) -> list[str]:
    return [line.rstrip() for line in console.decode(errors="replace").rstrip("\n").split("\n")]


def _advice(item: pytest.Item, found: pytest.ExceptionInfo[BaseException], error: HarnessError) -> str:
    places = [f"{entry.path.name}:{entry.lineno + 1}: " for entry in found.traceback if entry.path == item.path]
    evidence = f"\nevidence: {error.evidence}" if error.evidence else ""
    return f"{places[-1] if places else ''}{error.hint or 'kernloop runs show last'}{evidence}"
