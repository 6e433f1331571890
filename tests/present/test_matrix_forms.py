# SPDX-License-Identifier: Apache-2.0
"""A matrix of verifies as a page and as JUnit XML: every cell is there, those that were not run as well."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from kernloop.present import html, junit

OWN: dict[str, Any] = {
    "schema": "kernloop.verify/1",
    "verdict": "ejected",
    "summary": "runnable task stall: <b>x</b>[7] failed to run for 5.1s",
    "next": "see where the dump has the task",
    "exit_code": 1,
    "times": {"build": 1.0, "total": 9.0},
    "kernel": {"ref": "debian:7.3.4", "release": "7.3.4", "build_id": "ab"},
    "evidence": [],
    "tests": [],
    "gates": [],
    "scheduler": "mine",
    "during": "saturation",
}


def matrix(folder: Path) -> dict[str, Any]:
    own = folder / "own"
    own.mkdir()
    (own / "verdict.json").write_text(json.dumps({**OWN, "run": str(own)}))
    cell = {
        "topology": "numa4",
        "cpus": 16,
        "kernel": "debian:newest",
        "release": "7.3.4",
        "claims": None,
        "verdict": "ejected",
        "ours": False,
        "summary": OWN["summary"],
        "next": "",
        "figure": None,
        "exit_code": 1,
        "seconds": 9.1,
        "run": str(own),
    }
    late = {"topology": "big", "cpus": 64, "verdict": "unknown", "ours": True, "summary": "not run: interrupted"}
    return {
        "schema": "kernloop.verify-matrix/1",
        "verdict": "ejected",
        "summary": "interrupted: 0 of 2 pass",
        "next": "",
        "exit_code": 1,
        "run": str(folder),
        "cells": [cell, {**cell, **late, "release": "", "claims": ["weights"], "exit_code": 125, "run": None}],
        "times": {"total": 12.0},
    }


def test_the_page_has_a_row_for_each_cell_and_runs_nothing_that_a_guest_wrote(tmp_path: Path) -> None:
    (tmp_path / "verdict.json").write_text(json.dumps(matrix(tmp_path)))
    page = html.render(tmp_path)
    assert "Machines and kernels" in page
    for part in ("numa4", "big weights", "not run: interrupted", str(tmp_path / "own")):
        assert part in page
    assert "<b>x</b>" not in page


def test_each_cell_is_a_suite_of_its_own_and_one_that_was_not_run_an_error(tmp_path: Path) -> None:
    file = tmp_path / "results.xml"
    junit.write(file, "verify", "mine.bpf.c", matrix(tmp_path))
    failed, late = ElementTree.parse(file).getroot()
    assert (failed.get("name"), failed.get("failures")) == ("kernloop verify mine.bpf.c numa4 7.3.4", "1")
    assert (late.get("name"), late.get("errors")) == ("kernloop verify mine.bpf.c big debian:newest", "1")
    assert {one.get("name"): one.get("value") for one in failed.iter("property")}["topology"] == "numa4"
