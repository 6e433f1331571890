# SPDX-License-Identifier: Apache-2.0
"""From what was seen of a scheduler to the verdict on it: most severe first, the kernel's word before the loader's."""

from __future__ import annotations

import errno
import os
import re
import signal
from dataclasses import dataclass, replace
from pathlib import Path

from kernloop.kernel.kernel import Kernel
from kernloop.report.compiler import Diagnostic, errors
from kernloop.report.scx import ExitMessage, ScxExit, make_exit, match_message, parse_kmsg
from kernloop.report.scx_dump import DumpTask, explain_placement, guilty_task, parse_dump
from kernloop.report.verifier import Rejection, parse_rejection
from kernloop.runs import Run
from kernloop.sched.check.drift import drift, told
from kernloop.sched.check.files import cause_of
from kernloop.sched.check.finding import Finding
from kernloop.sched.compile import Compiled
from kernloop.sched.cures import cure
from kernloop.sched.events import Gate, Stats, SuiteReader, TestResult
from kernloop.sched.obj.kernel import of_btf
from kernloop.sched.project import NotBuilt
from kernloop.verdict import Evidence, Outcome, Verdict
from kernloop.vm.judge import judge_machine, kernel_seen, unjudged
from kernloop.vm.session import Watched

# scx_bpf_error() puts its place before the text (tools/sched_ext/include/scx/common.bpf.h).
_COMPLAINT = re.compile(r"(?i)(fatal )?error\b|libbpf: .*(failed|cannot|not found)|thread '.*' panicked")
_OWN_ERROR = re.compile(r"(?P<place>[\w./+-]+:\d+): ")

__all__ = ["Judgement", "build_failed", "judge", "project_failed", "with_findings"]


@dataclass(frozen=True)
class Judgement:
    """The outcome and what it rests on; fields that do not apply are None or empty.

    `findings` are the static check's; `cause` is the one among them that explains why the kernel ejected it.
    """

    outcome: Outcome
    tests: tuple[TestResult, ...] = ()
    gates: tuple[Gate, ...] = ()
    scheduler: str = ""
    exit: ScxExit | None = None
    known: ExitMessage | None = None
    guilty: DumpTask | None = None
    placement: str = ""
    during: str = ""
    rejection: Rejection | None = None
    diagnostics: tuple[Diagnostic, ...] = ()
    counters: tuple[tuple[str, int], ...] = ()
    stats: tuple[Stats, ...] = ()
    findings: tuple[Finding, ...] = ()
    cause: Finding | None = None


def with_findings(judgement: Judgement, findings: tuple[Finding, ...]) -> Judgement:
    """`judgement` with what the static check has found.

    The kernel's word stands: a finding names its cause. What the suite passes is rejected for what must go wrong.
    """
    judgement = replace(judgement, findings=findings)
    outcome = judgement.outcome
    if outcome.verdict is Verdict.EJECTED and judgement.known is not None:
        cause = cause_of(judgement.known.id, findings)
        if cause is None:
            return judgement
        step = f"{cause.file}:{cause.line}: {cause.cure}"
        return replace(judgement, cause=cause, outcome=replace(outcome, next=step))
    first = next((one for one in findings if one.level == "must"), None)
    if outcome.verdict is Verdict.PASS and first is not None:
        text = f"{first.file}:{first.line}: {first.why}; the suite has not come to it"
        outcome = replace(outcome, verdict=Verdict.REJECTED, summary=text, next=first.cure)
        return replace(judgement, cause=first, outcome=outcome)
    return judgement


def build_failed(source: Path, kernel: Kernel, run: Run, built: Compiled) -> Judgement:
    (run.path / "compiler.txt").write_text(built.text)
    first = errors(built.diagnostics)[0]
    where = ":".join(str(part) for part in (first.file, first.line, first.column) if part)
    summary, step = f"{where}: {first.message}", f"correct {source}, line {first.line}"
    lacking = drift(built.diagnostics, kernel.release, of_btf(kernel.btf) if kernel.btf else None)
    if lacking:
        summary, step = told(lacking)
    elif Path(first.file).name != source.name:
        step = f"the complaint is about {first.file}, which {source} includes: see compiler.txt for the way there"
    outcome = Outcome(
        Verdict.BUILD_FAILED,
        summary,
        kernel=kernel_seen(kernel, None),
        next=step,
        times={"total": round(run.elapsed, 3)},
        evidence=(Evidence("compiler.txt", "all that clang said"),),
    )
    return Judgement(outcome, diagnostics=built.diagnostics)


def project_failed(built: NotBuilt, kernel: Kernel, run: Run) -> Judgement:
    """The verdict on a folder whose own build system refused it."""
    (run.path / "compiler.txt").write_text(built.text)
    first = next((one for one in errors(built.diagnostics) if one.file), None)
    outcome = Outcome(
        Verdict.BUILD_FAILED,
        built.summary,
        kernel=kernel_seen(kernel, None),
        next=f"correct {first.file}, line {first.line}"
        if first and first.line
        else f"what the build said is in {run.path}/compiler.txt",
        times={"total": round(run.elapsed, 3)},
        evidence=(Evidence("compiler.txt", "all that the build said"),),
    )
    return Judgement(outcome, diagnostics=built.diagnostics)


