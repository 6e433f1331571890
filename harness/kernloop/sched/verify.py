# SPDX-License-Identifier: Apache-2.0
"""The main job: take a scheduler to a verdict. Compile, boot in virtual time, load, test, judge."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from kernloop.errors import SubjectError, UsageError
from kernloop.host import toolset
from kernloop.kernel import refs, source
from kernloop.kernel.kernel import Kernel
from kernloop.kernel.source import BpfKit
from kernloop.runs import Run
from kernloop.sched import compile as compiling
from kernloop.sched import judge, programs
from kernloop.sched.events import SuiteReader
from kernloop.sched.judge import Judgement
from kernloop.vm import cpio, guests, initramfs
from kernloop.vm.argv import VirtualTime
from kernloop.vm.frames import run_request
from kernloop.vm.handover import blob
from kernloop.vm.initramfs import Payload
from kernloop.vm.session import GUEST_ENV, Command, attend, watch
from kernloop.vm.topology import Topology

__all__ = ["DEFAULT_SHIFT", "SCHEMA", "TESTS", "Request", "execute"]

SCHEMA = "kernloop.verify/1"
TESTS = ("idle", "saturation", "fork-storm", "affinity-storm", "wakeup", "reload")
# `wakeup`, thousands of sleeps beside EEVDF's, takes as long as all others together: for those who look at latency.
_BY_DEFAULT = tuple(name for name in TESTS if name != "wakeup")
_KERNELS_OWN = "kernel:"
# A faster machine than others get: the suite's own load is nops, which cost the host nothing, and loading BPF takes
# half the virtual time, so half the timer ticks.
DEFAULT_SHIFT = 3


@dataclass(frozen=True)
class Request:
    """`subject` is a .bpf.c or .bpf.o; with `loader` it is None and `loader` a program (or kernel:NAME) with `args`.

    `timeout` in seconds of real time bounds the whole guest; the guest itself runs in virtual time.
    """

    subject: Path | None
    loader: str | None = None
    args: tuple[str, ...] = ()
    kernel: str = refs.DEFAULT
    topology: Topology = field(default_factory=Topology)
    memory: int = 512
    seed: int = 1
    shift: int = DEFAULT_SHIFT
    tests: tuple[str, ...] = ()
    timeout: float = 300.0


def execute(
    request: Request, run: Run, *, say: Callable[[str], None], on_event: Callable[[dict[str, Any]], None]
) -> Judgement:
    """Run it. `say` gets a word on what is being done, `on_event` the guest's events as they come.

    Raises HarnessError for what fails on the host.
    """
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
    words, files = _loader(request, kernel, kit, run)
    if isinstance(words, Judgement):
        return words
    tests = ["--tests", ",".join(request.tests or _BY_DEFAULT)]
    job = run_request([f"{programs.FOLDER}/scxsuite", *tests, *words], cwd="/root", env=GUEST_ENV)
    payload = blob(initramfs.payload(files, extra=[cpio.regular("kl/job", job)]), seed=request.seed)
    built = run.elapsed - began
    say(f"starting {kernel.release} in virtual time")
    reader = SuiteReader(on_event)
    guest = guests.micro(
        kernel,
        request.topology,
        request.memory,
        virtual=VirtualTime(request.shift),
        files=programs.payloads(kit),
    )
    with (run.path / "events.jsonl").open("wb") as events, (run.path / "stderr").open("wb") as errors:

        def stdout(data: bytes) -> None:
            _write(events, data)
            reader.feed(data)

        command = Command((), request.timeout, stdout, lambda data: _write(errors, data))
        watched = asyncio.run(watch(attend(guest, payload, run), run, command, real_time=False))
    return judge.judge(kernel, run, watched, reader, deadline=request.timeout, build_seconds=built)


def _write(file: BinaryIO, data: bytes) -> None:
    file.write(data)
    file.flush()


# What cannot be right is said before anything is fetched.
def _check(request: Request) -> None:
    unknown = [name for name in request.tests if name not in TESTS]
    if unknown:
        raise UsageError(f"there is no test called {unknown[0]!r}", hint="there are: " + " ".join(TESTS))
    if (request.subject is None) == (request.loader is None):
        raise UsageError(
            "give either a scheduler (.bpf.c, .bpf.o) or --loader BINARY",
            hint="kernloop verify examples/schedulers/fifo.bpf.c",
        )
    if request.args and request.loader is None:
        raise UsageError(
            f"{shlex.join(request.args)}: only a scheduler's own loader takes arguments",
            hint="kernloop verify --loader BINARY -- ARGS",
        )
    path = request.subject or (None if _of_kernel(request) else Path(request.loader or ""))
    if path is None:
        return
    if path.is_dir():
        raise UsageError(f"{path} is a folder", hint="give the scheduler's .bpf.c or .bpf.o")
    if not path.exists():
        raise UsageError(f"{path} is not there", hint="examples/schedulers has some to start from")
    if request.subject is None:
        if not os.access(path, os.X_OK):
            raise UsageError(f"{path} is no program that can be run", hint="a scheduler's source needs no --loader")
    elif path.suffix == ".o":
        compiling.take_object(path)
    else:
        compiling.check_source(path)


def _of_kernel(request: Request) -> bool:
    return request.loader is not None and request.loader.startswith(_KERNELS_OWN)


# The suite's words on its loader and the files it takes; a Judgement when the build failed.
def _loader(request: Request, kernel: Kernel, kit: BpfKit, run: Run) -> tuple[list[str] | Judgement, list[Payload]]:
    if request.loader is not None:
        if _of_kernel(request):
            program = compiling.own_loader(request.loader.removeprefix(_KERNELS_OWN), kit, run.path)
        else:
            program = Path(request.loader)
        guest = f"/root/{program.name}"
        return ["--", guest, *request.args], [Payload(program, guest)]
    assert request.subject is not None
    target = run.path / "scheduler.bpf.o"
    if request.subject.suffix == ".o":
        shutil.copyfile(request.subject, target)
    else:
        built = compiling.compile_scheduler(request.subject, kit, target)
        if built.object is None:
            return judge.build_failed(request.subject, kernel, run, built), []
    # The object keeps its own name in the guest: messages then say what the user calls it.
    name = request.subject.name.removesuffix(".c").removesuffix(".o").removesuffix(".bpf") + ".bpf.o"
    guest = f"{programs.FOLDER}/{name}"
    return ["--nest", "--", f"{programs.FOLDER}/scxload", guest], [Payload(target, guest)]
