# SPDX-License-Identifier: Apache-2.0
"""Which rows of the oops table (oops_rows.py) a line of the console fits.

Of several rows that a header fits, the first whose body is there counts; a header of which no row's body is there is
damaged (see `fallback`).
"""

from __future__ import annotations

import re
from functools import cache

from .oops_row import WORDS, Row
from .oops_rows import ROWS
from .patterns import Pattern
from .sentences import sentence

__all__ = [
    "CONSEQUENCE",
    "HEADERS",
    "ROWS",
    "Row",
    "fallback",
    "is_unknown",
    "match_header",
    "matching_rows",
    "may_hold_header",
]

HEADERS = WORDS

# Notes that hold a word of the table and are no trouble. By the word: a line may be harmless for one and trouble for
# another. Where a word is part of a longer one (`DEBUG:`, `skb_over_panic:`) no note is needed: see _STANDS_ALONE.
_NOTES = {
    "BUG:": ("no syscalls can create resource",),
    "WARNING:": (
        "WARNING: workqueue cpumask:",  # kernel/workqueue.c
        "WARNING: {[Tt]}he mand mount option",  # fs/namespace.c
        "WARNING: Unsupported flag value",  # a dynamic linker
        "WARNING: Unprivileged eBPF is enabled",  # arch/x86/kernel/cpu/bugs.c
        "WARNING: See https://",
        "WARNING: kernel not compiled with",
        "WARNING: fbcon: Driver",  # drivers/video/fbdev/core/fbcon.c
        "WARNING: /etc/ssh/",
        "WARNING: `{..}' uses ",  # security/commoncap.c: deprecated v2 capabilities
        "{(?i:uses wireless extensions)}",  # net/wireless/wext-core.c
    ),
    "INFO:": (
        "INFO: lockdep is ",  # kernel/locking/lockdep.c
        "INFO: Stall ended before state dump start",  # kernel/rcu/tree_stall.h
        "INFO: NMI handler {..} took too long",  # arch/x86/kernel/nmi.c
        "INFO: {perf|sys_}{..}{took too long|is not present}",
        "INFO: recovery required",  # fs/ext4/super.c
        "no syscalls can create resource",
    ),
    # A program's fault (arch/x86/kernel/traps.c show_signal): it names the program's file.
    "general protection fault": ("general protection fault {..} error:{x} in ",),
    # lib/decompress*.c and the boot loaders say it themselves; parameters of a mount are quoted.
    "Booting the kernel": ("Parsing ELF", "Decompressing Linux", "Unknown parameter '"),
    "fatal error:": ("ALSA: {..}fatal error:", "fatal error: cannot create timer"),
}
# A word that begins within another is part of that. (WARNING: and INFO: reports begin a line.)
_STANDS_ALONE = {word: rf"(?<![A-Za-z0-9_.]){re.escape(word)}" for word in ("BUG:", "WARNING:", "INFO:", "panic:")}
# Of a line of thousands of characters only the surroundings of the word: some patterns take the square of a length.
_BEFORE, _BEHIND = 200, 500

# What a kernel was booted with may hold any word; the last line of a report says the first again (kernel/panic.c).
_NO_HEADER = Pattern(r"(?:^|[Kk]ernel )[Cc]ommand line:|^---\[ end (?!trace)")

# A panic that only says that an earlier report was made fatal.
_PANIC = "Kernel panic - not syncing: "
_MADE_FATAL = (
    "Fatal {exception|hardware exception}",
    "{..}panic_on_warn set",
    "softlockup: hung tasks",
    "hung_task: blocked tasks",
    "Hard LOCKUP",
    "RCU Stall",
    "kernel: ",
    "stack guard page",
    "scheduling while atomic",
    "workqueue: ",
)
CONSEQUENCE = Pattern("|".join(sentence(_PANIC + text).text for text in _MADE_FATAL))


@cache
def _any_word() -> re.Pattern[str]:
    return re.compile("|".join(sorted(re.escape(word) for word in WORDS)))


@cache
def _notes() -> tuple[tuple[str, Pattern, Pattern | None], ...]:
    words = dict.fromkeys([*_NOTES, *_STANDS_ALONE])
    none = "(?!)"
    return tuple(
        (
            word,
            Pattern("|".join(sentence(text).text for text in _NOTES.get(word, ())) or none),
            Pattern(_STANDS_ALONE[word]) if word in _STANDS_ALONE else None,
        )
        for word in words
    )


def may_hold_header(text: str) -> bool:
    """Whether a line is worth a closer look: a cheap test that most lines fail."""
    return _any_word().search(text) is not None


def match_header(text: str, printk: bool = True) -> tuple[Row, re.Match[str]] | None:
    """The first row that a console line proves, or None; `printk`: the kernel wrote it, and no program."""
    found = matching_rows(text, printk, 1)
    return found[0] if found else None


def matching_rows(text: str, printk: bool = True, limit: int = 99) -> list[tuple[Row, re.Match[str]]]:
    """All rows that a console line fits, the most specific first."""
    found: list[tuple[Row, re.Match[str]]] = []
    word = _any_word().search(text)
    if word is None or _NO_HEADER.search(text):
        return found
    text = text[max(0, word.start() - _BEFORE) : word.start() + _BEHIND]
    words = {word for word in WORDS if word in text} - _harmless(text)
    for row in ROWS:
        if row.header in words and (printk or not row.stamped):
            for pattern in row.patterns:
                if match := pattern.search(text):
                    found.append((row, match))
                    break
            if len(found) >= limit:
                break
    return found


# The words of the table that are in a line and mean nothing there.
def _harmless(text: str) -> set[str]:
    return {
        word
        for word, note, alone in _notes()
        if word in text and (note.search(text) or (alone is not None and not alone.search(text)))
    }


_CATCH_ALL = tuple(row for row in ROWS if row.bare and row.title == f"{row.kind.upper()}: {{what}}" and not row.blame)


def is_unknown(row: Row) -> bool:
    """Whether a row knows no more than a word of alarm, which may as well be a note's."""
    return row in _CATCH_ALL


def fallback(text: str) -> tuple[Row, re.Match[str]] | None:
    """What remains of a header whose body is not there: its own words, under the word that it began with."""
    for row in _CATCH_ALL:
        if match := row.patterns[0].search(text):
            return row, match
    return None
