# SPDX-License-Identifier: Apache-2.0
"""`kernloop kselftest`: build the selftests for a kernel, run them in a guest of it, say which did not pass."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from kernloop.errors import SubjectError, UsageError
from kernloop.kernel import refs, source
from kernloop.kernel.kernel import Kernel
from kernloop.report.ktap import Report, Status, Test, leaves
from kernloop.runs import Run
from kernloop.suites import selftests
from kernloop.suites.drive import Program, drive
from kernloop.suites.judge import Judgement, judge, title
from kernloop.suites.selftests import NotBuilt, Selftests
from kernloop.suites.stream import Stream
from kernloop.verdict import Evidence, Outcome, Verdict
from kernloop.vm import initramfs
from kernloop.vm.backends import backend
from kernloop.vm.handover import blob
from kernloop.vm.initramfs import Payload
from kernloop.vm.judge import kernel_seen
from kernloop.vm.share import Share
from kernloop.vm.topology import Topology

__all__ = ["SCHEMA", "Request", "execute", "programs", "source_tree"]

SCHEMA = "kernloop.kselftest/1"
# kselftest has its time-outs for real machines. Under TCG on two busy CPUs sched_ext's longest test took 130 s.
_SLOWER_UNDER_TCG = 8.0
_HOME = "/root/kselftest"
# What upstream runs tests with (tools/testing/selftests/kselftest/runner.sh): else what a test has printed into a pipe
# is still in its buffer when it forks, and each child prints it once more. 6.12's init_enable_count forks a thousand.
_STDBUF = (Path("/usr/bin/stdbuf"), Path("/usr/libexec/coreutils/libstdbuf.so"))
# A program's own tests count, not what is within these.
_DEPTH = 2
_NAMED = 6


@dataclass(frozen=True)
class Request:
    """`tests` are TARGET or TARGET:TEST; `tree` is where their source is, by default that of the kernel.

    `timeout_per_test` None: what the target says, 45 s if it does not, and eight times as long without KVM. `timeout`
    is for all of them.
    """

    tests: tuple[str, ...]
    kernel: str = refs.DEFAULT
    tree: Path | None = None
    topology: Topology = field(default_factory=Topology)
    memory: int = 1024
    timeout_per_test: float | None = None
    timeout: float = 1800.0
    backend: str = "auto"


def execute(
    request: Request, run: Run, *, say: Callable[[str], None], on_test: Callable[[str, str], None]
) -> Judgement:
    """Run it. `say` gets a word on what is being done, `on_test` each test's name and status when it has ended.

    Raises HarnessError for what fails on the host.
    """
    wanted = _wanted(request.tests)
    say("finding the kernel")
    kernel = refs.resolve(request.kernel)
    tree = source_tree(kernel, request.tree)
    built: list[Selftests] = []
    for target in wanted:
        say(f"building the selftests {target} for {kernel.release}")
        try:
            jobs = os.cpu_count() or 1
            changes = request.tree is not None or kernel.tree is not None
            built.append(selftests.build(tree, target, kernel, changes=changes, jobs=jobs))
        except NotBuilt as error:
            return _not_built(target, tree, kernel, run, error)
    seconds = run.elapsed
    kind = request.backend if request.backend != "auto" else _backend(built)
    home = {one.target: Path(_HOME if kind == "micro" else one.folder) for one in built}
    files = [
        Payload(file, f"{_HOME}/{file.relative_to(one.folder)}")
        for one in built
        if kind == "micro"
        for file in sorted(one.folder.rglob("*"))
        if file.is_file()
    ]
    by_line = all(path.exists() for path in _STDBUF)
    if by_line and kind == "micro":
        files += [Payload(path, str(path)) for path in _STDBUF]
    # A guest with the host's files is to see none of ours change.
    nothing = run.path / "shared"
    nothing.mkdir()
    made = backend(kind, kernel, request.topology, request.memory, share=Share(nothing) if kind == "vng" else None)
    slow = 1.0 if made.guest.spec.accelerator == "kvm" else _SLOWER_UNDER_TCG
    chosen = [
        program
        for one in built
        for program in programs(one, wanted[one.target], home[one.target], request.timeout_per_test, slow)
    ]
    if by_line:
        chosen = [replace(program, argv=(str(_STDBUF[0]), "--output=L", *program.argv)) for program in chosen]
    say(f"starting {kernel.release}")
    with (run.path / "ktap.log").open("wb") as file:

        def told(before: tuple[str, ...], now: tuple[str, ...]) -> None:
            if len(now) >= len(before):
                say("testing " + title(now))
            ended = [test for path, test in leaves(stream.parser.results, 1) if before[-1:] == path[-1:]]
            if ended:
                on_test(title(before), ended[-1].status)

        stream = Stream(file, told)
        started = made.attend(blob(initramfs.payload(files) if files else b"", seed=None), run)
        driven = asyncio.run(drive(started, run, chosen, stream, env=made.env, seconds=request.timeout))
        report = stream.finish()
    judgement = judge(
        kernel,
        run,
        driven.watched,
        _named(report, chosen),
        deadline=request.timeout,
        depth=_DEPTH,
        blamed=driven.blamed,
        stuck=driven.stuck,
        seconds=stream.seconds,
        times={"build": round(seconds, 3)},
    )
    return _with_config(judgement, kernel, built)


def source_tree(kernel: Kernel, tree: Path | None) -> Path:
    """Where the source of `kernel` is: `tree` if the caller names it, else fetched. Raises SubjectError."""
    if tree is not None:
        return tree.absolute()
    if kernel.tree is not None:
        return kernel.tree
    found = source.candidate(kernel)
    if found is None or not found.exact:
        near = f"; the nearest is {found.package} {found.version}" if found else ""
        raise SubjectError(
            f"the source of {kernel.ref} ({kernel.release}) is not to be had{near}", hint="name it: --tree DIR"
        )
    return source.full_tree(found)


# The tests chosen of each target, in the order asked for; none chosen: all.
def _wanted(tests: Sequence[str]) -> dict[str, list[str]]:
    wanted: dict[str, list[str]] = {}
    for text in tests:
        target, _, test = text.partition(":")
        if not target:
            raise UsageError(f"{text!r} names no target", hint="as in sched_ext or sched_ext:minimal")
        chosen = wanted.setdefault(target, [])
        chosen += [test] if test else []
    return wanted


def _backend(built: Sequence[Selftests]) -> str:
    files = [one.folder / one.target / name for one in built for name in one.programs]
    elf = all(file.exists() and file.read_bytes()[:4] == b"\x7fELF" for file in files)
    return "micro" if elf else "vng"


def programs(built: Selftests, chosen: Sequence[str], home: Path, seconds: float | None, slow: float) -> list[Program]:
    """What runs of `built`, which lies in `home` in the guest: its tests `chosen`, or all.

    `seconds` is each one's time-out, by default the target's own, `slow` times that. Raises UsageError.
    """
    unknown = [name for name in chosen if name not in (*built.programs, *built.names)]
    if unknown:
        known = " ".join([*built.names, *(name for name in built.programs if not built.names)])
        raise UsageError(f"{built.target} has no test {unknown[0]!r}", hint=f"it has: {known}")
    mine = [name for name in chosen if name not in built.programs]
    names = [name for name in built.programs if not chosen or name in chosen or mine]
    return [
        Program(
            f"selftests: {built.target}: {name}",
            (f"./{name}",),
            str(home / built.target),
            built.seconds * slow if seconds is None else seconds,
            built.names,
            ("-t",) if built.names else (),
            tuple(mine) if name not in chosen else (),
        )
        for name in names
    ]


# A test that fails or skips itself for want of a symbol seldom says so.
def _with_config(judgement: Judgement, kernel: Kernel, built: Sequence[Selftests]) -> Judgement:
    lacking = tuple(dict.fromkeys(symbol for one in built for symbol in one.lacks(kernel)))
    if not lacking:
        return judgement
    outcome = judgement.outcome
    if outcome.verdict is not Verdict.PASS:
        named = " ".join(lacking[:_NAMED]) + (f" and {len(lacking) - _NAMED} more" if len(lacking) > _NAMED else "")
        step = f"{outcome.next}; the kernel lacks what the target's config file asks for: {named}"
        outcome = replace(outcome, next=step.removeprefix("; "))
    return replace(judgement, outcome=outcome, lacking=lacking)


# Tests that were to run and did not, by their names.
def _named(report: Report, programs: Sequence[Program]) -> Report:
    tests = []
    for program, test in zip(programs, sorted(report.tests, key=lambda test: test.number or 0), strict=False):
        if test.status is Status.MISSING:
            tests.append(replace(test, name=program.title))
            continue
        seen = {one.name for one in test.subtests}
        left = [name for name in program.chosen or program.names if name not in seen]
        missing = [Test(None, name, Status.MISSING) for name in left]
        tests.append(replace(test, subtests=(*test.subtests, *missing)))
    return replace(report, tests=tuple(tests))


def _not_built(target: str, tree: Path, kernel: Kernel, run: Run, error: NotBuilt) -> Judgement:
    (run.path / "compiler.txt").write_text(error.text)
    outcome = Outcome(
        Verdict.BUILD_FAILED,
        f"{target}: {error.summary}",
        kernel=kernel_seen(kernel, None),
        next=f"what the compiler said is in {run.path}/compiler.txt",
        times={"total": round(run.elapsed, 3)},
        evidence=(Evidence("compiler.txt", "all that make and the compiler said"),),
    )
    return Judgement(outcome, diagnostics=error.diagnostics)
