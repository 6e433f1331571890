# SPDX-License-Identifier: Apache-2.0
"""vCPUs as sockets, LLCs, cores and threads, and NUMA nodes with their memory and distances, from what users write.

`arranged` takes all of it in one word: `SOCKETSxCORESxTHREADS`, a last-level cache for each socket, one node; with
`+llcN` each socket has N of these, with `+numaN` vCPUs and memory are N nodes. Or it takes a name of `PRESETS`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import Any

from kernloop.errors import UsageError

__all__ = [
    "MAX_CPUS",
    "PRESETS",
    "Node",
    "Topology",
    "arranged",
    "in_a_word",
    "memory_for",
    "numa",
    "of_json",
    "parse_cpus",
]

MAX_CPUS = 64
_LEVELS = ("sockets", "dies", "cores", "threads")
_CPUS_HINT = "as in --cpus 4 or --cpus 8,sockets=2,cores=2,threads=2"
_NODE_HINT = "as in --numa 0-3:256M --numa 4-7:256M"
_DISTANCE_HINT = "as in --distance 0-1:21, from 11 to 254; a node is 10 from itself"
# What Linux calls local and remote (include/linux/topology.h: LOCAL_DISTANCE, REMOTE_DISTANCE).
_LOCAL, _REMOTE = 10, 20
# The smallest machines that have what their name says. `numaN` and `llcN` are names for any N.
PRESETS = {
    "up": "1x1x1",
    "uma": "1x4x1",
    "smt": "1x2x2",
    "llc2": "1x4x1+llc2",
    "numa2": "2x2x2+numa2",
    "numa4": "4x2x2+numa4",
    "big": "2x16x2+numa2",
}
_ARRANGED_HINT = f"as in 2x4x2, 1x8x1+llc2, 2x4x2+numa2; or a name: {' '.join(PRESETS)}"
# What a kernel and the suite need: of the default machine, and for each further vCPU.
_LEAST_MIB, _LEAST_CPUS, _MIB_A_CPU = 512, 16, 16


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

    @property
    def shares_caches(self) -> bool:
        """Whether some vCPUs share a cache that others of their socket do not: of a core, or of a die."""
        return self.threads > 1 or self.dies > 1


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


def in_a_word(topology: Topology) -> str:
    """What `arranged` takes for a topology without nodes; levels that were left to QEMU are as it makes them."""
    sockets, llcs, threads = topology.sockets or 1, topology.dies or 1, topology.threads or 1
    word = f"{sockets}x{topology.cpus // sockets // threads}x{threads}"
    return word if llcs == 1 else f"{word}+llc{llcs}"


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


def arranged(text: str, memory: int | None = None) -> Topology:
    """`text`, a preset or `SxCxT[+llcN][+numaN]`, with `memory` MiB shared out to its nodes. Raises UsageError."""
    match = re.fullmatch(r"(\d+)x(\d+)x(\d+)(?:\+llc(\d+))?(?:\+numa(\d+))?", _spelt(text))
    if match is None:
        raise UsageError(f"{text!r} is no topology", hint=_ARRANGED_HINT)
    sockets, cores, threads, llcs, nodes = (int(number or 1) for number in match.groups())
    cpus = sockets * cores * threads
    if not 1 <= cpus <= MAX_CPUS:
        raise UsageError(f"{text} has {cpus} vCPUs, 1 to {MAX_CPUS} can be had", hint=_ARRANGED_HINT)
    if not llcs or cores % llcs:
        raise UsageError(f"{cores} cores cannot share {llcs} last-level caches evenly", hint=_ARRANGED_HINT)
    # Linux takes a cache that lies in two nodes for a mistake (topology_sane() of arch/x86/kernel/smpboot.c).
    if not nodes or sockets * llcs % nodes:
        raise UsageError(
            f"{nodes} NUMA nodes cannot share {sockets * llcs} last-level caches evenly", hint=_ARRANGED_HINT
        )
    # Cores of one socket is what QEMU makes of a number alone: the same machine, so the same snapshot.
    plain = sockets == llcs == threads == 1
    found = Topology(cpus) if plain else Topology(cpus, sockets, llcs, cores // llcs, threads)
    if nodes == 1:
        return found
    size, width = memory or memory_for(cpus), cpus // nodes
    parts = [size // nodes + (number < size % nodes) for number in range(nodes)]
    return replace(
        found,
        nodes=tuple(Node((n * width, (n + 1) * width - 1), part) for n, part in enumerate(parts)),
    )


def memory_for(cpus: int) -> int:
    """MiB that a guest with so many vCPUs needs."""
    return _LEAST_MIB + _MIB_A_CPU * max(0, cpus - _LEAST_CPUS)


def of_json(value: dict[str, Any]) -> Topology:
    """What `dataclasses.asdict` gave, after a trip through JSON."""
    nodes = tuple(Node(tuple(node["cpus"]) if node["cpus"] else None, node["memory"]) for node in value["nodes"])
    return Topology(**{**value, "nodes": nodes, "distances": tuple(tuple(one) for one in value["distances"])})


def _spelt(text: str) -> str:
    if text in PRESETS:
        return PRESETS[text]
    if match := re.fullmatch(r"numa([2-9]|1\d)", text):
        return f"{match[1]}x2x2+numa{match[1]}"
    if match := re.fullmatch(r"llc([2-9]|[123]\d)", text):
        return f"1x{2 * int(match[1])}x1+llc{match[1]}"
    return text


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
