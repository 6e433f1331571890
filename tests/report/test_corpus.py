# SPDX-License-Identifier: Apache-2.0
"""The engine on the third-party corpus of recorded crashes: targets, invariants and speed. The corpus is not ours to
ship: it is looked for in $KERNLOOP_CORPUS, and in shared/corpus beside the checkout."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from kernloop.report.crash import Crash
from kernloop.report.scan import scan

BESIDE = Path(__file__).parents[2].parent / "shared" / "corpus"
CORPUS = Path(os.environ.get("KERNLOOP_CORPUS") or BESIDE) / "oops"

pytestmark = [
    pytest.mark.corpus,
    pytest.mark.skipif(not CORPUS.is_dir(), reason="crash corpus absent: set KERNLOOP_CORPUS"),
]

_PREFIX = re.compile(r"^(?:__(?:x64|ia32|arm64)_(?:compat_)?sys_|__(?:se|do)_sys_|(?:SyS|SYSC|k?sys)_)")


@dataclass(frozen=True)
class Case:
    title: str
    alternatives: tuple[str, ...]
    corrupted: bool
    panicked: bool
    log: bytes


@cache
def cases() -> tuple[Case, ...]:
    return tuple(_case(path) for path in sorted(CORPUS.iterdir()) if path.name.isdigit())


def _case(path: Path) -> Case:
    head, _, body = path.read_bytes().replace(b"\r", b"").partition(b"\n\n")
    fields = [line.decode().partition(": ")[::2] for line in head.splitlines()]
    first = dict(reversed(fields))
    log = body.split(b"\n\nREPORT:\n")[0] + b"\n"
    alternatives = tuple(value for key, value in fields if key == "ALT")
    return Case(first.get("TITLE", ""), alternatives, first.get("CORRUPTED") == "Y", first.get("PANICKED") == "Y", log)


@cache
def results() -> tuple[tuple[Case, Crash | None], ...]:
    return tuple((case, next(scan(case.log), None)) for case in cases())


def share(right: list[bool]) -> float:
    return 100 * sum(right) / len(right)


def test_crashes_are_found_and_nothing_else() -> None:
    assert share([bool(case.title) == (crash is not None) for case, crash in results()]) >= 99


def test_the_guilty_function_is_named() -> None:
    right = []
    for case, crash in results():
        names = {
            _PREFIX.sub("", name)
            for title in (case.title, *case.alternatives)
            if (found := re.search(r".* in ([A-Za-z_]\w*)", title))
            and (name := found[1]) not in ("corrupted", "unmount")
        }
        if names and " at addr" not in case.title:
            right.append(crash is not None and _PREFIX.sub("", crash.function or "") in names)
    assert share(right) >= 94


def test_damaged_reports_are_told_from_sound_ones() -> None:
    flags = [bool(crash and crash.corrupted) == case.corrupted for case, crash in results() if case.title]
    assert share(flags) >= 90


def test_a_panic_anywhere_is_seen() -> None:
    assert all((b"Kernel panic - not syncing" in case.log) == case.panicked for case in cases() if case.title)


def test_a_report_is_found_again_from_its_start_and_not_from_its_end() -> None:
    for case, crash in results():
        if crash:
            again = next(scan(case.log[crash.start :]))
            assert (again.kind, again.title, again.function) == (crash.kind, crash.title, crash.function)
            # The kernel may have said the same twice.
            starts = {other.start for other in scan(case.log)}
            for later in scan(case.log[crash.end :]):
                assert later.title != crash.title or crash.end + later.start in starts


def test_parsing_is_fast_enough() -> None:
    size = sum(len(case.log) for case in cases())
    started = time.process_time()
    for case in cases():
        list(scan(case.log))
    # The target is 2.8 MB/s on an idle machine; tests share theirs.
    assert size / 1e6 / (time.process_time() - started) >= 1.4
