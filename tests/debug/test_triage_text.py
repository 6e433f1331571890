# SPDX-License-Identifier: Apache-2.0
"""What triage prints: the weightiest first, and few tokens however much there is."""

from __future__ import annotations

from pathlib import Path

import bpe_openai
import pytest

from kernloop.debug.helpers.held import Held
from kernloop.debug.helpers.tasks import Who
from kernloop.debug.memory_facts import CpuSeen, Memory, Suspect
from kernloop.debug.triage import Subject, Triage, subject_of, triage
from kernloop.debug.triage_text import lines, weight
from kernloop.debug.whyhung import Finding
from kernloop.debug.whyoops import Pointed
from kernloop.errors import UsageError
from support import ROOT, runs_dir

ENCODING = bpe_openai.get_encoding("o200k_base")
BUDGET = 1500
WHO = Who(4711, "kworker/u64:3", 0xFFFF888012345678)
CALL = "ext4_mb_regular_allocator+0x{:x} [ext4] fs/ext4/mballoc.c:{}"


def huge(count: int, log: str) -> Triage:
    """A crash of a machine with `count` CPUs, and as many of everything else."""
    calls = tuple(CALL.format(number * 977, number) for number in range(count))
    cpus = tuple(CpuSeen(n, f"task[{n}]", False, False, True, False, 1.5, calls, True) for n in range(count))
    memory = Memory(
        "/home/somebody/.local/state/kernloop/runs/20261122-035614-run-2ace/vmcore",
        "dump",
        40 << 20,
        "7.3.4+deb13-cloud-amd64",
        "ab" * 20,
        "btf",
        Suspect(str(WHO), "D", None, "it is told to be", False, False, calls, True),
        tuple(Finding("lock-held", f"task[{n}] waits for rwsem at {n << 36:#x}, held", True) for n in range(count)),
        tuple(Pointed(f"R{n}", n * 0x123456789ABCDEF % (1 << 64), "object of kmalloc-64") for n in range(count)),
        tuple(
            Held(WHO, "mutex", "", n << 36, "its stack has the address, the lock names it", True) for n in range(count)
        ),
        cpus,
        None,
        "the kernel has no sched_ext",
        (log,) * count,
        count,
        ("the CPUs: no",) * count,
    )
    run = Subject("20261122-035614-run-2ace", Path("/run"), Path(memory.source))
    summary = "the kernel panicked, and had much to say of it: " + log
    return Triage(run, "hang", summary, "7.3.4", None, (), 0, None, None, memory, "", "look " * 60, ())


@pytest.mark.parametrize("log", ["[ 1.0] at 0x" + "deadbeef90" * 12, "[ 9.9] a word or two " * 6, "[ 1.2] \u4e2d" * 40])
def test_however_much_there_is_it_stays_within_the_budget_and_says_what_is_left_out(log: str) -> None:
    text = "\n".join(lines(huge(64, log)))
    assert len(ENCODING.encode(text)) <= BUDGET, text
    assert "... " in text and "more: --json" in text
    where = [
        text.index(word) for word in ("hang: ", "Why it hangs", "Task to blame", "Locks held", "CPUs", "Log", "next: ")
    ]
    assert where == sorted(where)


def test_the_estimate_is_no_less_than_the_tokens_of_what_kernels_print() -> None:
    logs = [log.read_text(errors="replace") for log in (ROOT / "tests/fixtures/console").glob("*.log")]
    printed = {line for log in logs for line in log.splitlines()}
    assert len(printed) > 5_000
    assert [line for line in printed if weight(line) < 0.8 * len(ENCODING.encode(line)) - 4] == []


def test_what_is_neither_a_run_nor_a_vm_nor_a_dump_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="neither a run"):
        subject_of("nothing-of-the-kind")
    other = tmp_path / "core"
    other.write_bytes(b"no core" * 100)
    with pytest.raises(UsageError, match="no dump"):
        triage(subject_of(str(other)))


def test_a_run_whose_vmcore_is_damaged_is_told_by_its_console(tmp_path: Path) -> None:
    run = runs_dir() / "20261122-000000-run-abcd"
    run.mkdir(parents=True)
    (run / "spec.json").write_text('{"verb": "run", "subject": "x"}')
    (run / "verdict.json").write_text('{"verdict": "panic", "summary": "it panicked"}')
    (run / "console.log").write_text("Kernel panic - not syncing: sysrq triggered crash\n")
    (run / "vmcore").write_bytes(b"KDUMP   " + bytes(5000))
    found = triage(subject_of("last"))
    assert found.memory is None and "no dump that can be read" in found.no_memory
    text = "\n".join(lines(found))
    assert text.startswith("panic: it panicked") and "no dump" in text
