# SPDX-License-Identifier: Apache-2.0
"""Why a kernel did not take a module.

It says so on its console, in lines that begin with the module's name (kernel/module/main.c, kernel/module/version.c);
insmod knows the error's number only.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Refusal", "refusal"]

# In the order of looking: what the kernel's line says, a stable word for it, what to do.
_REASONS = (
    (
        r"Unknown symbol (?P<what>\w+)",
        "unknown symbol {what}",
        "is the module that exports it built and loaded before?",
    ),
    (r"version magic '(?P<what>[^']+)'", "made for another kernel: {what}", "build it against the kernel that runs"),
    (r"disagrees about version of symbol (?P<what>\w+)", "another version of {what}", "build it against this kernel"),
    (r"Loading of (?:unsigned )?module .*rejected|module verification failed", "its signature is missing", "sign it"),
    (r"GPL-incompatible module .*GPL-only symbol '?(?P<what>\w+)", "GPL-only symbol {what}", "see MODULE_LICENSE"),
    (r"unknown parameter '(?P<what>[^']+)'", "unknown parameter {what}", "modinfo lists those that it has"),
    (r"this_module section size|module_layout", "made for another kernel: {release}", "build it against this kernel"),
    (r"Invalid module format", "no module for this kernel", "build it against the kernel that runs"),
)


@dataclass(frozen=True)
class Refusal:
    """`why` in a few words, `step` what to do; `said` the kernel's own lines, with their numbers."""

    why: str
    step: str
    said: tuple[tuple[int, str], ...]


def refusal(name: str, release: str, lines: Sequence[str], first: int, insmod: str) -> Refusal:
    """What `lines` of the console, numbered from `first`, and `insmod` say about module `name`, made for `release`."""
    texts = [re.sub(r"^\[ *[\d.]+\](?:\[ *[TC]\d+\])? ", "", line.rstrip()) for line in lines]
    said = tuple(
        (number, text)
        for number, text in enumerate(texts, first)
        if (text.startswith((f"{name}:", "module:", "Loading of")) or f"module {name}" in text)
        and "taints kernel" not in text
    )
    told = " ".join(text for _, text in said)
    for pattern, what, step in _REASONS:
        if found := re.search(pattern, f"{told} {insmod}"):
            return Refusal(what.format(**found.groupdict(), release=release), step, said)
    words = insmod.strip().rpartition(": ")[2] or "it did not say why"
    # Without a word of the kernel's it is the module's own init that returned an error.
    return Refusal(
        said[-1][1] if said else f"its init function failed: {words}",
        f"look where its init returns that error ({words})",
        said,
    )
