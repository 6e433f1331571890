# SPDX-License-Identifier: Apache-2.0
"""Virtual time against a host that always gives QEMU's threads the lock in the wrong order: nothing of it is seen."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from kernloop import runs
from kernloop.host import process, toolset
from kernloop.kernel import refs
from kernloop.vm import cpio, guest_programs, guests, initramfs, order, snapshots
from kernloop.vm.argv import VirtualTime
from kernloop.vm.frames import run_request
from kernloop.vm.guest import Guest
from kernloop.vm.handover import blob
from kernloop.vm.initramfs import Payload
from kernloop.vm.session import GUEST_ENV
from kernloop.vm.topology import Topology
from kernloop.vm.watch import Command, attend, watch

pytestmark = [pytest.mark.vm, pytest.mark.slow]

SOURCES = Path(__file__).parent / "c"


@dataclass(frozen=True)
class Seen:
    """Of one boot and one run: a checksum of the memory at the snapshot, the console's, and what the sleepers said."""

    memory: int
    console: str
    said: bytes


@contextmanager
def on_a_hostile_host(guest: Guest, folder: Path) -> Iterator[Guest]:
    """`guest`, its QEMU with adversary.c in it, and a snapshot of its own."""
    library = folder / "adversary.so"
    words = [str(toolset.get().cc), "-O2", "-fPIC", "-shared", str(SOURCES / "adversary.c"), "-o", str(library)]
    process.run(words, seconds=60, what="compiling adversary.c")
    wrapper = folder / "qemu"
    wrapper.write_text(guest.qemu.read_text().replace('order.so"', f'order.so:{library}"'))
    wrapper.chmod(0o755)
    hostile = replace(guest, qemu=wrapper, toolset=f"{guest.toolset} hostile")
    snapshots.remove(snapshots.folder_of(hostile.key()))
    try:
        yield hostile
    finally:
        snapshots.remove(snapshots.folder_of(hostile.key()))


def see(guest: Guest, payload: bytes) -> Seen:
    said: list[bytes] = []
    command = Command((), 200, said.append, said.append)
    with runs.create("test", "kernloop.test/1", {}) as run:
        watched = asyncio.run(watch(attend(guest, payload, run), run, command, real_time=False))
        assert watched.status == 0
    snapshot = snapshots.find(guest.key())
    assert snapshot is not None
    return Seen(snapshots.checksum(snapshot.path / "ram"), watched.console_sha256, b"".join(said))


@pytest.mark.parametrize("cpus", [1, 2, 4])
def test_neither_a_boot_nor_a_run_shows_which_thread_of_qemu_was_first(cpus: int, tmp_path: Path) -> None:
    program = guest_programs.build("sleepers", [SOURCES / "sleepers.c"])
    job = cpio.regular("kl/job", run_request(["/kl/sleepers"], cwd="/root", env=GUEST_ENV))
    payload = blob(initramfs.payload([Payload(program, "/kl/sleepers")], extra=[job]), seed=1)
    guest = guests.micro(refs.resolve(refs.DEFAULT), Topology(cpus), 512, virtual=VirtualTime())
    assert guest.qemu == order.qemu()
    first = see(guest, payload)
    assert first.said.count(b"\n") == 40
    with on_a_hostile_host(guest, tmp_path) as hostile:
        assert see(hostile, payload) == first
        assert see(hostile, payload) == first
