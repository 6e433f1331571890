# SPDX-License-Identifier: Apache-2.0
"""The plots of a verify's page: they show what the suite told, lie inside their frames, and no guest breaks them."""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernloop.present import html
from kernloop.present.plots import Plot, drawn, pulses
from pages import Page
from verdicts import FIXTURES, verified

EVENTS = FIXTURES / "sched/fifo/events.jsonl"
EEVDF = {"event": "pulse", "tests": ["saturation"], "scheduler": "", "seconds": 3.02, "waits": [5, 0, 0, 0, 4, 12],
         "slot_ms": 100, "busy": [[90] * 31, [100] * 31], "workers": [[0, 600, 9], [5, 200, 30]]}  # fmt: skip
FIFO = {**EEVDF, "scheduler": "fifo", "waits": [100, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 6]}


def written(folder: Path, *events: object) -> Path:
    path = folder / "events.jsonl"
    path.write_text("".join(json.dumps(event) + "\n" for event in events))
    return path


def test_each_turn_of_the_scheduler_has_waits_progress_and_cpus(tmp_path: Path) -> None:
    [row] = drawn(pulses(written(tmp_path, EEVDF, FIFO)))
    assert (row.tests, row.seconds) == ("saturation", 3.02)
    delays, progress, cpus = row.plots
    words = [cell.words for cell in delays.cells]
    assert "fifo: 8.19 ms to 16.4 ms: 75.0 % of the waits" in words
    assert "EEVDF: 16 us to 32 us: 75.0 % of the waits" in words
    assert [cell.words for cell in progress.cells] == [
        "task 1, nice 0: 600 ms of CPU time, longest wait 9 ms",
        "task 2, nice 5: 200 ms of CPU time, longest wait 30 ms",
    ]
    assert progress.cells[0].height == pytest.approx(3 * progress.cells[1].height)
    assert len(cpus.cells) == 2, "slots that look alike are one rectangle"


def test_a_figure_is_inside_its_frame_and_its_words_do_not_lie_upon_each_other(tmp_path: Path) -> None:
    many = {**FIFO, "busy": [[cpu * 6] * 31 for cpu in range(17)], "workers": [[0, at, at] for at in range(64)]}
    plots = [plot for row in drawn(pulses(written(tmp_path, EEVDF, FIFO, many))) for plot in row.plots]
    assert len(plots) == 6
    for plot in plots:
        for cell in plot.cells:
            assert cell.width > 0 and cell.height > 0
            assert cell.x >= 0 and cell.x + cell.width <= plot.width + 0.1
            assert cell.y >= 0 and cell.y + cell.height <= plot.height
        for one, other in combinations(boxes(plot), 2):
            apart = one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
            assert apart, (plot.title, one, other)


def boxes(plot: Plot) -> list[tuple[float, float, float, float]]:
    """Where the labels are, if a letter of 10 px is 6.1 wide."""
    found = []
    for x, y, text, side in plot.labels:
        width = 6.1 * len(text)
        left = {"start": x, "middle": x - width / 2, "end": x - width}[side]
        assert left >= 0, text
        found.append((left, y - 8, left + width, y + 2))
    return found


def test_the_page_of_a_verify_shows_them_without_script_or_style_attributes() -> None:
    data = EVENTS.read_bytes() + b"".join(json.dumps(one).encode() + b"\n" for one in (EEVDF, FIFO))
    run = verified("fifo", events=data)
    raw = html.write(run.path).read_text()
    page = Page(raw)
    assert raw.count("<svg") == 3
    assert {"svg", "rect", "figure"} <= page.tags
    assert not [name for name, _ in page.attributes if name in ("style", "src") or name.startswith("on")]
    for part in (
        "How its tasks fared",
        "waits for a CPU, by length",
        "CPU time by task",
        "CPUs kept busy by the tasks",
    ):
        assert part in page.text


def test_a_finding_stands_with_its_line_its_source_and_its_cure() -> None:
    run = verified("fifo")
    finding = {"rule": "no-insert", "level": "must", "program": "lost_enqueue", "file": "lost.bpf.c", "line": 41,
               "source": "if (cnt++ % 50 == 49) <return>;", "why": "it is put nowhere", "cure": "insert it",
             "related": [{"file": "lost.bpf.c", "line": 40, "source": "cnt = 0;", "note": "counts here"}]}  # fmt: skip
    verdict = run.path / "verdict.json"
    verdict.write_text(json.dumps({**run.value, "findings": [finding]}))
    text = Page(html.write(run.path).read_text()).text
    for part in ("lost.bpf.c:41", "lost_enqueue", "if (cnt++ % 50 == 49) <return>;", "it is put nowhere", "insert it"):
        assert part in text
    assert "lost.bpf.c:40 counts here: cnt = 0;" in text


def test_eevdfs_figure_the_limits_reason_and_a_skipped_test_are_on_the_page() -> None:
    lines = [json.loads(line) for line in EVENTS.read_text().splitlines()]
    for event in lines:
        if event["event"] == "test" and event["name"] == "saturation":
            event.update(baseline=41.5, reason="half the watchdog's time")
        if event["event"] == "test" and event["name"] == "idle":
            event.update(ok=False, result="skipped", why="not claimed: weights")
    run = verified("fifo", events="".join(json.dumps(event) + "\n" for event in lines).encode())
    text = Page(html.write(run.path).read_text()).text
    for part in ("41.5", "half the watchdog's time", "skipped", "not claimed: weights"):
        assert part in text


@settings(max_examples=40)
@given(
    st.recursive(
        # Without an n no name is nan or inf.
        st.none() | st.integers(-5, 10**9) | st.text(st.characters(codec="utf-8", exclude_characters="n"), max_size=5),
        lambda inner: st.lists(inner, max_size=4),
    )
)
def test_whatever_a_guest_says_of_itself_is_left_out_or_drawn(said: object) -> None:
    for field in ("tests", "scheduler", "seconds", "waits", "slot_ms", "busy", "workers"):
        path = Path(_scratch) / "events.jsonl"
        path.write_text(json.dumps({**FIFO, field: said}) + '\n{"event":"pulse"}\n{"pulse"\n')
        for row in drawn(pulses(path)):
            for plot in row.plots:
                assert not re.search("nan|inf", str(plot.cells))


_scratch = ""


@pytest.fixture(autouse=True)
def scratch(tmp_path_factory: pytest.TempPathFactory) -> None:
    global _scratch
    _scratch = _scratch or str(tmp_path_factory.mktemp("pulses"))
