# SPDX-License-Identifier: Apache-2.0
"""report.html: what people find on it, that it needs nothing but itself, and that no guest can break out of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from kernloop import runs
from kernloop.present import html
from kernloop.verdict import Verdict
from pages import Page
from verdicts import FIXTURES, Finished, not_built, ran, verified

PANIC = FIXTURES / "console/sysrq-crash-7.3.4.log"
HOSTILE = (
    b"first\n</pre></div><script>alert(1)</script>\n<b>bold</b> &amp; {{ 7 * 7 }} {% raw %}\n"
    b"\x00\x1b[31mred\x1b[0m\xff\xfe\n"
    b"<!-- \n]]> <img src=http://evil.example/x onerror=alert(1)>\nlast\n"
)


def page(run: Finished) -> Page:
    return Page(html.write(run.path).read_text(encoding="utf-8"))


def panicked(before: bytes = b"") -> Finished:
    """A panic whose report is in the recorded console, behind other lines."""
    log = before + PANIC.read_bytes()
    first = log[: log.index(b"Kernel panic")].count(b"\n") + 1
    return ran(Verdict.PANIC, "kernel panic: sysrq", console=log, lines=(first, first + 3), next_="look there")


@pytest.fixture(params=["lost_task", "null_check", "fifo", "build", "panic", "hostile"])
def finished(request: pytest.FixtureRequest) -> Finished:
    match request.param:
        case "build":
            return not_built()
        case "panic":
            return panicked()
        case "hostile":
            return ran(Verdict.HANG, "<script>", console=HOSTILE, lines=(2, 4), stdout=HOSTILE)
    return verified(str(request.param))


def test_a_page_is_whole_and_needs_nothing_but_itself(finished: Finished) -> None:
    found = page(finished)
    assert "script" not in found.tags
    assert not found.tags & {"img", "link", "iframe", "object", "form", "base"}
    assert not [
        value for name, value in found.attributes if name.startswith("on") or name in ("src", "srcset", "style")
    ]
    for link in found.links:
        assert link.startswith("#") or (finished.path / link).is_file(), link
        assert ":" not in link
    assert len(found.ids) == len(set(found.ids))
    for link in found.links:
        assert not link.startswith("#") or link[1:] in found.ids


def test_the_answer_comes_first_then_the_kernel_and_the_environment(finished: Finished) -> None:
    found = page(finished)
    for part in (finished.value["verdict"], finished.path.name, "7.3.4", "ab12", "load "):
        assert part in found.text


def test_what_a_guest_writes_stays_text() -> None:
    run = ran(Verdict.HANG, "<script>alert(2)</script>", console=HOSTILE, lines=(2, 4), stdout=HOSTILE)
    raw = html.write(run.path).read_text(encoding="utf-8")
    found = Page(raw)
    assert "<script" not in raw
    assert "<b>" not in raw
    assert "\0" not in raw
    assert "\x1b" not in raw
    assert found.text.count("</pre></div><script>alert(1)</script>") == 2
    assert "{{ 7 * 7 }} {% raw %}" in found.text
    assert "␀red��" in found.text


def test_the_lines_of_the_report_are_marked_with_their_numbers_and_linked() -> None:
    run = panicked()
    [evidence] = run.value["evidence"]
    first, last = evidence["lines"]
    found = page(run)
    lines = PANIC.read_text().split("\n")[first - 1 : last]
    assert found.marked == [*map(str, range(first, last + 1)), *(line.rstrip("\r") for line in lines)]
    assert "Kernel panic" in found.marked[last - first + 1]
    assert f"#L{first}" in found.links
    assert f"L{first}" in found.ids


def test_odd_characters_do_not_shift_the_marks() -> None:
    plain = page(panicked()).marked
    odd = page(panicked("a form\x0cfeed, a \u2028separator, \x85 and \xff\n".encode("latin-1", "replace"))).marked
    assert [line for line in odd if "[" in line] == [line for line in plain if "[" in line]


def test_tests_come_with_figure_limit_and_the_check_after_each() -> None:
    found = page(verified("fifo"))
    for part in ("saturation", "idle", "(limit", "guest time", "check after it"):
        assert part.strip("(") in found.text
    assert "FAIL" not in found.text


def test_an_ejected_scheduler_comes_with_its_exit_its_task_and_the_dump() -> None:
    run = verified("lost_task")
    found = page(run)
    for part in ("SCX_EXIT_ERROR_STALL (1026)", "failed to run for", run.value["placement"], "dump.txt", "FAIL"):
        assert part in found.text
    assert run.value["guilty"]["text"].split()[-1] in found.text


def test_a_rejection_comes_with_source_and_reason() -> None:
    run = verified("null_check")
    found = page(run)
    for part in ("Why it was rejected", run.value["rejection"]["source_text"], run.value["rejection"]["instruction"]):
        assert part in found.text


def test_a_build_error_comes_with_place_and_source_line() -> None:
    run = not_built()
    first = run.value["diagnostics"][0]
    found = page(run)
    assert f"{first['file']}:{first['line']}" in found.text
    assert " ".join(first["source"].split()) in found.text


def test_a_pass_pays_for_no_page_and_all_others_have_one_at_once() -> None:
    assert not (ran(Verdict.PASS, "exit 0", status=0).path / runs.REPORT).exists()
    assert (ran(Verdict.LOST, "gone").path / runs.REPORT).exists()


def test_a_page_can_be_made_of_a_run_that_was_cut_off(tmp_path: Path) -> None:
    for spec in ("", "{", '{"verb": "run"}'):
        (tmp_path / "spec.json").write_text(spec)
        (tmp_path / "verdict.json").write_text(spec)
        (tmp_path / "timeline.jsonl").write_text('{"t": 0.1, "event": "start"}\n{"t": 0.2, "ev')
        assert "unknown" in Page(html.render(tmp_path)).text


def test_a_page_that_cannot_be_written_changes_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(run: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(html, "write", full)
    assert runs.read_json(ran(Verdict.LOST, "gone").path / "verdict.json")["verdict"] == "lost"
