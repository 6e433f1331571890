# SPDX-License-Identifier: Apache-2.0
"""From what was watched to a verdict on the machine: crash, hang, gone, the wrong kernel, or nothing of the kind."""

from __future__ import annotations

import signal
from dataclasses import replace

from kernloop.kernel import debugfiles, hangs
from kernloop.kernel.kernel import Kernel
from kernloop.report.crash import Crash, most_severe
from kernloop.report.severity import Severity
from kernloop.runs import Run
from kernloop.verdict import Evidence, KernelSeen, Outcome, Verdict, Vmcore
from kernloop.vm.session import End, Watched
from kernloop.vm.stuck import FILE, worst

# What our own NMI makes of a kernel that answers nothing (unknown_nmi_panic): "Kernel panic - not syncing: NMI: Not
# continuing" (arch/x86/kernel/nmi.c).
NMI = "NMI: Not continuing"
# What to do about a QEMU that was killed.
WHO_KILLS = "look at who kills: the OOM killer (host dmesg), a person; then run it again"
_CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE)

__all__ = ["NMI", "WHO_KILLS", "crash_place", "judge_machine", "kernel_seen", "reports", "unjudged", "with_vmcore"]


def kernel_seen(kernel: Kernel, watched: Watched | None) -> KernelSeen:
    hello = watched.hello if watched else None
    return KernelSeen(
        kernel.ref,
        kernel.release,
        kernel.build_id,
        hello.release if hello else None,
        hello.build_id if hello and hello.build_id else None,
    )


def reports(watched: Watched) -> tuple[Evidence, ...]:
    """Everything that the kernel itself reported, the worst first: crashes, stalls, warnings; on the console, or in
    pstore where the console does not have it."""
    found = [*(("console.log", crash) for crash in watched.crashes), *watched.kept.lost]
    found.sort(key=lambda one: list(Severity).index(one[1].severity))
    return tuple(Evidence(path, crash.title, (crash.start_line, crash.end_line)) for path, crash in found)


def unjudged(kernel: Kernel, run: Run, watched: Watched) -> Outcome:
    """What every verdict on this run has in common."""
    return Outcome(
        Verdict.UNKNOWN,
        "",
        kernel=kernel_seen(kernel, watched),
        evidence=(*reports(watched), *(one.evidence for one in watched.kept.stored), *run.evidence()),
        times=dict(watched.times),
        console_sha256=watched.console_sha256,
        exit_status=watched.status if isinstance(watched.status, int) else None,
    )


def judge_machine(kernel: Kernel, run: Run, watched: Watched, *, deadline: float) -> Outcome | None:
    """The verdict when the machine did not simply do its job: crash, hang, gone, wrong kernel; None when it did."""
    base = unjudged(kernel, run, watched)
    crash = _crash(watched)
    late = watched.end in (End.DEADLINE, End.BOOT_DEADLINE)
    # A dead kernel is made to panic by our own NMI for its backtraces: that is the hang's evidence, not a panic.
    if crash and not (late and watched.answered_sysrq is False and NMI in crash.message):
        verdict = Verdict.PANIC if crash.severity is Severity.PANIC else Verdict.OOPS
        where = f" in {crash.function}" if crash.function and crash.function not in crash.title else ""
        on_console = crash in watched.crashes
        place = crash_place(run, crash) if on_console else None
        return replace(
            base,
            verdict=verdict,
            summary=crash.title
            + where
            + (f" at {place}" if place else "")
            + ("; the guest was paused there" if watched.end is End.PANIC else ""),
            function=crash.function,
            place=place,
            kind=crash.kind,
            next=f"kernloop report {run.id}" if on_console else f"kernloop debug pstore {run.id}",
        )
    if watched.end is End.PANIC:
        return replace(
            base,
            verdict=Verdict.PANIC,
            summary="the kernel panicked; the console does not say where",
            next=f"kernloop runs show {run.id} --console",
        )
    if late:
        hung = hangs.seen(run.path)
        # A vCPU that keeps its interrupts off goes before what the console says.
        guilty = worst(watched.stuck)
        function = guilty.function if guilty and not guilty.interrupts else None
        state = "; ".join([*([hung.summary] if hung and not function else []), _state(watched)])
        function = function or (hung.function if hung else None)
        look = (
            f"kernloop report {run.id} --all" if watched.crashes or hung else f"kernloop runs show {run.id} --console"
        )
        if watched.end is End.BOOT_DEADLINE:
            return replace(
                base,
                verdict=Verdict.BOOT_HANG,
                summary=f"the guest's init was not up in time; {state}",
                function=function,
                next=look,
            )
        if watched.barked:
            return replace(
                base,
                verdict=Verdict.HANG,
                summary=f"the watchdog barked, nobody could pet it for {watched.barked} s; {state}",
                function=function,
                next=f"{run.path}/{FILE} has each CPU's stack, {look} what it said",
            )
        return replace(
            base,
            verdict=Verdict.HANG,
            summary=f"the deadline of {deadline:g} s passed; {state}",
            function=function,
            next=f"{look}, or give it a longer --timeout",
        )
    if watched.end is End.GONE:
        return _gone(base, run, watched)
    seen = base.kernel
    if seen is not None and seen.matches is False:
        return replace(
            base,
            verdict=Verdict.INFRA,
            next="kernloop kernel info shows what was asked for",
            summary=f"the guest runs build-id {seen.guest_build_id}, not {seen.build_id}",
        )
    return None