def judge(
    kernel: Kernel, run: Run, watched: Watched, seen: SuiteReader, *, deadline: float, build_seconds: float
) -> Judgement:
    """The verdict. Evidence (loader.txt, dump.txt) is written before anything is decided."""
    if seen.words:
        (run.path / "loader.txt").write_text("\n".join(seen.words) + "\n")
    ended = _exit(run, seen)
    if ended and ended.dump:
        (run.path / "dump.txt").write_text(ended.dump + "\n")
    base = Judgement(
        replace(
            unjudged(kernel, run, watched),
            exit_status=None,
            times={"build": round(build_seconds, 3), **watched.times, "total": round(run.elapsed, 3)},
        ),
        tests=tuple(seen.tests),
        gates=tuple(seen.gates),
        scheduler=seen.ops,
        during=seen.running,
        counters=tuple(sorted(seen.counters.items())),
        stats=tuple(seen.stats),
    )
    machine = judge_machine(kernel, run, watched, deadline=deadline)
    if machine is not None and machine.verdict in (Verdict.PANIC, Verdict.OOPS):
        return replace(base, outcome=replace(machine, times=base.outcome.times), exit=ended)
    if ended is not None and ended.is_error:
        return _ejected(base, run, ended, seen)
    if seen.load_errno is not None or (not seen.enabled and parse_rejection("\n".join(seen.words))):
        return _rejected(base, run, seen)
    if machine is not None:
        outcome = replace(machine, times=base.outcome.times)
        if machine.verdict in (Verdict.HANG, Verdict.BOOT_HANG) and watched.answered_sysrq:
            # The guest's clock is its own, the deadline is the host's: a living kernel may only have been slow.
            outcome = replace(
                outcome,
                verdict=Verdict.INCONCLUSIVE,
                summary=f"the host needed more than {deadline:g} s of real time for it; {machine.summary}",
                next="give it a longer --timeout, or the host less other work",
            )
        return replace(base, outcome=outcome, exit=ended)
    if seen.attach_errno is not None:
        code = seen.attach_errno
        return _say(
            base,
            Verdict.REJECTED,
            f"the kernel refused to attach it: {os.strerror(code)} ({errno.errorcode.get(code, code)})",
            f"see {run.path}/loader.txt and console.log",
        )
    if seen.unusable:
        return _say(base, Verdict.REJECTED, seen.unusable, "is it a sched_ext scheduler with SCX_OPS_DEFINE()?")
    if not seen.enabled:
        return _never_enabled(base, kernel, run, seen)
    return _tested(base, run, watched, seen, ended)


def _tested(base: Judgement, run: Run, watched: Watched, seen: SuiteReader, ended: ScxExit | None) -> Judgement:
    if seen.ejected_after is not None:
        return _left(replace(base, exit=ended), run, seen, ended)
    bad = [test for test in seen.tests if test.result == "fail"]
    unclear = [test for test in seen.tests if test.result == "inconclusive"]
    skipped = [test for test in seen.tests if test.result == "skipped"]
    gates = [gate for gate in seen.gates if not gate.ok]
    if bad:
        worst = bad[0]
        more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        again = f"that test alone, with the scheduler as it was: kernloop replay {run.id} --test {worst.name}"
        step = cure(worst.name)
        return _say(
            replace(base, exit=ended),
            Verdict.TEST_FAILED,
            f"{worst.name}: {worst.why or 'failed'}: {worst.figure:g} {worst.unit}, limit {worst.limit:g}{more}",
            f"{step}; {again}" if step else again,
        )
    if gates:
        return _say(
            replace(base, exit=ended),
            Verdict.TEST_FAILED,
            f"after {gates[0].after}: {gates[0].why}",
            f"kernloop runs show {run.id} --console",
        )
    if seen.done is None:
        return _say(
            base,
            Verdict.INFRA,
            f"the test controller ended in the middle (status {watched.status})",
            f"see {run.path}/stderr",
        )
    if unclear:
        first = unclear[0]
        more = f" (and {len(unclear) - 1} more)" if len(unclear) > 1 else ""
        return _say(
            replace(base, exit=ended),
            Verdict.INCONCLUSIVE,
            f"{first.name}: {first.why}{more}",
            f"look at it alone, with another interleaving: --tests {first.name} --seed 2",
        )
    if not seen.done:
        text = seen.not_unloaded or "the suite did not pass"
        return _say(replace(base, exit=ended), Verdict.TEST_FAILED, text, f"see {run.path}/loader.txt, events.jsonl")
    left_out = [name for name in seen.planned if name not in {test.name for test in seen.tests}]
    if left_out:
        return _say(base, Verdict.INFRA, f"the suite ended without {left_out[0]}", f"see {run.path}/events.jsonl")
    passed = len(seen.tests) - len(skipped)
    if not passed:
        return _say(base, Verdict.INCONCLUSIVE, f"no test was run: {skipped[0].why}", "see --claims")
    summary = f"{passed} tests"
    if skipped:
        summary += f"; skipped: {', '.join(test.name for test in skipped)}"
    return _say(replace(base, exit=ended), Verdict.PASS, summary, "")


