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


def test_what_cannot_be_built_is_refused_before_anything_is_checked_out(tmp_path: Path) -> None:
    for target, said in [
        (Target(files=(tmp_path / "no",)), "cannot read"),
        (Target(base=tmp_path / "no"), "cannot read"),
        (Target("huge"), "there is no profile 'huge'"),
        (Target(fragments=("nosuch",)), "there is no Kconfig fragment 'nosuch'"),
    ]:
        with pytest.raises(UsageError, match=said):
            target.check()
    Target("tiny", ("kasan",)).check()


def test_an_edit_of_a_fragment_does_not_reach_a_bisect_that_has_begun(tmp_path: Path) -> None:
    fragment, base = tmp_path / "mine.config", tmp_path / "base"
    fragment.write_text("CONFIG_KASAN=y\n")
    base.write_text("CONFIG_SMP=y\n")
    target = Target(fragments=("kasan", str(fragment)), base=base)
    pinned = target.pinned(tmp_path / "given")
    fragment.write_text("CONFIG_KASAN=n\n")
    base.unlink()
    again = target.pinned(tmp_path / "given")
    assert again == pinned and again.base is not None
    assert again.fragments[0] == "kasan"
    assert Path(again.fragments[1]).read_text() == "CONFIG_KASAN=y\n"
    assert again.base.read_text() == "CONFIG_SMP=y\n"