def with_vmcore(outcome: Outcome, run: Run, vmcore: Vmcore | None, *, again: str = "--dump") -> Outcome:
    """The outcome of a run that can leave a vmcore: a crash or a hang leads to it, or says how to get one."""
    outcome = replace(outcome, vmcore=vmcore)
    crashed = outcome.verdict in (Verdict.PANIC, Verdict.OOPS)
    if not crashed and outcome.verdict not in (Verdict.HANG, Verdict.BOOT_HANG, Verdict.INCONCLUSIVE):
        return outcome
    if vmcore is None:
        undecided = outcome.verdict is Verdict.INCONCLUSIVE
        return replace(outcome, next=outcome.next + f"; again with {again}: kernloop debug triage" * (not undecided))
    if vmcore.error:
        return replace(outcome, next=f"{outcome.next}; no vmcore: {vmcore.error}")
    # A repetition's folder lies in its run's.
    whole = run.path if (run.path / "spec.json").exists() else run.path.parent
    return replace(outcome, next=f"kernloop debug triage {whole.name}" + f"; {outcome.next}" * (not crashed))


# What a guest that was late still showed.
def _state(watched: Watched) -> str:
    if watched.answered_sysrq:
        return "the kernel is alive, it answers SysRq: backtraces of CPUs and tasks are at the end of console.log"
    by_nmi = any(NMI in crash.message for crash in watched.crashes)
    where = "backtraces by NMI are at the end of console.log" if by_nmi else "the vCPUs' registers are in registers.txt"
    guilty = worst(watched.stuck)
    at = f"{guilty}; " if guilty else ""
    return f"the kernel does not answer SysRq, it is dead or has its interrupts off: {at}{where}"


def crash_place(run: Run, crash: Crash) -> str | None:
    """The file and line of a crash; None where there is no debugging information."""
    found = debugfiles.decoded(run.path, crash)
    return str(found.guilty) if found and found.guilty else None


# The worst that the kernel reported, if it is a crash.
def _crash(watched: Watched) -> Crash | None:
    worst = most_severe((*watched.crashes, *(crash for _, crash in watched.kept.lost)))
    return worst if worst and worst.severity in (Severity.PANIC, Severity.OOPS) else None


def _gone(base: Outcome, run: Run, watched: Watched) -> Outcome:
    qemu = watched.qemu
    if qemu is not None and qemu.status < 0:
        return replace(
            base,
            verdict=Verdict.LOST,
            summary=f"QEMU crashed with signal {-qemu.status}"
            if -qemu.status in _CRASHES
            else f"QEMU was killed from outside by signal {-qemu.status}",
            next=f"{run.path}/qemu.stderr may say more; run it again" if -qemu.status in _CRASHES else WHO_KILLS,
        )
    if watched.hello is None and watched.init_said:
        return replace(
            base,
            verdict=Verdict.REJECTED,
            summary=f"this kernel cannot be talked to: {watched.init_said}",
            next="build it with what skills/kernel-boot/references/own-kernel.md lists",
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
