# SPDX-License-Identifier: Apache-2.0
"""Crashes of the tests' own kernel decoded: the guilty line is the statement that crashed, also in a module."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

import trees
from kernloop import runs
from kernloop.kernel import debugfiles, modules
from kernloop.report.scan import scan
from kernloop.report.symbols import Decoded
from kernloop.suites import module as suite
from kernloop.verdict import Outcome, Verdict
from kernloop.vm import run as library
from support import ROOT, kernloop

pytestmark = pytest.mark.vm

DIRECT = "/sys/kernel/debug/provoke-crash/DIRECT"
# lkdtm's ways to crash (drivers/misc/lkdtm), each with the statement that does it; the last one ends the shell.
STATEMENTS = {
    "WARNING": "WARN_ON(++warn_counter);",
    "WARNING_MESSAGE": 'WARN(1, "Warning message trigger count: %d',
    "REFCOUNT_INC_ZERO": "refcount_inc(&zero);",
    "CORRUPT_LIST_ADD": "list_add(&bad.node, &test_head);",
    "EXCEPTION": "*((volatile int *) 0) = 0;",
}


def decoded(run: Path) -> list[Decoded]:
    """All that the console of a run reports, decoded with what the run knows of its kernel."""
    console = (run / "console.log").read_bytes()
    found = [debugfiles.decoded(run, crash) for crash in scan(console)]
    assert all(found)
    return [one for one in found if one]


def guilty_text(found: Decoded) -> str:
    """The marked line of the first excerpt."""
    return next(line.text.strip() for line in found.source[0].lines if line.guilty)


def run_in_guest(script: str, *append: str) -> tuple[Path, Outcome]:
    request = library.Request(("sh", "-c", script), f"sha256:{trees.kernel().digest}", append=append, timeout=60)
    with runs.create("run", library.SCHEMA, {"subject": script}) as record:
        outcome = library.execute(
            request, record, on_stdout=lambda data: None, on_stderr=lambda data: None, say=lambda text: None
        )
    return record.path, outcome


def test_each_crash_of_lkdtm_is_decoded_to_the_statement_that_made_it() -> None:
    script = "; ".join(f"(echo {name} > {DIRECT})" for name in STATEMENTS)
    path, outcome = run_in_guest(script)
    found = decoded(path)
    assert len(found) == len(STATEMENTS), outcome
    for one, text in zip(found, STATEMENTS.values(), strict=True):
        assert guilty_text(one).startswith(text)
    for one in found:
        assert one.reasons == (), one.reasons
        assert {"direct_entry", "ksys_write"} <= {frame.function for frame in one.frames}
        named = [frame for frame in one.frames if frame.reliable]
        assert all(frame.places for frame in named), [frame for frame in named if not frame.places]
        assert any(frame.places[0].function == "do_syscall_x64" for frame in named)
    exception = found[-1]
    # A zero, or a register that holds it: as the compiler likes.
    assert re.fullmatch(r"movl (\$0|%\w+), 0", next(one.text for one in exception.code if one.guilty))
    # The verdict names the place as well.
    assert outcome.place == str(exception.guilty)
    assert outcome.place and outcome.place.startswith("drivers/misc/lkdtm/bugs.c:")
    assert outcome.place in outcome.summary


def test_a_module_s_oops_names_its_line_the_header_s_inlined_one_and_the_null_pointer(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(ROOT / "examples/drivers", tmp_path / "drivers")) / "broken"
    built = modules.build_for(trees.kernel(), folder)
    use = "echo 1073741824 > /sys/module/kl_fifo/parameters/size; echo x > /dev/kl_fifo"
    asked = suite.Request(built.kernel, built.modules, built.wanted, ("sh", "-c", use), timeout=60)
    with runs.create("module", suite.SCHEMA, {"subject": "kl_fifo"}) as record:
        outcome = suite.execute(asked, record, say=lambda text: None).outcome
        record.judge({"verdict": outcome.verdict.value, "summary": outcome.summary})
    assert outcome.verdict is Verdict.OOPS
    (found,) = decoded(record.path)
    assert guilty_text(found) == "n = kl_ring_put(&kl_fifo_ring, chunk, count);"
    assert outcome.place == str(found.guilty)
    assert f"look at {outcome.place}" in outcome.next
    first = found.frames[0]
    assert (first.function, first.module, first.exact) == ("kl_fifo_write", "kl_fifo", True)
    assert first.places[0].function == "kl_ring_put"
    assert "ring->data[" in next(line.text for line in found.source[1].lines if line.guilty)
    assert found.notes[0].certain
    assert "`kl_fifo_ring.data` (u8 *) is NULL" in found.notes[0].text
    # `report` finds the same by itself, and says so in words.
    done = kernloop("report", record.path.name)
    assert done.status == 1
    text = done.out.decode()
    assert f"at {outcome.place} in kl_fifo_write()" in text
    assert "=>" in text
