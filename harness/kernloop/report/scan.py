# SPDX-License-Identifier: Apache-2.0
"""Bytes of a console to crashes, at the speed of a substring search where nothing happens.

Only lines that hold a word of the oops table reach the engine, and those that follow while a report is open. The result
is that of feeding every line, whatever the chunks.

>>> [crash.start for crash in scan(b"ok\\n[    7.1] Kernel panic - not syncing: sysrq triggered crash\\n")]
[3]
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache

from .crash import Crash
from .engine import ConsoleParser
from .oops_table import HEADERS

__all__ = ["ConsoleScanner", "scan"]

_STAMP = re.compile(rb"\[ *[0-9]{1,9}\.[0-9]{1,9}\]|\bkernel: ")
# The engine looks at no more of a line.
_MAX_LINE = 1 << 16


def _needles(headers: tuple[str, ...]) -> tuple[bytes, ...]:
    """The fewest words that find all headers: one that is part of another stands for both."""
    return tuple(h.encode() for h in headers if not any(other != h and other in h for other in headers))


NEEDLES = _needles(HEADERS)


class ConsoleScanner:
    """Feed it bytes as they come, in pieces of any size."""

    def __init__(self) -> None:
        self._parser = ConsoleParser()
        self._rest: list[bytes] = []
        self._booted = False

    def feed(self, data: bytes) -> list[Crash]:
        """The crashes that these bytes completed; one that a later panic makes fatal comes a second time."""
        cut = data.rfind(b"\n") + 1
        if not cut:
            self._rest.append(data)
            return []
        block = b"".join([*self._rest, data[:cut]]) if self._rest else data[:cut] if cut < len(data) else data
        self._rest = [data[cut:]] if cut < len(data) else []
        return self._lines(block)

    def finish(self) -> list[Crash]:
        """The console has ended: what is still open."""
        found = self._lines(b"".join(self._rest)) if self._rest else []
        self._rest = []
        while last := self._parser.finish():
            found.append(last)
        return found

    @property
    def pending(self) -> Crash | None:
        return self._parser.pending

    def so_far(self) -> tuple[Crash, ...]:
        """All that is known by now of reports that have not ended."""
        return self._parser.so_far()

    def _lines(self, block: bytes) -> list[Crash]:
        found: list[Crash] = []
        parser, at, end = self._parser, 0, len(block)
        hits = _Hits(block)
        while at < end:
            if parser.idle:
                hit = hits.after(at)
                begin = block.rfind(b"\n", at, hit) + 1 if hit < end else end
                begin = max(begin, at)
                if begin > at:
                    self._booted = self._booted or _STAMP.search(block, at, begin) is not None
                    parser.skip(block.count(b"\n", at, begin), begin - at, self._booted)
                    at = begin
                    continue
            stop = block.find(b"\n", at) + 1 or end
            text = block[at : min(stop, at + _MAX_LINE)].decode("utf-8", "replace")
            if crash := parser.feed(text, stop - at, hits.after(at) < stop):
                found.append(crash)
            at = stop
        return found


# A search for all words at once, with a library whose automaton does not slow down with their number. Python's own `re`
# tries them one by one: below 40 MB/s. Imported late: a live console is read line by line, without it.
@cache
def _matcher() -> Callable[[bytes, int], int] | None:
    try:
        import re2
    except ImportError:
        return None
    search = re2.compile(b"|".join(re.escape(needle) for needle in NEEDLES)).search

    def find(block: bytes, at: int) -> int:
        match = search(block, at)
        return int(match.start()) if match else len(block)

    return find


# Where the next word of the table is. Without the library each word is looked for by itself, and again only behind its
# last place.
class _Hits:
    def __init__(self, block: bytes) -> None:
        self._block = block
        self._next = dict.fromkeys(NEEDLES, -1)
        self._nearest = -1
        self._find = _matcher()

    def after(self, at: int) -> int:
        if self._nearest >= at:
            return self._nearest
        if self._find:
            self._nearest = self._find(self._block, at)
            return self._nearest
        for needle, place in self._next.items():
            if place < at:
                place = self._block.find(needle, at)
                self._next[needle] = place if place >= 0 else len(self._block)
        self._nearest = min(self._next.values())
        return self._nearest


def scan(data: bytes) -> Iterator[Crash]:
    """The crashes of a whole console, each once, in the order of their completion."""
    scanner = ConsoleScanner()
    latest: dict[int, Crash] = {}
    latest |= {crash.start: crash for crash in scanner.feed(data)}
    latest |= {crash.start: crash for crash in scanner.finish()}
    for start in sorted(latest):
        yield latest[start]
