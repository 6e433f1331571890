# SPDX-License-Identifier: Apache-2.0
"""ftrace's ring buffer pages as events.

How a page is laid out is told by events/header_page, an event by its `format`; the record headers, time extensions and
lost-event marks are those of include/linux/ring_buffer.h and kernel/trace/ring_buffer.c.
"""

from __future__ import annotations

import heapq
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from kernloop.errors import HarnessError
from kernloop.sched.trace.stream import Stream

__all__ = ["FIELDS", "LOST", "Event", "Format", "Layout", "events", "formats", "layout", "page_events", "parse_format"]

# What is taken of each event; `Event.values` has it in this order.
FIELDS = {
    "sched_switch": ("prev_comm", "prev_pid", "prev_prio", "prev_state", "next_comm", "next_pid", "next_prio"),
    "sched_waking": ("comm", "pid", "prio", "target_cpu"),
    "sched_wakeup": ("comm", "pid", "prio", "target_cpu"),
    "sched_wakeup_new": ("comm", "pid", "prio", "target_cpu"),
    "sched_migrate_task": ("pid", "orig_cpu", "dest_cpu"),
    "sched_process_fork": ("parent_pid", "child_comm", "child_pid"),
    "sched_process_exit": ("comm", "pid", "prio"),
    "dsq_insert": ("pid", "dsq", "cpu", "flags"),
    "dsq_leave": ("pid", "dsq", "cpu"),
    "dsq_local": ("pid", "cpu"),
}
# Not the kernel's: here events of a CPU are missing. Its value is how many, 0 when the kernel does not say.
LOST = "lost"

_FIELD = re.compile(
    r"field:(?P<type>[^;]*?)\s*\b(?P<name>\w+)(?P<array>\[[^\]]*\])?;\s*"
    r"offset:(?P<offset>\d+);\s*size:(?P<size>\d+);(?:\s*signed:(?P<signed>[01]);)?"
)
_INTEGERS = {(1, 0): "B", (1, 1): "b", (2, 0): "H", (2, 1): "h", (4, 0): "I", (4, 1): "i", (8, 0): "Q", (8, 1): "q"}
_PADDING, _TIME_EXTEND, _TIME_STAMP = 29, 30, 31
_TIME_BITS = 27
_MSB = 0xF8 << 56
_MISSED, _MISSED_STORED, _MISSED_MASK = 1 << 31, 1 << 30, 3 << 30
_WORD = struct.Struct("<I")
_LONG = struct.Struct("<Q")
_COMMON = struct.Struct("<HBBi")


class Event(NamedTuple):
    """`ts` in nanoseconds of the guest's boot clock; `pid` is the task that ran when it happened."""

    ts: int
    cpu: int
    kind: str
    pid: int
    values: tuple[Any, ...]


@dataclass(frozen=True)
class Layout:
    """Of a page: where its commit word lies and how long it is, and where the data begins."""

    commit_size: int = 8
    data: int = 16


@dataclass(frozen=True)
class Format:
    """An event: its name, its id, and how its fields are read from a record."""

    name: str
    id: int
    size: int
    decode: Callable[[bytes, int, int], tuple[Any, ...]]


def layout(header_page: str) -> Layout:
    """The layout that events/header_page tells of; the usual one for no text."""
    found = {m["name"]: m for m in _FIELD.finditer(header_page)}
    if "commit" not in found or "data" not in found:
        return Layout()
    commit = int(found["commit"]["size"])
    return Layout(commit if commit in (4, 8) else 8, int(found["data"]["offset"]))


def parse_format(text: str) -> Format | None:
    """An event's `format`; None for one that is not in FIELDS. Raises HarnessError when a field is missing."""
    name = re.search(r"^name: (\S+)", text, re.MULTILINE)
    number = re.search(r"^ID: (\d+)", text, re.MULTILINE)
    if name is None or number is None or name[1] not in FIELDS:
        return None
    there = {m["name"]: m for m in _FIELD.finditer(text)}
    lacking = [field for field in FIELDS[name[1]] if field not in there]
    if lacking:
        raise HarnessError(
            f"this kernel's event {name[1]} has no field {lacking[0]}", hint="report it with the kernel's release"
        )
    chosen = [there[field] for field in FIELDS[name[1]]]
    end = max(int(m["offset"]) + int(m["size"]) for m in chosen)
    return Format(name[1], int(number[1]), end, _decoder(chosen))


