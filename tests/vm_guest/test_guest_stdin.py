# SPDX-License-Identifier: Apache-2.0
"""What the host writes to a command's stdin arrives whole, and one that does not read is nobody else's trouble."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Iterator

import pytest

from guests import Guest, in_thread, micro
from kernloop.vm.frames import STDIN_WINDOW

pytestmark = pytest.mark.vm
DATA = random.Random(1).randbytes(5_000_001)


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    with in_thread(micro(tmp_path_factory.mktemp("run"))) as guest:
        yield guest


def test_megabytes_of_any_bytes_arrive_and_come_back(guest: Guest) -> None:
    assert guest("sha256sum", stdin=DATA).out.split()[0].decode() == hashlib.sha256(DATA).hexdigest()
    assert guest("cat", stdin=DATA).out == DATA


def test_a_command_that_never_reads_stops_no_other_and_its_writer_waits(guest: Guest) -> None:
    async def both() -> None:
        lazy = await guest.start("sleep", "1000")
        writer = asyncio.create_task(guest.machine.send_stdin(lazy, DATA))
        for _ in range(3):
            assert (await guest.ran("cat", stdin=DATA)).out == DATA
        assert not writer.done()
        assert lazy.window == 0
        await guest.ran("killall", "sleep")
        assert await lazy.done == -15
        await asyncio.wait_for(writer, 20)

    guest.do(both())


def test_many_slow_readers_get_what_is_theirs(guest: Guest) -> None:
    async def all_at_once() -> list[bytes]:
        parts = [DATA[at::20] for at in range(20)]
        ran = await asyncio.gather(
            *(guest.ran("sh", "-c", "usleep 300000; exec sha256sum", stdin=part) for part in parts)
        )
        assert [hashlib.sha256(part).hexdigest().encode() for part in parts] == [done.out.split()[0] for done in ran]
        return parts

    guest.do(all_at_once())


@pytest.mark.parametrize("script", ["head -c 5", "exec <&-; echo after", "exit 3"])
def test_a_command_that_reads_only_the_beginning_ends_as_it_would(script: str, guest: Guest) -> None:
    ran = guest("sh", "-c", script, stdin=DATA)
    expected = {"head -c 5": (0, DATA[:5]), "exec <&-; echo after": (0, b"after\n"), "exit 3": (3, b"")}[script]
    assert (ran.status, ran.out) == expected


def test_a_command_that_cannot_start_frees_its_writer(guest: Guest) -> None:
    assert "No such file" in str(guest("no-such-command", stdin=DATA).status)


def test_end_of_file_comes_when_it_is_sent_and_not_before(guest: Guest) -> None:
    async def talk() -> None:
        heard: asyncio.Queue[bytes] = asyncio.Queue()
        job = await guest.start("cat", on_stdout=heard.put_nowait)
        for word in (b"one", b"two", b"x" * (STDIN_WINDOW + 1)):
            await guest.machine.send_stdin(job, word)
            got = b""
            while len(got) < len(word):
                got += await asyncio.wait_for(heard.get(), 20)
            assert got == word
            assert not job.done.done()
        guest.machine.close_stdin(job)
        assert await asyncio.wait_for(job.done, 20) == 0

    guest.do(talk())