# The scheduler went, and the kernel has nothing against it: its loader asked for that, or ended, or loads it anew.
def _left(base: Judgement, run: Run, seen: SuiteReader, ended: ScxExit | None) -> Judgement:
    during = seen.ejected_after or ""
    why = f" ({ended.reason}{': ' if ended.message else ''}{ended.message})" if ended and ended.reason else ""
    step = f"the loader's own words are in {run.path}/loader.txt"
    if seen.restarted is not None:
        text = f"the scheduler gave up{why}, and its loader loaded it anew {seen.restarted:.1f} s later"
        step = f"who asks for SCX_ECODE_ACT_RESTART? A restart is for CPUs that come and go; {step}"
    elif seen.loader_exit is not None and not seen.loader_stays:
        number, status = int(seen.loader_exit.get("signal", 0)), seen.loader_exit.get("status")
        how = f"was killed by {_signal(number)}" if number else f"ended by itself (exit {status})"
        text = f"the scheduler's loader {how}, and the scheduler went with it{why}"
    else:
        text = f"the scheduler gave up{why}, and its loader goes on without it"
    return _say(replace(base, during=during), Verdict.TEST_FAILED, f"during {during}: {text}", step)


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _ejected(base: Judgement, run: Run, ended: ScxExit, seen: SuiteReader) -> Judgement:
    known = match_message(ended.message)
    dump = parse_dump(ended.dump) if ended.dump else None
    guilty = guilty_task(ended.message, dump) if dump else None
    during = seen.ejected_after or seen.running
    own = _OWN_ERROR.match(ended.message)
    if known and known.cure:
        step = known.cure
    elif own:
        step = f"the scheduler gave up by itself: {own['place']} calls scx_bpf_error()"
    else:
        step = f"kernloop runs show {run.id}; the dump is in {run.path}/dump.txt"
    text = f"{ended.reason}: {ended.message}" if ended.message else ended.reason
    return _say(
        replace(
            base,
            exit=ended,
            known=known,
            guilty=guilty,
            during=during,
            placement=explain_placement(guilty) if guilty else "",
        ),
        Verdict.EJECTED,
        text,
        step,
    )


def _rejected(base: Judgement, run: Run, seen: SuiteReader) -> Judgement:
    rejection = parse_rejection("\n".join(seen.words))
    if rejection is None:
        code = seen.load_errno or 0
        return _say(base, Verdict.REJECTED, f"it did not load: {os.strerror(code)}", f"see {run.path}/loader.txt")
    place = f"{rejection.source_file}:{rejection.source_line}: " if rejection.source_file else ""
    inside = f" (in {rejection.program})" if rejection.program else ""
    return _say(
        replace(base, rejection=rejection),
        Verdict.REJECTED,
        f"{place}{rejection.cause}{inside}",
        rejection.hint or f"the whole log is in {run.path}/loader.txt",
    )


# The scheduler's own record of its end; where it keeps none, the kernel log's. A loader's words have more in them, the
# dump, and count when the kernel log has an ejection as well.
def _exit(run: Run, seen: SuiteReader) -> ScxExit | None:
    known = seen.exit
    log = run.path / "console.log"
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    told = next((event for event in parse_kmsg(lines) if event.is_error), None)
    if known is not None and known.is_error and (told or seen.is_record(known)):
        return known
    if told is not None:
        return make_exit(None, None, told.reason, told.message)
    return None if known is None or known.is_error else known


# Neither the verifier nor the kernel has said a word against it: a wrong program or wrong arguments, perhaps.
def _never_enabled(base: Judgement, kernel: Kernel, run: Run, seen: SuiteReader) -> Judgement:
    status = f" (exit {seen.loader_exit['status']})" if seen.loader_exit else ""
    words = [line.strip() for line in seen.words if line.strip()]
    last = next((line for line in words if _COMPLAINT.match(line)), words[-1] if words else "")
    step = f"is it a scheduler's loader, with the right arguments? Its own words are in {run.path}/loader.txt"
    if any("Failed to load BPF" in line for line in words):
        # scx_utils keeps what libbpf says to itself unless it is asked for.
        step = "the scheduler's loader does not say why: give it --verbose, behind --, and read loader.txt"
        if kernel.config_path is None:
            step = (
                "the configuration of this kernel is not known, and libbpf needs it for __kconfig externs: build the "
                "kernel with CONFIG_IKCONFIG, or take a kernel: of which kernloop knows it"
            )
    text = (seen.not_enabled or "the scheduler was never enabled") + status + (f": {last[:160]}" if last else "")
    return _say(base, Verdict.INCONCLUSIVE, text, step)


def _say(base: Judgement, verdict: Verdict, summary: str, step: str) -> Judgement:
    return replace(base, outcome=replace(base.outcome, verdict=verdict, summary=summary, next=step))
