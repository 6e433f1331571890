# SPDX-License-Identifier: Apache-2.0
"""The lines of ftrace's text as data: events, functions, and calls with their time (kernel/trace/trace_output.c,
trace_functions_graph.c)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

__all__ = ["Line", "Sum", "Summary", "read"]

# "  sh-123  [000] d..2.  17.123456: ", then "function <-caller" or "event: text".
_HEAD = re.compile(r"\s*(?P<comm>\S.*?|\S)-(?P<pid>\d+)\s+\[(?P<cpu>\d+)\]\s+\S+\s+(?P<time>\d+\.\d+): (?P<rest>.*)")
_FUNCTION = re.compile(r"(?P<name>[\w.]+)(?: \[(?P<module>\w+)\])? <-(?P<parent>\S+)")
_EVENT = re.compile(r"(?P<name>\w+): (?P<text>.*)")
# " 17.123456 |   0)    sh-123    | + 12.345 us   |    } /* function */", with a column of flags if asked for.
_GRAPH = re.compile(
    r"\s*(?P<time>\d+\.\d+) \|\s+(?P<cpu>\d+)\)\s+(?P<comm>\S.*?|\S)-(?P<pid>\d+)\s+\|"
    r"\s*(?:[$@*#!+] )?\s*(?:(?P<us>\d+\.\d+) us)?\s*\|(?P<indent>\s+)(?P<rest>.*)"
)
_CALL = re.compile(r"(?P<name>[\w.]+)(?: \[\w+\])?\(.*?\)(?P<open> \{|;)")
_RETURN = re.compile(r"\}(?: /\* (?P<name>[\w.]+).*)?")
_COMMENT = re.compile(r"/\* (?P<name>\w+): (?P<text>.*) \*/")
_LOST = re.compile(r"CPU:(?P<cpu>\d+) \[LOST (?P<count>\d+) EVENTS\]")


@dataclass(frozen=True)
class Line:
    """`kind` is function, enter, leave, call (enter and leave at once), event, or lost, where `text` is their number.

    `time` is in seconds on the trace's clock, `depth` counts the calls a graph shows around it.
    """

    kind: str
    name: str
    cpu: int
    time: float | None = None
    comm: str = ""
    pid: int | None = None
    parent: str = ""
    us: float | None = None
    depth: int | None = None
    text: str = ""


@dataclass(frozen=True)
class Sum:
    """How often `name` stands in a trace; of calls also their time."""

    name: str
    count: int
    total_us: float | None
    max_us: float | None


def read(lines: Iterable[str]) -> Iterator[Line]:
    """What is no line of a trace, as the rule where a graph goes to another task, is left out."""
    for line in lines:
        if (found := _line(line.rstrip("\n"))) is not None:
            yield found


class Summary:
    """What a trace has, line by line: `count` of its lines, `lost` as it says itself, and each name's sum."""

    def __init__(self) -> None:
        self.count = 0
        self.lost = 0
        self._rows: dict[str, tuple[int, float, float | None]] = {}

    def add(self, line: Line) -> None:
        self.count += 1
        if line.kind == "lost":
            self.lost += int(line.text)
        # A call counts when it ends, which is when its time is known.
        elif line.kind != "enter" and line.name:
            count, total, most = self._rows.get(line.name, (0, 0.0, None))
            if line.us is not None:
                total, most = total + line.us, max(most or 0.0, line.us)
            self._rows[line.name] = (count + 1, total, most)

    def sums(self) -> list[Sum]:
        """Each name with its count and time, the longest or most frequent first."""
        found = [
            Sum(name, count, None if most is None else round(total, 3), most)
            for name, (count, total, most) in self._rows.items()
        ]
        return sorted(found, key=lambda one: (-(one.total_us or 0.0), -one.count, one.name))


def _line(text: str) -> Line | None:
    if found := _GRAPH.match(text):
        return _graph(found)
    if found := _HEAD.match(text):
        where = (int(found["cpu"]), float(found["time"]), found["comm"], int(found["pid"]))
        if inner := _FUNCTION.fullmatch(found["rest"]):
            return Line("function", inner["name"], *where, parent=inner["parent"])
        if inner := _EVENT.match(found["rest"]):
            return Line("event", inner["name"], *where, text=inner["text"])
        return None
    if found := _LOST.match(text):
        return Line("lost", "", int(found["cpu"]), text=found["count"])
    return None


def _graph(found: re.Match[str]) -> Line | None:
    where = (int(found["cpu"]), float(found["time"]), found["comm"], int(found["pid"]))
    us = float(found["us"]) if found["us"] else None
    # Two columns before the first call, two more for each around it.
    depth = max(len(found["indent"]) // 2 - 1, 0)
    if inner := _COMMENT.match(found["rest"]):
        return Line("event", inner["name"], *where, depth=depth, text=inner["text"])
    if inner := _CALL.match(found["rest"]):
        return Line("enter" if inner["open"] == " {" else "call", inner["name"], *where, us=us, depth=depth)
    if inner := _RETURN.match(found["rest"]):
        return Line("leave", inner["name"] or "", *where, us=us, depth=depth)
    return None
