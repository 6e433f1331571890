# SPDX-License-Identifier: Apache-2.0
"""What `bpftrace -f json` prints, as data: what the program printed, its maps as they were last, what was lost."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

__all__ = ["Bucket", "Map", "Output", "Row", "read"]

# Types of bpftrace whose data is a map with a name (its src/output.cpp).
_MAPS = ("map", "hist", "lhist", "stats", "tseries")


@dataclass(frozen=True)
class Bucket:
    """Values from `low` to `high`, both included; None for no bound."""

    low: int | None
    high: int | None
    count: int


@dataclass(frozen=True)
class Row:
    """One element of a map. `key` is "" for a map without keys, `stack` the functions of one that a stack is key of."""

    key: str
    stack: tuple[str, ...]
    value: object

    @property
    def weight(self) -> float:
        """What rows are ordered by: a number, the events of a histogram, the count of statistics."""
        if isinstance(self.value, tuple):
            return float(sum(one.count for one in self.value))
        if isinstance(self.value, dict):
            return _number(self.value.get("count"))
        return _number(self.value)


@dataclass(frozen=True)
class Map:
    """A map as it was printed last: `kind` is map, hist, lhist or stats; `rows` the heaviest first."""

    name: str
    kind: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Output:
    """`attached` is the number of probes, None when bpftrace did not get so far. `lines` are what printf and its like
    wrote, `values` what print() showed that is no map, `lost` the events that were not printed for want of room."""

    attached: int | None
    lines: tuple[str, ...]
    values: tuple[object, ...]
    maps: tuple[Map, ...]
    lost: int
    complaints: tuple[str, ...]


def read(lines: Iterable[str]) -> Output:
    """The output line by line. What is no JSON, as when the guest died while it wrote, is left out."""
    attached: int | None = None
    text: list[str] = []
    values: list[object] = []
    maps: dict[str, Map] = {}
    lost = 0
    complaints: list[str] = []
    for line in lines:
        kind, data = _message(line)
        if kind == "attached_probes":
            attached = int(_number(data.get("probes"))) if isinstance(data, dict) else 0
        elif kind == "lost_events":
            lost += int(_number(data.get("events"))) if isinstance(data, dict) else 0
        elif kind in _MAPS and isinstance(data, dict):
            maps |= {name: _map(name, kind, content) for name, content in data.items()}
        elif kind in ("printf", "time", "cat", "join", "syscall") and isinstance(data, str):
            text.append(data)
        elif kind in ("errorf", "helper_error", "runtime_error"):
            complaints.append(data if isinstance(data, str) else json.dumps(data))
        elif kind:
            values.append(data)
    return Output(
        attached, tuple("".join(text).splitlines()), tuple(values), tuple(maps.values()), lost, tuple(complaints)
    )


def _message(line: str) -> tuple[str, Any]:
    if not line.startswith("{"):
        return "", None
    try:
        found = json.loads(line)
        return str(found["type"]), found.get("data")
    except (ValueError, KeyError, TypeError, RecursionError):
        return "", None


# A map without keys has its value where others have their elements: statistics are told by their names.
def _map(name: str, kind: str, content: object) -> Map:
    if not isinstance(content, dict) or (kind == "stats" and "count" in content):
        return Map(name, kind, (Row("", (), _value(content)),))
    rows = [Row(*_key(key), _value(value)) for key, value in content.items()]
    return Map(name, kind, tuple(sorted(rows, key=lambda row: -row.weight)))


def _value(found: object) -> object:
    return _buckets(found) if isinstance(found, list) and _are_buckets(found) else found


def _are_buckets(found: list[object]) -> bool:
    return bool(found) and all(isinstance(one, dict) and "count" in one for one in found)


def _buckets(found: list[Any]) -> tuple[Bucket, ...]:
    return tuple(Bucket(_bound(one.get("min")), _bound(one.get("max")), int(_number(one["count"]))) for one in found)


def _bound(found: object) -> int | None:
    return found if isinstance(found, int) else None


# A stack in a key has its line ends as two characters; its functions are "name+offset".
def _key(key: str) -> tuple[str, tuple[str, ...]]:
    head, *frames = key.replace("\\n", "\n").split("\n")
    return head.rstrip(","), tuple(frame.strip() for frame in frames if frame.strip())


def _number(found: object) -> float:
    return float(found) if isinstance(found, int | float) else 0.0
