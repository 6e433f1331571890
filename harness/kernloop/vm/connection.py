# SPDX-License-Identifier: Apache-2.0
"""The supervisor's end of a client's connection."""

from __future__ import annotations

import asyncio
import contextlib
import select
from collections.abc import Callable, Iterator

from kernloop.vm import wire
from kernloop.vm.jobs import LiveJob
from kernloop.vm.machine import Machine

__all__ = ["hang_up", "sender"]

# So much output waits for a slow client; then the command does.
_UNSENT_MAX = 4 << 20


@contextlib.contextmanager
def hang_up(writer: asyncio.StreamWriter) -> Iterator[asyncio.Future[None]]:
    """Done when the other side closes its end, also while nobody reads what it sent before."""
    loop = asyncio.get_running_loop()
    gone: asyncio.Future[None] = loop.create_future()
    with select.epoll() as poller:
        poller.register(writer.get_extra_info("socket").fileno(), select.EPOLLRDHUP)

        def told() -> None:
            loop.remove_reader(poller.fileno())
            gone.set_result(None)

        loop.add_reader(poller.fileno(), told)
        try:
            yield gone
        finally:
            loop.remove_reader(poller.fileno())


def sender(
    machine: Machine, job: LiveJob, writer: asyncio.StreamWriter, helpers: set[asyncio.Task[None]]
) -> Callable[[str, bytes], None]:
    """What sends a piece of output to a client. One that does not read must not fill our memory: its command has to
    wait, for which tasks come to `helpers`.
    """
    writer.transport.set_write_buffer_limits(high=_UNSENT_MAX)
    held = False

    async def until_taken() -> None:
        nonlocal held
        machine.hold_output(job.job, True)
        with contextlib.suppress(OSError):
            await writer.drain()
        held = False
        machine.hold_output(job.job, False)

    def send(stream: str, data: bytes) -> None:
        nonlocal held
        writer.write(wire.line({stream[3:]: wire.pack(data)}))
        if not held and writer.transport.get_write_buffer_size() > _UNSENT_MAX:
            held = True
            task = asyncio.create_task(until_taken())
            helpers.add(task)
            task.add_done_callback(helpers.discard)

    return send
