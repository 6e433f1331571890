# SPDX-License-Identifier: Apache-2.0
"""vCPUs as sockets, cores and threads, and NUMA nodes with their memory and distances, from what users write."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import Any

from kernloop.errors import UsageError

__all__ = ["MAX_CPUS", "Node", "Topology", "numa", "of_json", "parse_cpus"]

MAX_CPUS = 64
_LEVELS = ("sockets", "dies", "cores", "threads")
_CPUS_HINT = "as in --cpus 4 or --cpus 8,sockets=2,cores=2,threads=2"
_NODE_HINT = "as in --numa 0-3:256M --numa 4-7:256M"
_DISTANCE_HINT = "as in --distance 0-1:21, from 11 to 254; a node is 10 from itself"
# What Linux calls local and remote (include/linux/topology.h: LOCAL_DISTANCE, REMOTE_DISTANCE).
_LOCAL, _REMOTE = 10, 20


@dataclass(frozen=True)
class Node:
    """A NUMA node: the range of its vCPUs, both ends in it (None: memory only), and its memory in MiB."""

    cpus: tuple[int, int] | None
    memory: int


@dataclass(frozen=True)
class Topology:
    """How `cpus` vCPUs are arranged; 0 leaves a level to QEMU. `distances` holds (from, to, distance), both ways."""

    cpus: int = 2
    sockets: int = 0
    dies: int = 0
    cores: int = 0
    threads: int = 0
    nodes: tuple[Node, ...] = ()
    distances: tuple[tuple[int, int, int], ...] = ()

    @property
    def smp(self) -> str:
        """The value of QEMU's -smp."""
        levels = [f"{level}={count}" for level in _LEVELS if (count := getattr(self, level))]
        return ",".join([str(self.cpus), *levels])


def parse_cpus(text: str) -> Topology:
    """`N` or `N,sockets=S,dies=D,cores=C,threads=T`. Raises UsageError, also when the levels do not make N."""
    count, *levels = text.split(",")
    if not count.isdigit() or not 1 <= int(count) <= MAX_CPUS:
        raise UsageError(f"{count!r} is no number of vCPUs, 1 to {MAX_CPUS}", hint=_CPUS_HINT)
    given: dict[str, int] = {}
    for level in levels:
        name, _, value = level.partition("=")
        if name not in _LEVELS or not value.isdigit() or not int(value) or name in given:
            raise UsageError(f"{level!r} is no level of a CPU topology ({', '.join(_LEVELS)})", hint=_CPUS_HINT)
        given[name] = int(value)
    product = math.prod(given.values())
    # QEMU computes a level that was left out, and refuses what does not come out even.
    if int(count) % product or (len(given) == len(_LEVELS) and product != int(count)):
        raise UsageError(
            f"{' x '.join(f'{v} {k}' for k, v in given.items())} do not make {count} vCPUs", hint=_CPUS_HINT
        )
    sockets, dies, cores, threads = (given.get(level, 0) for level in _LEVELS)
    return Topology(int(count), sockets, dies, cores, threads)


def numa(topology: Topology, memory: int, nodes: tuple[str, ...], distances: tuple[str, ...]) -> Topology:
    """`topology` with `nodes` (`FIRST-LAST:SIZE`, or `:SIZE` for memory only) and `distances` (`A-B:DISTANCE`).

    Raises UsageError, also when the nodes do not share out all vCPUs and `memory` MiB.
    """
    found = tuple(_node(text) for text in nodes)
    if found:
        ranges = [range(node.cpus[0], node.cpus[1] + 1) for node in found if node.cpus]
        if sorted(cpu for each in ranges for cpu in each) != list(range(topology.cpus)):
            raise UsageError(f"the nodes do not share out the vCPUs 0 to {topology.cpus - 1}", hint=_NODE_HINT)
        if sum(node.memory for node in found) != memory:
            total = sum(node.memory for node in found)
            raise UsageError(
                f"the nodes have {total} MiB, the guest {memory} MiB", hint=f"--memory {total}M, or change the nodes"
            )
    return replace(topology, nodes=found, distances=_distances(distances, len(found)))


def of_json(value: dict[str, Any]) -> Topology:
    """What `dataclasses.asdict` gave, after a trip through JSON."""
    nodes = tuple(Node(tuple(node["cpus"]) if node["cpus"] else None, node["memory"]) for node in value["nodes"])
    return Topology(**{**value, "nodes": nodes, "distances": tuple(tuple(one) for one in value["distances"])})


def _node(text: str) -> Node:
    match = re.fullmatch(r"(?:(\d+)(?:-(\d+))?)?:(\d+)([MG])", text)
    if match is None:
        raise UsageError(f"{text!r} is no NUMA node", hint=_NODE_HINT)
    first, last, size, unit = match.groups()
    cpus = (int(first), int(last or first)) if first else None
    return Node(cpus, int(size) * (1024 if unit == "G" else 1))


# QEMU wants all distances or none, and takes one way for both only if no way back is given at all.
def _distances(texts: tuple[str, ...], nodes: int) -> tuple[tuple[int, int, int], ...]:
    if not texts:
        return ()
    table = {(a, b): _LOCAL if a == b else _REMOTE for a in range(nodes) for b in range(nodes)}
    for text in texts:
        match = re.fullmatch(r"(\d+)-(\d+):(\d+)", text)
        a, b, far = map(int, match.groups()) if match else (0, 0, 0)
        if a == b or (a, b) not in table or not _LOCAL < far < 255:
            raise UsageError(f"{text!r} is no distance between two of the {nodes} nodes", hint=_DISTANCE_HINT)
        table[a, b] = table[b, a] = far
    return tuple((a, b, far) for (a, b), far in sorted(table.items()))
