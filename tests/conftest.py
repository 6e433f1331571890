# SPDX-License-Identifier: Apache-2.0
"""Every test works in folders of its own; only tests that boot guests share the machine's cache, for its kernels."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# A loaded machine makes no property false.
settings.register_profile("kernloop", deadline=None)
settings.load_profile("kernloop")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Side by side (-n): the tests of a file stay together, for they share guests; so do all that use the kernel tree
    that tests edit (`trees`). With pytest 9.2 pytest-xdist 3.8 does not see groups (--dist loadgroup).
    """
    from xdist.scheduler import LoadFileScheduling

    @cache
    def uses_the_tree(file: str) -> bool:
        return "import trees" in (config.rootpath / file).read_text()

    class Scheduling(LoadFileScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            # What must be gone within seconds of a kill is not asked beside a build.
            return "trees" if uses_the_tree(file) or file.endswith("_kill.py") else file

    return Scheduling(config, log)


@pytest.fixture(autouse=True)
def own_folders(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """XDG folders under tmp_path, so that no test reads or leaves anything of the user's."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    if request.node.get_closest_marker("vm") is None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        yield
        return
    # What is left in /tmp may be another worker's. The name is short, for there are sockets in it.
    temporary = tempfile.mkdtemp(prefix="kl-")
    monkeypatch.setenv("TMPDIR", temporary)
    monkeypatch.setattr(tempfile, "tempdir", temporary)
    yield
    shutil.rmtree(temporary, ignore_errors=True)


@pytest.fixture(autouse=True)
def no_vm_is_left(request: pytest.FixtureRequest, own_folders: None) -> Iterator[None]:
    """A VM that a test started and left, by failing perhaps, ends with it."""
    yield
    if request.node.get_closest_marker("vm") is not None:
        from kernloop.vm import client

        for info in client.listing():
            client.VM(info.name, info.run).stop()
