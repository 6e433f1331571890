# SPDX-License-Identifier: Apache-2.0
"""How to build and run, as a resumed bisect finds it again."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from kernloop.errors import UsageError
from kernloop.git.target import Target

FULL = Target(
    "tiny", ("kasan", "/x.config"), (("HZ", "250"),), Path("/b"), True, 3, "4", 1024, (Path("/f"),), ("quiet",)
)


@pytest.mark.parametrize("target", [Target(), FULL])
def test_it_is_the_same_after_it_was_written_down(target: Target) -> None:
    assert Target.remembered(json.loads(json.dumps(asdict(target), default=str))) == target


def test_what_an_older_kernloop_did_not_write_is_as_by_default() -> None:
    assert Target.remembered({"profile": "tiny"}) == Target("tiny")


def test_files_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read"):
        Target(files=(tmp_path / "no",)).check()
    with pytest.raises(UsageError, match="cannot read"):
        Target(base=tmp_path / "no").check()
