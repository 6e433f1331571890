# SPDX-License-Identifier: Apache-2.0
"""`kernloop report` on the output of a loader whose BPF program was refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import bpe_openai
import pytest
from typer.testing import CliRunner

from kernloop.cli.main import app
from kernloop.present.logs import Log
from kernloop.present.refusal import refused

FIXTURES = Path(__file__).parent.parent / "fixtures"
VERIFIER = FIXTURES / "verifier"
REFUSED = VERIFIER / "6.12.107" / "possible_null__lookup.log"
LOGS = sorted(log for log in VERIFIER.glob("*/*.log") if not log.stem.startswith("fine__"))
PANIC = FIXTURES / "console" / "tcg-int3-oops-6.12.117.log"
ENCODING = bpe_openai.get_encoding("o200k_base")
MOST_TOKENS = 600
run = CliRunner().invoke


def reported(*argv: str, stdin: str | bytes = "") -> dict[str, Any]:
    result = run(app, ["report", "--json", *argv], input=stdin)
    assert result.exit_code == 1, result.output
    value: dict[str, Any] = json.loads(result.stdout)
    return value


def test_a_refused_program_is_a_report_of_its_own_kind() -> None:
    found = reported(str(REFUSED))
    assert (found["kind"], found["family"], found["crashes"]) == ("verifier", "verifier", 0)
    assert found["title"] == "verifier: possible_null__lookup: use of a pointer that may be NULL"
    assert found["message"] == "R0 invalid mem access 'map_value_or_null'"
    about = found["verifier"]
    assert (about["program"], about["cause_id"]) == ("possible_null__lookup", "possible_null")
    assert about["source"] == {"file": "memory.bpf.c", "line": 31, "text": "value->count[0]++;"}
    assert about["instruction"] == "10: (79) r1 = *(u64 *)(r0 +0)"
    assert about["registers"][0].startswith("R0=map_value_or_null(")
    assert about["cause"].startswith("R0 may be NULL at memory.bpf.c:31: bpf_map_lookup_elem() at memory.bpf.c:27")
    assert "`if (!value) return 0;`" in about["cure"]
    assert about["processed_insns"] == 10
    assert "memory.bpf.c:31" in found["next"]


def test_a_loaders_output_may_come_on_stdin() -> None:
    assert reported("-", stdin=REFUSED.read_bytes())["fingerprint"] == reported(str(REFUSED))["fingerprint"]


def test_people_read_the_cause_the_register_and_the_cure() -> None:
    result = run(app, ["report", str(REFUSED)])
    assert result.exit_code == 1
    for part in ("possible_null__lookup", "memory.bpf.c:31", "R0=map_value_or_null", "cure:", "next:"):
        assert part in result.stdout
    assert "no crash" not in result.stdout


def test_a_refusal_can_be_mailed_and_has_a_page(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    result = run(app, ["report", str(REFUSED), "--markdown", "--html", str(page)])
    assert result.exit_code == 1
    for text in (result.stdout, page.read_text()):
        for part in ("possible_null__lookup", "memory.bpf.c:31", "R0=map_value_or_null", "if (!value) return 0;"):
            assert part in text


def test_a_crash_in_the_same_log_comes_first() -> None:
    both = REFUSED.read_bytes() + PANIC.read_bytes()
    assert reported("-", stdin=both)["kind"] == reported(str(PANIC))["kind"] != "verifier"
    assert [one["kind"] for one in reported("-", "--all", stdin=both)["reports"]][-1] == "verifier"


def test_a_batch_tells_refusals_from_clean_logs() -> None:
    result = run(app, ["report", "--json", "--batch", str(VERIFIER / "7.3.4")])
    kinds = {Path(line["path"]).stem: line["kind"] for line in map(json.loads, result.stdout.splitlines())}
    assert len(kinds) > 100
    assert {name for name, kind in kinds.items() if kind is None} == {n for n in kinds if n.startswith("fine__")}
    assert {kind for kind in kinds.values() if kind} == {"verifier"}


def test_the_loaders_words_of_a_run_are_read_where_its_console_is_silent(tmp_path: Path) -> None:
    (tmp_path / "loader.txt").write_bytes(REFUSED.read_bytes())
    found = refused(Log("a run", b"[    0.1] all is well\n", tmp_path))
    assert found is not None
    assert found.rejection.program == "possible_null__lookup"
    assert found.source == str(tmp_path / "loader.txt")
    assert refused(Log("a file", b"[    0.1] all is well\n")) is None


@pytest.mark.parametrize("kernel", ["6.12.107", "7.3.4"])
def test_a_report_costs_few_tokens(kernel: str) -> None:
    for log in LOGS:
        if log.parent.name == kernel:
            text = run(app, ["report", "--json", str(log)]).stdout
            assert len(ENCODING.encode(text)) <= MOST_TOKENS, log


def test_the_same_mistake_has_the_same_fingerprint_in_the_next_build_and_another_one_does_not() -> None:
    moved = REFUSED.read_text().replace("memory.bpf.c:31", "memory.bpf.c:33").replace("10: (79)", "11: (79)")
    other = reported(str(VERIFIER / "6.12.107" / "possible_null__helper.log"))
    assert reported("-", stdin=moved)["fingerprint"] == reported(str(REFUSED))["fingerprint"] != other["fingerprint"]
