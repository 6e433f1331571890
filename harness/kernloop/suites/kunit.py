# SPDX-License-Identifier: Apache-2.0
"""`kernloop kunit`: boot a kernel that has KUnit, let it test itself, load the modules with tests, judge the results.

Tests that are built in run before init, by words on the kernel's command line (lib/kunit/executor.c); those in modules
run when the module is loaded, once kunit has been told the same (Documentation/dev-tools/kunit/run_manual.rst). All of
them write KTAP to the console.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kernloop.errors import SubjectError, UsageError
from kernloop.kernel import refs
from kernloop.kernel.build import BuildRequest, build
from kernloop.kernel.kernel import Kernel
from kernloop.report.ktap import Report, Test, leaves, parse
from kernloop.runs import Run
from kernloop.suites.judge import Judgement, judge
from kernloop.vm import cpio, initramfs
from kernloop.vm.backends import backend
from kernloop.vm.handover import blob
from kernloop.vm.session import End, Session, Watched
from kernloop.vm.topology import Topology

__all__ = ["SCHEMA", "Request", "examine", "execute"]

SCHEMA = "kernloop.kunit/1"
_ALL = 64
# include/asm-generic/vmlinux.lds.h: where a module keeps its suites.
_SUITES = b".kunit_test_suites"
# How modules with tests are called (Documentation/dev-tools/kunit/style.rst, and what was there before it).
_TEST_MODULE = re.compile(r"kunit|test")
_FOLDER = "/kl/kunit"


@dataclass(frozen=True)
class Request:
    """`glob` chooses suites, or SUITE.TEST; "" is all. With `tree` a kernel is built of it, `kunitconfig` added.

    `timeout` in seconds is for all tests, from the kernel's start.
    """

    glob: str = ""
    kernel: str = refs.DEFAULT
    tree: Path | None = None
    kunitconfig: Path | None = None
    topology: Topology = field(default_factory=Topology)
    memory: int = 512
    timeout: float = 300.0


def execute(request: Request, run: Run, *, say: Callable[[str], None]) -> Judgement:
    """Run it. `say` gets a word on what is being done. Raises HarnessError for what fails on the host."""
    _check(request)
    return examine(_kernel(request, say), request, run, say=say)


def examine(kernel: Kernel, request: Request, run: Run, *, say: Callable[[str], None]) -> Judgement:
    """The same for a kernel that is there. Raises SubjectError when it has no KUnit."""
    if kernel.has("KUNIT") is False:
        raise SubjectError(
            f"{kernel.ref} ({kernel.release}) is built without KUNIT",
            hint="kernloop kunit --tree DIR builds a kernel that has it",
        )
    built = run.elapsed
    say("looking for modules with tests")
    modules = _modules(kernel)
    words = ["kunit.enable=1", "kunit.autorun=1", *([f"kunit.filter_glob={request.glob}"] if request.glob else [])]
    made = backend("micro", kernel, request.topology, request.memory, append=tuple(words))
    entries = [cpio.regular(f"{_FOLDER.strip('/')}/{name}.ko", data) for name, data in modules]
    payload = blob(initramfs.payload((), extra=entries) if entries else b"", seed=None)
    say(f"starting {kernel.release}")
    started = made.attend(payload, run, cold=True)
    load = [
        (name, () if name != "kunit" else tuple(word.removeprefix("kunit.") for word in words)) for name, _ in modules
    ]
    watched = asyncio.run(_watch(started, run, load, request.timeout, say))
    console = run.path / "console.log"
    lines = console.read_text(errors="replace").split("\n") if console.exists() else []
    report = parse(lines)
    return judge(
        kernel,
        run,
        watched,
        report,
        deadline=request.timeout,
        depth=_ALL,
        blamed=_blamed(watched, report),
        times={"build": round(built, 3)},
        log="console.log",
    )


def _check(request: Request) -> None:
    if request.kunitconfig is not None and request.tree is None:
        raise UsageError("--kunitconfig is for a kernel that is built", hint="add --tree DIR")
    if re.search(r"[\s\"]", request.glob):
        raise UsageError(f"{request.glob!r} is no pattern for suites", hint="as in 'list*' or 'list*.*add*'")


def _kernel(request: Request, say: Callable[[str], None]) -> Kernel:
    if request.tree is None:
        say("finding the kernel")
        return refs.resolve(request.kernel)
    say("building a kernel with KUnit")
    own = request.kunitconfig
    if own is not None and own.is_dir():
        own /= ".kunitconfig"
    if own is not None and not own.exists():
        raise UsageError(f"{own} is not there", hint="a folder with a .kunitconfig, as lib/kunit of a tree, or a file")
    fragments = ("kunit", *([str(own.absolute())] if own else []))
    found = build(BuildRequest(request.tree, "tiny", fragments=fragments)).kernel
    assert found is not None
    return found


# Modules with suites and what they need, in the order of loading: names and contents.
def _modules(kernel: Kernel) -> list[tuple[str, bytes]]:
    found: dict[str, bytes] = {}

    def add(name: str) -> None:
        data = None if name in found else kernel.module(name)
        if data is None:
            return
        for needed in _depends(data):
            add(needed)
        found[name] = data

    for name in kernel.module_names:
        if _TEST_MODULE.search(name) and _SUITES in (kernel.module(name) or b""):
            add(name)
    return list(found.items())


def _depends(module: bytes) -> list[str]:
    found = re.search(rb"\0depends=([\w,-]*)\0", module)
    return [name.replace("-", "_") for name in found[1].decode().split(",") if name] if found else []


async def _watch(
    started: contextlib.AbstractAsyncContextManager[Session],
    run: Run,
    load: Sequence[tuple[str, Sequence[str]]],
    seconds: float,
    say: Callable[[str], None],
) -> Watched:
    answered = None
    async with started as session:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        end = await session.first(session.machine.hello, seconds, End.DEADLINE)
        for name, words in load if end is End.COMMAND else ():
            say(f"loading {name}")
            job = await session.machine.execute(
                ("insmod", f"{_FOLDER}/{name}.ko", *words),
                on_stdout=lambda data: None,
                on_stderr=lambda data: None,
                env={"PATH": "/bin:/sbin"},
            )
            end = await session.follow(job, max(0.0, deadline - loop.time()))
            if end is not End.COMMAND:
                break
            if job.done.result() != 0:
                run.note("insmod-failed", module=name, status=job.done.result())
        session.times["tests"] = run.elapsed - session.began
        run.note("end", why=end.value)
        if end is End.DEADLINE:
            answered = await session.interrogate()
        elif end is End.PANIC:
            await session.hold()
        else:
            await session.console_caught_up()
    return session.watched(end, None, answered)


# The test in whose lines the kernel reported something. The tests write where the kernel writes.
def _blamed(watched: Watched, report: Report) -> list[tuple[str, ...]]:
    def within(test: Test, line: int) -> bool:
        return test.lines is not None and test.lines[0] <= line <= test.lines[1]

    paths = list(leaves(report.tests))
    return [
        next((path for path, test in paths if within(test, crash.start_line)), report.running)
        for crash in watched.crashes
    ]
