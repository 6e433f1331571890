# SPDX-License-Identifier: Apache-2.0
"""Crashes made in guests: what the verdict says, and where the symbolizer finds the line.

A handful in every run, on the tests' own kernel; with KERNLOOP_LONG_TESTS each of fixtures/crashes.toml, on it and on
the one of an older release, and boots that have much to say and nothing to report.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import crashing
import trees
from kernloop.kernel import refs
from kernloop.kernel.kernel import Kernel
from kernloop.report.crash import Crash, most_severe
from kernloop.report.engine import parse_console
from kernloop.report.symbols import Images, decode
from kernloop.verdict import Verdict
from support import ROOT, SCHEDULERS, kernloop

pytestmark = pytest.mark.vm

ROWS = {row.name: row for row in crashing.rows()}
HANDFUL = (
    "null",
    "inlined",
    "irq",
    "double-fault",
    "delete-twice",
    "schedule-atomic",
    "soft-lockup",
    "two-mutexes",
    "corrupt-stack",
    "refcount-inc-zero",
    "usercopy-kernel",
    "panic-hardirq",
    "sysrq-c",
)
# Found by checks of the profile debug only.
CHECKED = [name for name, row in ROWS.items() if row.config in ("KASAN", "KASAN_VMALLOC", "PROVE_LOCKING")]
LONG = pytest.mark.skipif("KERNLOOP_LONG_TESTS" not in os.environ, reason="KERNLOOP_LONG_TESTS is not set")
BOOTS = 50
NOISY = (("ignore_loglevel", "initcall_debug"), ("loglevel=8",), ("ignore_loglevel", "slub_debug=FPZ", "debug"))


def line_of(crash: Crash, lines: list[str], kernel: Kernel, module: Path) -> str:
    """The source line that a report is decoded to."""
    assert kernel.build is not None
    images = Images([kernel.build, module], source=kernel.tree, build_id=kernel.build_id)
    place = decode(crash, lines[crash.start_line - 1 : crash.end_line], images).guilty
    assert place is not None, "no line"
    found = [folder / place.file for folder in (ROOT, kernel.tree, module.parent) if folder is not None]
    [file, *_] = [path for path in found if path.exists()]
    return file.read_text().split("\n")[place.line - 1]


def check(row: crashing.Row, kernel: Kernel) -> None:
    if row.config and not kernel.has(row.config):
        pytest.skip(f"{kernel.release} has no {row.config}")
    module = crashing.module(kernel)
    made = crashing.make(kernel, row, (module,), timeout=60.0)
    if row.lkdtm and "Invalid argument" in (made.run / "stderr").read_text():
        pytest.skip(f"lkdtm of {kernel.release} does not have it")
    lines = made.console.split("\n")
    crashes = parse_console(lines)
    told = [(crash.kind, crash.function, crash.title) for crash in crashes]
    if not row.kind:
        assert not told
        return
    assert crashes, made.console[-2000:]
    worst = most_severe(crashes)
    assert row.fits(crashes[0]), told
    assert worst is not None
    assert row.fits(worst), told
    fatal = (Verdict.PANIC, Verdict.OOPS) if worst.severity in ("panic", "oops") else (Verdict.PASS,)
    assert made.outcome.verdict in fatal, made.outcome
    if made.outcome.verdict in (Verdict.PANIC, Verdict.OOPS):
        assert made.outcome.function == worst.function
    if row.line and crashes[0].function == row.function:
        found = line_of(crashes[0], lines, kernel, module)
        assert any(text in found for text in row.line), found


@pytest.mark.parametrize("name", HANDFUL)
def test_a_crash_is_told_by_kind_function_and_line(name: str) -> None:
    check(ROWS[name], trees.kernel())


@LONG
@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if not row.modules])
@pytest.mark.parametrize("ref", [refs.DEFAULT, trees.OLDER])
def test_every_crash_is_told_by_kind_function_and_line(name: str, ref: str) -> None:
    check(ROWS[name], trees.kernel(ref))


@LONG
@pytest.mark.slow
@pytest.mark.parametrize("name", CHECKED)
def test_what_the_kernels_own_checks_find_is_told_by_kind_function_and_line(name: str) -> None:
    assert trees.checked().has(ROWS[name].config)
    check(ROWS[name], trees.checked())


@LONG
@pytest.mark.slow
def test_a_scheduler_passes_where_the_kernel_checks_itself() -> None:
    kernel = f"sha256:{trees.checked().digest}"
    done = kernloop("verify", "--quick", SCHEDULERS / "vtime.bpf.c", "--kernel", kernel, "--json", seconds=600)
    assert (done.status, done.json["verdict"]) == (0, "pass"), done


@LONG
@pytest.mark.slow
@pytest.mark.parametrize("number", range(BOOTS))
def test_a_boot_with_much_to_say_has_nothing_to_report(number: int, tmp_path: Path) -> None:
    said = tmp_path / "said"
    said.write_text("".join(f"<{number % 8}>{line}\n" for line in crashing.harmless()))
    kernel = (trees.kernel(), refs.resolve(refs.DEFAULT))[number % 10 == 0]
    say = 'while read -r line; do echo "$line" > /dev/kmsg; done < /root/said'
    row = crashing.Row("quiet", command=say, boot=NOISY[number % 3])
    made = crashing.make(kernel, row, (said,), cold=True)
    assert made.outcome.verdict is Verdict.PASS
    assert "cloud-init" in made.console
    assert not parse_console(made.console.split("\n"))
    assert not [entry for entry in made.outcome.evidence if entry.lines]
