# SPDX-License-Identifier: Apache-2.0
"""What people read on stderr when a run did not go well."""

from __future__ import annotations

from pathlib import Path

import pytest

from kernloop.cli.run import explain
from kernloop.report.engine import parse_console
from kernloop.verdict import Evidence, Outcome, Verdict

CONSOLE = Path(__file__).parent.parent / "fixtures/console/sysrq-crash-7.3.4.log"


def outcome(folder: Path, before: str = "") -> Outcome:
    """The verdict on a recorded panic whose console has `before` in front."""
    text = before + CONSOLE.read_text()
    (folder / "console.log").write_bytes(text.encode())
    crash = parse_console(text.split("\n"))[-1]
    where = Evidence("console.log", crash.title, (crash.start_line, crash.end_line))
    return Outcome(Verdict.PANIC, crash.title, next="look [here]", evidence=(where,))


def test_the_verdict_the_consoles_excerpt_and_the_next_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    explain(outcome(tmp_path), tmp_path)
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert lines[0].startswith("kernloop: panic: ")
    assert "sysrq: Trigger a crash" in lines[1] or "Kernel panic" in lines[1]
    assert lines[1].startswith("  | ")
    assert lines[-1] == "  next: look [here]"
    assert f"{tmp_path}/console.log, lines " in lines[-2]


def test_odd_characters_on_the_console_do_not_shift_the_excerpt(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    explain(outcome(tmp_path), tmp_path)
    plain = [line for line in capsys.readouterr().err.splitlines() if line.startswith("  | ")]
    explain(outcome(tmp_path, "a form\ffeed, a\x0btab and a \u2028separator\n"), tmp_path)
    odd = [line for line in capsys.readouterr().err.splitlines() if line.startswith("  | ")]
    assert odd == plain


def test_without_a_place_on_the_console_the_run_directory_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "report.html").write_text("")
    explain(Outcome(Verdict.LOST, "QEMU was killed", next="again"), tmp_path)
    assert capsys.readouterr().err.splitlines() == [
        "kernloop: lost: QEMU was killed",
        f"  evidence: {tmp_path}",
        f"  report: {tmp_path}/report.html",
        "  next: again",
    ]
