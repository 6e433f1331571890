# SPDX-License-Identifier: Apache-2.0
"""Titles and fingerprints without what differs from one run or build to the next: addresses, numbers, lines, offsets.

>>> clean_title("BUG: Dentry 00000000f1e2d3c4{i=1a,n=/} still in use (1)")
'BUG: Dentry ADDR{i=1a,n=/} still in use (NUM)'
"""

from __future__ import annotations

from collections.abc import Iterable

from .frames import Frame, base_name, source_name
from .machinery import is_machinery
from .patterns import Pattern

__all__ = ["alternatives", "clean_title", "fingerprint"]

_MAX_TITLE = 120
_TOP_FRAMES = 3

_CHANGING = (
    (Pattern(r"\b(syz-executor|syzkaller)\.?\d+(?:[/:]\d+)?"), r"\1"),
    (Pattern(r"([A-Za-z_][\w.]*)\+0x[0-9a-f]+/0x[0-9a-f]+"), r"\1"),
    (Pattern(r"(?<![A-Za-z0-9])(?:0x)?[0-9a-f]{6,}"), "ADDR"),
    (Pattern(r"\b\d{1,3}(?:\.\d{1,3}){3}\b"), "IP"),
    (Pattern(r"(\.[A-Za-z]+)(?::\d+)+"), r"\1:LINE"),
    (Pattern(r"CPU#\d+"), "CPU"),
    (Pattern(r"(?<!\w)\d+(?!\w)"), "NUM"),
    (Pattern(r"\d{7,}"), "NUM"),
)

_ALSO = {
    "kasan-invalid-free": "invalid-free",
    "kfence-invalid-free": "invalid-free",
    "soft-lockup": "stall",
    "rcu-stall": "stall",
    "hung-task": "hang",
    "stack-guard-page": "stack-overflow",
    "stack-overflow": "stack-overflow",
}
_ACCESS = Pattern(
    r"(?:kasan|kfence|kmsan)-(?!memory-corruption|unknown)|ubsan-array|null-pointer|paging-request|user-access|bad-access"
    r"|corrupted-list|general-protection|internal-error|unhandled-fault"
)


def clean_title(title: str) -> str:
    """One line of printable characters that is the same for every occurrence of the bug."""
    text = " ".join("".join(c if c.isprintable() else " " for c in title[: 4 * _MAX_TITLE]).split())
    text = "".join(c for c in text if ord(c) < 127)
    for pattern, stands_for in _CHANGING:
        text = pattern.sub(stands_for, text)
    return text[:_MAX_TITLE].strip()


def alternatives(kind: str, title: str, function: str | None) -> tuple[str, ...]:
    """Other titles under which the same bug may be known: it shows as another kind on another build or architecture."""
    if not function:
        return ()
    short = source_name(function)
    word = _ALSO.get(kind) or ("bad-access" if _ACCESS.match(kind) else "")
    found = [f"{word} in {short}"] if word else []
    if short != function and title.endswith(f" in {short}"):
        found.append(f"{title.removesuffix(short)}{function}")
    return tuple(found)


def fingerprint(kind: str, function: str | None, frames: Iterable[Frame]) -> str:
    """Kind, guilty function and the frames that follow, none of the machinery: hashed, 16 hex digits."""
    from hashlib import sha256  # OpenSSL: 20 ms, and most consoles have no crash

    top = [name for frame in frames if frame.reliable and not is_machinery(name := base_name(frame.function))]
    return sha256("\n".join([kind, function or "", *top[:_TOP_FRAMES]]).encode()).hexdigest()[:16]
