# SPDX-License-Identifier: Apache-2.0
"""The text of a .config, read."""

from __future__ import annotations

import re

__all__ = ["symbols"]


def symbols(text: str) -> dict[str, str]:
    """Its symbols without the prefix, each with its value as written; one that is off is not in it."""
    return dict(re.findall(r"^CONFIG_(\w+)=(.*)$", text, re.M))
