# SPDX-License-Identifier: Apache-2.0
"""Where kernloop keeps things: the XDG base directories, read anew at each call so that tests can move them."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cache_dir", "runs_dir", "state_dir"]


def cache_dir() -> Path:
    """What can be fetched or made again: kernels, tools, sources, builds, initramfs images."""
    return _base("XDG_CACHE_HOME", ".cache")


def state_dir() -> Path:
    """What cannot be made again: run directories."""
    return _base("XDG_STATE_HOME", ".local/state")


def runs_dir() -> Path:
    return state_dir() / "runs"


# The XDG specification tells programs to ignore a value that is not absolute.
def _base(variable: str, default: str) -> Path:
    value = os.environ.get(variable, "")
    root = Path(value) if value.startswith("/") else Path.home() / default
    return root / "kernloop"
