# SPDX-License-Identifier: Apache-2.0
"""`kernloop run`: boot a kernel, run one command, say what happened."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from kernloop.kernel import refs
from kernloop.kernel.kernel import Kernel
from kernloop.runs import Run
from kernloop.verdict import Outcome, Verdict
from kernloop.vm import cpio, initramfs
from kernloop.vm.argv import DEFAULT_SHIFT, VirtualTime
from kernloop.vm.backends import backend
from kernloop.vm.frames import run_request
from kernloop.vm.handover import blob
from kernloop.vm.judge import judge_machine, reports, unjudged, with_vmcore
from kernloop.vm.session import GUEST_ENV, Watched
from kernloop.vm.share import Share
from kernloop.vm.topology import Topology
from kernloop.vm.watch import Command, watch

__all__ = ["SCHEMA", "Request", "execute"]

SCHEMA = "kernloop.run/1"
# Of each of the command's streams so much stays in the run directory: `yes` must not fill the disk.
_KEPT_BYTES = 64 << 20


@dataclass(frozen=True)
class Request:
    """What to run where; `timeout` in seconds counts from the command's start, `memory` in MiB.

    With `seed` the guest runs in virtual time, 2**`shift` ns an instruction. `cold` boots instead of restoring. A vng
    guest shares `share`. With `dump` a crash or a hang leaves a vmcore.
    """

    argv: tuple[str, ...]
    kernel: str = refs.DEFAULT
    topology: Topology = field(default_factory=Topology)
    memory: int = 512
    timeout: float = 120.0
    files: tuple[Path, ...] = ()
    append: tuple[str, ...] = ()
    seed: int | None = None
    shift: int = DEFAULT_SHIFT
    cold: bool = False
    backend: str = "micro"
    share: Share | None = None
    dump: bool = False


def execute(
    request: Request,
    run: Run,
    *,
    on_stdout: Callable[[bytes], None],
    on_stderr: Callable[[bytes], None],
    say: Callable[[str], None],
) -> Outcome:
    """Run it. `say` gets a word on what is being done. Raises HarnessError for what fails before QEMU runs."""
    # What the caller got wrong is said before anything large is fetched.
    job = run_request(request.argv, cwd="/root", env=GUEST_ENV)
    files = [initramfs.Payload(file, f"/root/{file.name}") for file in request.files]
    virtual = None if request.seed is None else VirtualTime(request.shift)
    # In virtual time the job is handed over with the files: a message would come at a time of the host's.
    extra = [cpio.regular("kl/job", job)] if virtual else []
    archive = initramfs.payload(files, extra=extra) if files or extra else b""
    say("finding the kernel")
    kernel = refs.resolve(request.kernel)
    made = backend(
        request.backend,
        kernel,
        request.topology,
        request.memory,
        append=request.append,
        virtual=virtual,
        share=request.share,
    )
    say(f"starting {kernel.release}")
    with ExitStack() as stack:
        keep = {name: stack.enter_context((run.path / name).open("wb")) for name in ("stdout", "stderr")}

        def tee(name: str, on_bytes: Callable[[bytes], None]) -> Callable[[bytes], None]:
            left = _KEPT_BYTES

            def take(data: bytes) -> None:
                nonlocal left
                if left >= 0 > left - len(data):
                    run.note("output-cut", stream=name, kept=_KEPT_BYTES)
                keep[name].write(data[: max(left, 0)])
                keep[name].flush()
                left -= len(data)
                on_bytes(data)

            return take

        command = Command(
            () if virtual else request.argv,
            request.timeout,
            tee("stdout", on_stdout),
            tee("stderr", on_stderr),
            made.cwd,
            made.env,
            request.dump,
        )
        started = made.attend(blob(archive, seed=request.seed), run, cold=request.cold)
        watched = asyncio.run(watch(started, run, command, real_time=virtual is None))
    return _judge(request, kernel, run, watched)


def _judge(request: Request, kernel: Kernel, run: Run, watched: Watched) -> Outcome:
    found = judge_machine(kernel, run, watched, deadline=request.timeout)
    if found is not None:
        return with_vmcore(found, run, watched.vmcore)
    base = unjudged(kernel, run, watched)
    seen = reports(watched)
    also = f"; the kernel reported: {seen[0].what}" if seen else ""
    if isinstance(watched.status, str):
        name = request.argv[0]
        if Path(name).name in {file.name for file in request.files}:
            return replace(
                base,
                verdict=Verdict.COMMAND_FAILED,
                summary=f"cannot run {watched.status}",
                exit_status=127,
                next="the file is there: is it executable, and is its interpreter (first line) in the guest?",
            )
        return replace(
            base,
            verdict=Verdict.COMMAND_FAILED,
            summary=f"cannot run {watched.status}",
            exit_status=127,
            next=f"take it along: kernloop run --with $(which {shlex.quote(name)}) -- " + shlex.join(request.argv),
        )
    status = watched.status or 0
    if status == 0:
        return replace(base, verdict=Verdict.PASS, summary=f"exit 0{also}", exit_status=0)
    how = f"signal {-status}" if status < 0 else f"exit {status}"
    return replace(
        base,
        verdict=Verdict.COMMAND_FAILED,
        summary=how + also,
        exit_status=status,
        next=f"its output is in {run.path}/stdout and stderr",
    )