def formats(stream: Stream) -> dict[int, Format]:
    return {found.id: found for text in stream.all("format") if (found := parse_format(text)) is not None}


# One struct for all fields, in the order of their offsets; strings and the wanted order come behind.
def _decoder(fields: list[re.Match[str]]) -> Callable[[bytes, int, int], tuple[Any, ...]]:
    ordered = sorted(fields, key=lambda m: int(m["offset"]))
    spec, at = "<", 0
    for m in ordered:
        offset, size = int(m["offset"]), int(m["size"])
        spec += f"{offset - at}x" if offset > at else ""
        spec += f"{size}s" if _is_text(m) else _INTEGERS.get((size, int(m["signed"] or 0)), f"{size}s")
        at = offset + size
    unpack = struct.Struct(spec).unpack_from
    places = [ordered.index(m) for m in fields]
    texts = {ordered.index(m) for m in fields if _is_text(m)}
    located = {ordered.index(m) for m in fields if m["type"].startswith("__data_loc")}

    def decode(data: bytes, start: int, end: int) -> tuple[Any, ...]:
        values = unpack(data, start)
        if not texts and not located:
            return tuple([values[place] for place in places])
        return tuple(
            [
                _text(values[place])
                if place in texts
                else _located(data, start, end, values[place])
                if place in located
                else values[place]
                for place in places
            ]
        )

    return decode


def _is_text(field: re.Match[str]) -> bool:
    return bool(field["array"]) and field["type"].endswith("char")


def _text(raw: bytes) -> str:
    return raw.partition(b"\0")[0].decode(errors="replace")


# __data_loc: the offset in the record in the low half, the length in the high one.
def _located(data: bytes, start: int, end: int, word: int) -> str:
    begin = start + (word & 0xFFFF)
    return _text(data[begin : min(begin + (word >> 16), end)])


def page_events(page: bytes, cpu: int, how: Layout, known: Mapping[int, Format]) -> Iterator[Event]:
    """The events of one page, as far as they can be read."""
    if len(page) < how.data:
        return
    (ts,) = _LONG.unpack_from(page, 0)
    (commit,) = (_LONG if how.commit_size == 8 else _WORD).unpack_from(page, 8)
    end = min(how.data + (commit & 0xFFFFF), len(page))
    if commit & _MISSED:
        stored = commit & _MISSED_STORED and end + _LONG.size <= len(page)
        yield Event(ts, cpu, LOST, 0, (_LONG.unpack_from(page, end)[0] if stored else 0,))
    at = how.data
    while at + 4 <= end:
        (word,) = _WORD.unpack_from(page, at)
        kind, delta = word & 31, word >> 5
        if kind == _PADDING and not delta:
            return  # the rest of the page
        if kind and kind < _PADDING:
            begin, size = at + 4, kind * 4
        elif at + 8 > end:
            return
        else:
            (first,) = _WORD.unpack_from(page, at + 4)
            if kind == _TIME_EXTEND:
                ts += (first << _TIME_BITS) + delta
                at += 8
                continue
            if kind == _TIME_STAMP:
                ts = _absolute((first << _TIME_BITS) + delta, ts)
                at += 8
                continue
            # The length counts its own word.
            begin, size = at + 8, max(first - 4, 0)
            if kind == _PADDING:
                at = begin + size
                continue
        ts += delta
        at = begin + size
        if at > end or size < _COMMON.size:
            return
        number, _, _, pid = _COMMON.unpack_from(page, begin)
        found = known.get(number)
        if found is not None and found.size <= size:
            yield Event(ts, cpu, found.name, pid, found.decode(page, begin, at))


# rb_fix_abs_ts(): an absolute time stamp lacks the five highest bits.
def _absolute(stamp: int, before: int) -> int:
    if before & _MSB:
        stamp |= before & _MSB
        if stamp < before:
            stamp += 1 << 59
    return stamp & (1 << 64) - 1


def events(stream: Stream) -> Iterator[Event]:
    """All events of a recording, in the order of their time."""
    how, known = layout(stream.text("header_page")), formats(stream)

    def of_cpu(cpu: int) -> Iterable[Event]:
        for page in stream.open_pages(cpu):
            yield from page_events(page, cpu, how, known)

    return heapq.merge(*(of_cpu(cpu) for cpu in stream.pages), key=lambda event: event.ts)
