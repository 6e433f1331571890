# SPDX-License-Identifier: Apache-2.0
"""Every test works in folders of its own; only tests that boot guests share the machine's cache, for its kernels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# A loaded machine makes no property false.
settings.register_profile("kernloop", deadline=None)
settings.load_profile("kernloop")


@pytest.fixture(autouse=True)
def own_folders(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """XDG folders under tmp_path, so that no test reads or leaves anything of the user's."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    if request.node.get_closest_marker("vm") is None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(autouse=True)
def no_vm_is_left(request: pytest.FixtureRequest, own_folders: None) -> Iterator[None]:
    """A VM that a test started and left, by failing perhaps, ends with it."""
    yield
    if request.node.get_closest_marker("vm") is not None:
        from kernloop.vm import client

        for info in client.listing():
            client.VM(info.name, info.run).stop()
