# SPDX-License-Identifier: Apache-2.0
"""From what was seen of a scheduler to the verdict on it: most severe first, the kernel's word before the loader's."""

from __future__ import annotations

import errno
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

from kernloop.kernel.kernel import Kernel
from kernloop.report.compiler import Diagnostic, errors
from kernloop.report.scx import ExitMessage, ScxExit, make_exit, match_message, parse_kmsg
from kernloop.report.scx_dump import DumpTask, explain_placement, guilty_task, parse_dump
from kernloop.report.verifier import Rejection, parse_rejection
from kernloop.runs import Run
from kernloop.sched.compile import Compiled
from kernloop.sched.events import Gate, SuiteReader, TestResult
from kernloop.verdict import Evidence, Outcome, Verdict
from kernloop.vm.judge import judge_machine, kernel_seen, unjudged
from kernloop.vm.session import Watched

# scx_bpf_error() puts its place before the text (tools/sched_ext/include/scx/common.bpf.h).
_OWN_ERROR = re.compile(r"(?P<place>[\w./+-]+:\d+): ")

__all__ = ["Judgement", "build_failed", "judge"]


@dataclass(frozen=True)
class Judgement:
    """The outcome and what it rests on; fields that do not apply are None or empty."""

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


def build_failed(source: Path, kernel: Kernel, run: Run, built: Compiled) -> Judgement:
    (run.path / "compiler.txt").write_text(built.text)
    first = errors(built.diagnostics)[0]
    where = ":".join(str(part) for part in (first.file, first.line, first.column) if part)
    outcome = Outcome(
        Verdict.BUILD_FAILED,
        f"{where}: {first.message}",
        kernel=kernel_seen(kernel, None),
        next=f"correct {source}, line {first.line}"
        if Path(first.file).name == source.name
        else f"the complaint is about {first.file}, which {source} includes: see compiler.txt for the way there",
        times={"total": round(run.elapsed, 3)},
        evidence=(Evidence("compiler.txt", "all that clang said"),),
    )
    return Judgement(outcome, diagnostics=built.diagnostics)


def judge(
    kernel: Kernel, run: Run, watched: Watched, seen: SuiteReader, *, deadline: float, build_seconds: float
) -> Judgement:
    """The verdict. Evidence (loader.txt, dump.txt) is written before anything is decided."""
    if seen.stderr:
        (run.path / "loader.txt").write_text("\n".join(seen.stderr) + "\n")
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
    )
    machine = judge_machine(kernel, run, watched, deadline=deadline)
    if machine is not None and machine.verdict in (Verdict.PANIC, Verdict.OOPS):
        return replace(base, outcome=replace(machine, times=base.outcome.times), exit=ended)
    if ended is not None and ended.is_error:
        return _ejected(base, run, ended, seen)
    if seen.load_errno is not None or (not seen.enabled and parse_rejection("\n".join(seen.stderr))):
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
        # Neither the verifier nor the kernel has said a word against it: a wrong program or wrong arguments, perhaps.
        status = f" (exit {seen.loader_exit['status']})" if seen.loader_exit else ""
        return _say(
            base,
            Verdict.INCONCLUSIVE,
            (seen.not_enabled or "the scheduler was never enabled") + status,
            f"is it a scheduler's loader, with the right arguments? Its own words are in {run.path}/loader.txt",
        )
    return _tested(base, run, watched, seen, ended)


def _tested(base: Judgement, run: Run, watched: Watched, seen: SuiteReader, ended: ScxExit | None) -> Judgement:
    bad = [test for test in seen.tests if not test.ok]
    gates = [gate for gate in seen.gates if not gate.ok]
    if bad:
        worst = bad[0]
        more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        return _say(
            replace(base, exit=ended),
            Verdict.TEST_FAILED,
            f"{worst.name}: {worst.why or 'failed'}: {worst.figure:g} {worst.unit}, limit {worst.limit:g}{more}",
            f"kernloop runs show {run.id}",
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
    if not seen.done:
        return _say(replace(base, exit=ended), Verdict.TEST_FAILED, "the suite did not pass", f"see {run.path}")
    left_out = [name for name in seen.planned if name not in {test.name for test in seen.tests}]
    if left_out:
        return _say(base, Verdict.INFRA, f"the suite ended without {left_out[0]}", f"see {run.path}/events.jsonl")
    return _say(replace(base, exit=ended), Verdict.PASS, f"{len(seen.tests)} tests", "")


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
    rejection = parse_rejection("\n".join(seen.stderr))
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


# The scheduler's own record of its end; where it keeps none, the kernel log's.
def _exit(run: Run, seen: SuiteReader) -> ScxExit | None:
    known = seen.exit
    if known is not None and known.is_error:
        return known
    log = run.path / "console.log"
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    for event in parse_kmsg(lines):
        if event.is_error:
            return make_exit(None, None, event.reason, event.message)
    return known


def _say(base: Judgement, verdict: Verdict, summary: str, step: str) -> Judgement:
    return replace(base, outcome=replace(base.outcome, verdict=verdict, summary=summary, next=step))
