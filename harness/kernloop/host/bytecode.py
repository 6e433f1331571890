# SPDX-License-Identifier: Apache-2.0
"""Compiled modules are kept also where the environment tells Python not to write them beside their sources.

Images for containers set PYTHONDONTWRITEBYTECODE; every call would then compile all of kernloop again, which takes half
of its start. Ours go to the cache instead; what the user's own Pythons do is not touched.
"""

from __future__ import annotations

import sys

from kernloop.host.paths import cache_dir

__all__ = ["environment", "keep"]


def keep() -> None:
    """From here on what this process imports is kept compiled. For processes that are kernloop's own."""
    if sys.flags.dont_write_bytecode and sys.pycache_prefix is None:
        sys.pycache_prefix = _folder()
        sys.dont_write_bytecode = False


def environment() -> dict[str, str]:
    """What to add to the environment of a Python process of ours."""
    if not sys.flags.dont_write_bytecode:
        return {}
    return {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": _folder()}


def _folder() -> str:
    return str(cache_dir() / "bytecode")
