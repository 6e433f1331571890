# SPDX-License-Identifier: Apache-2.0
"""`kernloop run`: boot a kernel, run one command, say what happened."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from kernloop.host import toolset
from kernloop.kernel import refs
from kernloop.kernel.kernel import Kernel
from kernloop.report.crash import Crash, most_severe
from kernloop.report.severity import Severity
from kernloop.runs import Run
from kernloop.verdict import Evidence, KernelSeen, Outcome, Verdict
from kernloop.vm import accel, initramfs
from kernloop.vm.argv import MachineSpec
from kernloop.vm.micro import Command, End, Watched, watch

__all__ = ["SCHEMA", "Request", "crash_of", "execute", "judge_machine", "kernel_seen", "write_initramfs"]

SCHEMA = "kernloop.run/1"


@dataclass(frozen=True)
class Request:
    """What to run where; `timeout` in seconds counts from the command's start, `memory` in MiB."""

    argv: tuple[str, ...]
    kernel: str = refs.DEFAULT
    cpus: int = 2
    memory: int = 512
    timeout: float = 120.0
    files: tuple[Path, ...] = ()
    append: tuple[str, ...] = ()


def execute(
    request: Request,
    run: Run,
    *,
    on_stdout: Callable[[bytes], None],
    on_stderr: Callable[[bytes], None],
    say: Callable[[str], None],
) -> Outcome:
    """Run it. `say` gets a word on what is being done. Raises HarnessError for what fails before QEMU runs."""
    say("finding the kernel")
    tools = toolset.get()
    kernel = refs.resolve(request.kernel)
    say("proving the accelerator")
    machine = MachineSpec(request.cpus, request.memory, accel.prove(kernel).name, append=request.append)
    extra = (
        initramfs.payload([initramfs.Payload(file, f"/root/{file.name}") for file in request.files])
        if request.files
        else b""
    )
    say(f"booting {kernel.release}")
    with ExitStack() as stack:
        archive = stack.enter_context(run.scratch("initramfs"))
        write_initramfs(kernel, archive, extra)
        keep = {name: stack.enter_context((run.path / name).open("wb")) for name in ("stdout", "stderr")}

        def tee(name: str, on_bytes: Callable[[bytes], None]) -> Callable[[bytes], None]:
            def take(data: bytes) -> None:
                keep[name].write(data)
                keep[name].flush()
                on_bytes(data)

            return take

        command = Command(request.argv, request.timeout, tee("stdout", on_stdout), tee("stderr", on_stderr))
        watched = asyncio.run(watch(tools.qemu, machine, kernel, archive, run, command))
    return _judge(request, kernel, run, watched)


def write_initramfs(kernel: Kernel, path: Path, extra: bytes) -> Path:
    """The base archive of `kernel` and `extra` behind it, at `path`."""
    path.write_bytes(initramfs.base(kernel) + extra)
    return path


def kernel_seen(kernel: Kernel, watched: Watched | None) -> KernelSeen:
    hello = watched.hello if watched else None
    return KernelSeen(
        kernel.ref,
        kernel.release,
        kernel.build_id,
        hello.release if hello else None,
        hello.build_id if hello and hello.build_id else None,
    )


def crash_of(watched: Watched) -> Crash | None:
    """The worst thing that the kernel itself reported, if it is a crash."""
    worst = most_severe(watched.crashes)
    return worst if worst and worst.severity in (Severity.PANIC, Severity.OOPS) else None


