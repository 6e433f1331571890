# SPDX-License-Identifier: Apache-2.0
"""The main job: take a scheduler to a verdict. Compile, boot in virtual time, load, test, judge."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO

from kernloop.errors import SubjectError, UsageError
from kernloop.host import toolset
from kernloop.kernel import refs, source
from kernloop.kernel.kernel import Kernel
from kernloop.runs import Run
from kernloop.sched import claims, judge, programs, selection
from kernloop.sched.check import files as checking
from kernloop.sched.check.finding import Finding
from kernloop.sched.events import SuiteReader
from kernloop.sched.judge import Judgement
from kernloop.sched.prepare import Prepared, prepare
from kernloop.sched.subject import Subject
from kernloop.vm import cpio, guests, initramfs
from kernloop.vm.argv import VirtualTime
from kernloop.vm.frames import run_request
from kernloop.vm.guest import Guest
from kernloop.vm.handover import blob
from kernloop.vm.judge import with_vmcore
from kernloop.vm.session import GUEST_ENV, Session
from kernloop.vm.topology import Topology
from kernloop.vm.watch import Command, attend, watch

__all__ = ["DEFAULT_SHIFT", "MAX_WATCHDOG", "SCHEMA", "Made", "Request", "execute", "make", "start"]

SCHEMA = "kernloop.verify/1"
# A faster machine than others get: the suite's own load is nops, which cost the host nothing, and loading BPF takes
# half the virtual time, so half the timer ticks.
DEFAULT_SHIFT = 3
# Seconds: the kernel takes no more (SCX_WATCHDOG_MAX_TIMEOUT of kernel/sched/ext).
MAX_WATCHDOG = 30
_OUR_LOADER = f"{programs.FOLDER}/scxload"


@dataclass(frozen=True)
class Request:
    """`timeout` in seconds of real time bounds the whole guest, whose own time is virtual unless it is `real_time`.

    No `tests` means the default ones, or as `quick` and `everything` say; no `claims`, what is seen of the scheduler.
    `watchdog` is the scheduler's stall time-out in seconds; without, it is its own, but 5 s at most. With `dump` a
    crash or a hang of the kernel leaves a vmcore.
    """

    scheduler: Subject
    kernel: str = refs.DEFAULT
    topology: Topology = field(default_factory=Topology)
    memory: int = 512
    seed: int = 1
    shift: int = DEFAULT_SHIFT
    tests: tuple[str, ...] = ()
    timeout: float = 300.0
    quick: bool = False
    everything: bool = False
    claims: tuple[str, ...] | None = None
    watchdog: int | None = None
    real_time: bool = False
    dump: bool = False


@dataclass(frozen=True)
class Made:
    """The guest and what it is handed; it can be started any number of times. `findings` are the static check's, which
    is under way."""

    kernel: Kernel
    guest: Guest
    payload: bytes
    build_seconds: float
    findings: Future[tuple[Finding, ...]]


def execute(
    request: Request, run: Run, *, say: Callable[[str], None], on_event: Callable[[dict[str, Any]], None]
) -> Judgement:
    """Run it. `say` gets a word on what is being done, `on_event` the guest's events as they come.

    Raises HarnessError for what fails on the host.
    """
    made = make(request, run, say=say)
    if isinstance(made, Judgement):
        return made
    say(f"starting {made.kernel.release} in {'real' if request.real_time else 'virtual'} time")
    return start(request, made, run, on_event=on_event)


def make(request: Request, run: Run, *, say: Callable[[str], None]) -> Made | Judgement:
    """Build what the guest is handed; a Judgement when the scheduler's own code stops it. Raises HarnessError."""
    _check(request)
    say("finding the kernel")
    kernel = refs.resolve(request.kernel)
    run.note("compiler", clang=toolset.get().version(f"clang-{toolset.LLVM}"))
    if kernel.has_sched_ext is False:
        raise SubjectError(
            f"{kernel.ref} ({kernel.release}) is built without SCHED_CLASS_EXT",
            hint="kernloop kernel list shows which have it; debian:newest does",
        )
    say(f"preparing headers and libbpf for {kernel.release}")
    kit = source.kit(kernel)
    say("compiling")
    began = run.elapsed
    ready = prepare(request.scheduler, kernel, kit, run)
    if isinstance(ready, Judgement):
        return ready
    own = _OUR_LOADER not in ready.words
    words = (*_options(request, ready), *ready.words)
    if request.watchdog is not None:
        if own:
            raise UsageError(
                "--watchdog is for schedulers that kernloop loads: a loader of their own sets the time-out itself",
                hint="set timeout_ms in the scheduler's ops",
            )
        words = (*words, str(request.watchdog * 1000))
    job = run_request([f"{programs.FOLDER}/scxsuite", *words], cwd="/root", env=GUEST_ENV)
    payload = blob(initramfs.payload(ready.files, extra=[cpio.regular("kl/job", job)]), seed=request.seed)
    virtual = None if request.real_time else VirtualTime(request.shift)
    guest = guests.micro(kernel, request.topology, request.memory, virtual=virtual, files=programs.payloads(kit))
    # What it finds stops nothing, so it is looked for while the guest runs.
    checker = ThreadPoolExecutor(1)
    findings = checker.submit(checking.check_prepared, request.scheduler, ready.object, kernel, own_loader=own)
    checker.shutdown(wait=False)
    return Made(kernel, guest, payload, run.elapsed - began, findings)


def start(
    request: Request,
    made: Made,
    run: Run,
    *,
    on_event: Callable[[dict[str, Any]], None],
    on_guest: Callable[[int], None] = lambda pid: None,
) -> Judgement:
    """Run the guest to its end, its evidence in `run`; `on_guest` hears QEMU's pid. Raises HarnessError."""
    reader = SuiteReader(on_event)
    with (run.path / "events.jsonl").open("wb") as events, (run.path / "stderr").open("wb") as errors:

        def stdout(data: bytes) -> None:
            _write(events, data)
            reader.feed(data)

        command = Command((), request.timeout, stdout, lambda data: _write(errors, data), dump=request.dump)
        guest = _told(attend(made.guest, made.payload, run), on_guest)
        watched = asyncio.run(watch(guest, run, command, real_time=request.real_time))
    judgement = judge.judge(
        made.kernel, run, watched, reader, deadline=request.timeout, build_seconds=made.build_seconds
    )
    judgement = replace(judgement, outcome=with_vmcore(judgement.outcome, run, watched.vmcore))
    return judge.with_findings(judgement, made.findings.result())


@contextlib.asynccontextmanager
async def _told(
    started: contextlib.AbstractAsyncContextManager[Session], on_guest: Callable[[int], None]
) -> AsyncIterator[Session]:
    async with started as session:
        on_guest(session.machine.pid)
        yield session


# scxsuite's own, before what is about the loader.
def _options(request: Request, ready: Prepared) -> list[str]:
    tests = selection.choose(request.tests, quick=request.quick, everything=request.everything)
    options = ["--tests", ",".join(tests)]
    if request.everything:
        options += ["--full"]
    if request.claims:
        options += ["--claims", ",".join(request.claims)]
    elif request.claims is None and (seen := claims.of_file(ready.object)):
        options += ["--seen", ",".join(seen)]
    if request.real_time:
        options += ["--real-time"]
    return options


def _write(file: BinaryIO, data: bytes) -> None:
    file.write(data)
    file.flush()


# What cannot be right is said before anything is fetched.
def _check(request: Request) -> None:
    selection.choose(request.tests, quick=request.quick, everything=request.everything)
    selection.check_claims(request.claims or ())
