# SPDX-License-Identifier: Apache-2.0
"""Topologies in a word: what QEMU is told, and what is refused before anything is started."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kernloop.errors import UsageError
from kernloop.vm.argv import Channels, MachineSpec, Start, VirtualTime, kernel_words, qemu_argv
from kernloop.vm.topology import PRESETS, Node, arranged, in_a_word, memory_for, parse_cpus


@pytest.mark.parametrize(
    ("text", "smp", "nodes"),
    [
        ("1x2x1", "2", ()),
        ("2x4x2", "16,sockets=2,dies=1,cores=4,threads=2", ()),
        ("1x8x1+llc2", "8,sockets=1,dies=2,cores=4,threads=1", ()),
        ("2x2x2+numa2", "8,sockets=2,dies=1,cores=2,threads=2", ((0, 3), (4, 7))),
        ("1x8x1+llc4+numa2", "8,sockets=1,dies=4,cores=2,threads=1", ((0, 3), (4, 7))),
        ("numa4", "16,sockets=4,dies=1,cores=2,threads=2", ((0, 3), (4, 7), (8, 11), (12, 15))),
        ("numa3", "12,sockets=3,dies=1,cores=2,threads=2", ((0, 3), (4, 7), (8, 11))),
        ("llc4", "8,sockets=1,dies=4,cores=2,threads=1", ()),
    ],
)
def test_a_word_is_sockets_caches_cores_threads_and_nodes(
    text: str, smp: str, nodes: tuple[tuple[int, int], ...]
) -> None:
    found = arranged(text)
    assert found.smp == smp
    assert tuple(node.cpus for node in found.nodes) == nodes


@pytest.mark.parametrize(
    ("cpus", "word"),
    [("2", "1x2x1"), ("8,sockets=2,cores=2,threads=2", "2x2x2"), ("8,sockets=2", "2x4x1"), ("8,dies=2", "1x8x1+llc2")],
)
def test_what_cpus_says_can_be_said_in_a_word(cpus: str, word: str) -> None:
    assert in_a_word(parse_cpus(cpus)) == word
    assert arranged(word).cpus == parse_cpus(cpus).cpus


@pytest.mark.parametrize("name", PRESETS)
def test_the_nodes_of_a_preset_share_out_the_memory_that_its_guest_gets(name: str) -> None:
    found = arranged(name)
    assert sum(node.memory for node in found.nodes) in (0, memory_for(found.cpus))


def test_memory_that_does_not_come_out_even_is_shared_out_all_the_same() -> None:
    assert arranged("3x1x1+numa3", 1000).nodes == (Node((0, 0), 334), Node((1, 1), 333), Node((2, 2), 333))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("4", "'4' is no topology"),
        ("2x4", "'2x4' is no topology"),
        ("numa1", "'numa1' is no topology"),
        ("0x1x1", "has 0 vCPUs"),
        ("5x13x1", "has 65 vCPUs, 1 to 64 can be had"),
        ("1x4x1+llc3", "4 cores cannot share 3 last-level caches evenly"),
        ("1x4x1+llc0", "4 cores cannot share 0 last-level caches evenly"),
        ("1x4x1+numa2", "2 NUMA nodes cannot share 1 last-level caches evenly"),
    ],
)
def test_what_is_no_topology_is_refused_with_the_way_to_write_one(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)) as caught:
        arranged(text)
    assert "2x4x2" in caught.value.hint


@pytest.mark.parametrize(("text", "vendor"), [("smt", True), ("llc2", True), ("uma", False), ("2x2x1+numa2", False)])
def test_a_machine_whose_caches_are_shared_within_a_socket_has_a_cpu_that_is_asked_for_that(
    text: str, vendor: bool
) -> None:
    spec = MachineSpec(arranged(text), virtual_time=VirtualTime())
    channels = Channels((3, 4), (5, 6), 7, Path("/runs/a/console.log"))
    words = qemu_argv(Path("/q/qemu"), spec, Path("/k/bzImage"), Start(), channels)
    assert ("vendor=GenuineIntel" in words[words.index("-cpu") + 1]) is vendor
    assert ("pti=off" in kernel_words(spec).split()) is vendor