def judge_machine(kernel: Kernel, run: Run, watched: Watched, *, deadline: float) -> Outcome | None:
    """The verdict when the machine did not simply do its job: crash, hang, gone, wrong kernel; None when it did."""
    base = Outcome(
        Verdict.UNKNOWN,
        "",
        kernel=kernel_seen(kernel, watched),
        evidence=_evidence(run),
        times=dict(watched.times),
        console_sha256=watched.console_sha256,
    )
    crash = crash_of(watched)
    late = watched.end in (End.DEADLINE, End.BOOT_DEADLINE)
    # A dead kernel is made to panic by our own NMI for its backtraces: that is the hang's evidence, not a panic.
    if crash and not (late and watched.answered_sysrq is False and "NMI" in crash.message):
        verdict = Verdict.PANIC if crash.severity is Severity.PANIC else Verdict.OOPS
        where = f" in {crash.function}" if crash.function and crash.function not in crash.title else ""
        lines = (crash.start_line, crash.end_line)
        return replace(
            base,
            verdict=verdict,
            summary=crash.title + where,
            function=crash.function,
            exit_status=_status(watched),
            next=f"kernloop runs show {run.id} --console",
            evidence=(Evidence("console.log", crash.title, lines), *base.evidence[1:]),
        )
    if watched.end is End.PANIC:
        return replace(
            base,
            verdict=Verdict.PANIC,
            summary="the kernel panicked; the console does not say where",
            next=f"kernloop runs show {run.id} --console",
        )
    if late:
        alive = "answers SysRq, so the kernel is alive" if watched.answered_sysrq else "does not answer SysRq"
        state = f"the guest {alive}; backtraces of CPUs and tasks are at the end of console.log"
        if watched.end is End.BOOT_DEADLINE:
            return replace(
                base,
                verdict=Verdict.BOOT_HANG,
                summary=f"the guest's init was not up in time; {state}",
                next=f"kernloop runs show {run.id} --console",
            )
        return replace(
            base,
            verdict=Verdict.HANG,
            summary=f"the deadline of {deadline:g} s passed; {state}",
            next=f"kernloop runs show {run.id} --console, or give it a longer --timeout",
        )
    if watched.end is End.GONE:
        return _gone(base, watched)
    seen = base.kernel
    if seen is not None and seen.matches is False:
        return replace(
            base,
            verdict=Verdict.INFRA,
            next="kernloop kernel info shows what was asked for",
            summary=f"the guest runs build-id {seen.guest_build_id}, not {seen.build_id}",
        )
    return None


def _judge(request: Request, kernel: Kernel, run: Run, watched: Watched) -> Outcome:
    found = judge_machine(kernel, run, watched, deadline=request.timeout)
    if found is not None:
        return found
    base = Outcome(
        Verdict.PASS,
        "exit 0",
        kernel=kernel_seen(kernel, watched),
        evidence=_evidence(run),
        times=dict(watched.times),
        console_sha256=watched.console_sha256,
    )
    if isinstance(watched.status, str):
        name = request.argv[0]
        return replace(
            base,
            verdict=Verdict.COMMAND_FAILED,
            summary=f"cannot run {watched.status}",
            exit_status=127,
            next=f"take it along: kernloop run --with $(which {shlex.quote(name)}) -- " + shlex.join(request.argv),
        )
    status = watched.status or 0
    if status == 0:
        return replace(base, exit_status=0)
    how = f"signal {-status}" if status < 0 else f"exit {status}"
    return replace(
        base,
        verdict=Verdict.COMMAND_FAILED,
        summary=how,
        exit_status=status,
        next=f"its output is in {run.path}/stdout and stderr",
    )


def _gone(base: Outcome, watched: Watched) -> Outcome:
    qemu = watched.qemu
    if qemu is not None and qemu.status < 0:
        return replace(
            base,
            verdict=Verdict.LOST,
            summary=f"QEMU was killed from outside by signal {-qemu.status}",
            next="look at who kills: the OOM killer (host dmesg), a person; then run it again",
        )
    if watched.shutdown_reason in ("guest-shutdown", "guest-reset"):
        off = watched.shutdown_reason == "guest-shutdown"
        how = "powered itself off" if off else "was reset (reboot, triple fault)"
        return replace(
            base,
            verdict=Verdict.LOST,
            summary=f"the guest {how} before the command ended",
            next="the end of console.log says what it did last",
        )
    said = qemu.stderr.splitlines()[-1] if qemu and qemu.stderr else "it said nothing"
    if watched.hello is None:
        return replace(
            base,
            verdict=Verdict.INFRA,
            summary=f"QEMU ended before the guest was up: {said}",
            next="qemu.stderr and argv in the run directory show how it was called",
        )
    return replace(base, verdict=Verdict.LOST, summary=f"QEMU ended on its own: {said}", next="see qemu.stderr")


def _status(watched: Watched) -> int | None:
    return watched.status if isinstance(watched.status, int) else None


def _evidence(run: Run) -> tuple[Evidence, ...]:
    known = {
        "console.log": "the guest's serial console",
        "stdout": "the command's standard output",
        "stderr": "the command's standard error",
        "timeline.jsonl": "what was done when",
        "registers.txt": "the vCPUs' registers when the deadline had passed",
        "argv": "QEMU's command line",
    }
    return tuple(Evidence(name, what) for name, what in known.items() if (run.path / name).exists())
