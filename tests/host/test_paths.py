# SPDX-License-Identifier: Apache-2.0
"""Where things are kept: the XDG base directories, as the specification has them."""

from __future__ import annotations

from pathlib import Path

import pytest

from kernloop.host import paths


def test_the_variables_decide_and_are_read_anew_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("/one", "/two"):
        monkeypatch.setenv("XDG_CACHE_HOME", folder)
        monkeypatch.setenv("XDG_STATE_HOME", folder + "/state")
        assert paths.cache_dir() == Path(folder) / "kernloop"
        assert paths.runs_dir() == Path(folder) / "state/kernloop/runs"


@pytest.mark.parametrize("value", ["", "relative/folder", "~/cache"])
def test_a_value_that_is_not_absolute_is_ignored(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("XDG_CACHE_HOME", value)
    monkeypatch.setenv("XDG_STATE_HOME", value)
    assert paths.cache_dir() == Path("/home/someone/.cache/kernloop")
    assert paths.state_dir() == Path("/home/someone/.local/state/kernloop")
