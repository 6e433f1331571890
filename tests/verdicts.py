# SPDX-License-Identifier: Apache-2.0
"""Finished runs with real verdicts, made from what was recorded in real guests."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kernloop import runs
from kernloop.cli.verify import details
from kernloop.kernel.kernel import Kernel
from kernloop.present import conclude, outcome_json
from kernloop.report.compiler import parse
from kernloop.report.engine import parse_console
from kernloop.sched import judge
from kernloop.sched.compile import Compiled
from kernloop.sched.events import SuiteReader
from kernloop.sched.judge import Judgement
from kernloop.verdict import Evidence, KernelSeen, Outcome, Verdict, exit_code, guest_exit_code
from kernloop.vm.machine import Ended, Hello
from kernloop.vm.session import End, Watched

FIXTURES = Path(__file__).parent / "fixtures"
KERNEL = Kernel("debian:7.3.4", "7.3.4", "", "ab12", "", Path("/x"), None, None, None, None, None)
SEEN = KernelSeen("debian:7.3.4", "7.3.4", "ab12", "7.3.4", "ab12")
VERIFY, RUN = "kernloop.verify/1", "kernloop.run/1"


@dataclass(frozen=True)
class Finished:
    """A run directory and the object that its verdict.json holds."""

    path: Path
    value: dict[str, Any]


def verified(name: str, *, events: bytes | None = None) -> Finished:
    """The verify recorded as `name` in tests/fixtures/sched, with other `events` if given."""
    folder = FIXTURES / "sched" / name
    data = (folder / "events.jsonl").read_bytes() if events is None else events
    spec = {"subject": f"{name}.bpf.c", "kernel": "debian:7.3", "cpus": 2, "memory": 512, "seed": 1, "timeout": 300.0}
    with runs.create("verify", VERIFY, spec) as record:
        (record.path / "events.jsonl").write_bytes(data)
        shutil.copyfile(folder / "console.log", record.path / "console.log")
        lines = (folder / "console.log").read_text(errors="replace").split("\n")
        watched = Watched(
            End.COMMAND, Hello("7.3.4", "ab12"), 1, tuple(parse_console(lines)), Ended(0, ""), "guest-shutdown", None,
            "", "c0ffee", {"boot": 6.5, "command": 9.25},
        )  # fmt: skip
        seen = SuiteReader()
        seen.feed(data)
        return _verified(record, judge.judge(KERNEL, record, watched, seen, deadline=300, build_seconds=0.5))


def not_built() -> Finished:
    """A verify of a scheduler that clang refuses."""
    text = (FIXTURES / "clang/clang-22.txt").read_text()
    source = Path("scheduler.bpf.c")
    with runs.create("verify", VERIFY, {"subject": str(source)}) as record:
        built = Compiled(None, tuple(parse(text.splitlines())), text)
        return _verified(record, judge.build_failed(source, KERNEL, record, built))


def ran(verdict: Verdict, summary: str, *, status: int | None = None, console: bytes = b"", next_: str = "",
        lines: tuple[int, int] | None = None, stdout: bytes = b"") -> Finished:  # fmt: skip
    """A run with this verdict and these bytes of its guest."""
    with runs.create("run", RUN, {"subject": "sh -c 'echo <b>'", "kernel": "debian:7.3", "cpus": 2}) as record:
        (record.path / "console.log").write_bytes(console)
        (record.path / "stdout").write_bytes(stdout)
        (record.path / "argv").write_text("qemu\n-accel\ntcg,thread=single\n-append\nconsole=ttyS0 panic=0\n")
        where = (Evidence("console.log", "a <report>", lines),) if lines else ()
        outcome = Outcome(verdict, summary, next_, SEEN, status, evidence=where, times={"boot": 2.5, "command": 0.5})
        value = outcome_json(RUN, record.path, outcome, exit_code=guest_exit_code(verdict, status))
        conclude(record, value)
    return Finished(record.path, value)


def _verified(record: runs.Run, judgement: Judgement) -> Finished:
    outcome = judgement.outcome
    more = details(judgement)
    value = outcome_json(VERIFY, record.path, outcome, exit_code=exit_code(outcome.verdict), seed=1, **more)
    conclude(record, value)
    return Finished(record.path, value)
