# SPDX-License-Identifier: Apache-2.0
"""A guest that several tests talk to through its agent, without kernloop's command line in between."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from kernloop.host import toolset
from kernloop.kernel import refs
from kernloop.vm import initramfs, vng
from kernloop.vm.argv import Channels, MachineSpec, Start, qemu_argv
from kernloop.vm.machine import Job, Machine
from kernloop.vm.qemu import start
from kernloop.vm.session import GUEST_ENV
from kernloop.vm.share import HOSTED_ENV, Share
from kernloop.vm.topology import Topology

T = TypeVar("T")
SECONDS = 120.0


@dataclass(frozen=True)
class Ran:
    """What a command did; `status` is a str when it could not start."""

    status: int | str
    out: bytes
    err: bytes


class Guest:
    """A running machine and the event loop that it lives in, in a thread of its own."""

    def __init__(self, machine: Machine, env: dict[str, str], run: Path) -> None:
        self.machine = machine
        self.env = env
        self.run = run
        self._loop = asyncio.get_running_loop()

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """`work` done in the guest's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(SECONDS)

    async def start(
        self,
        *argv: str,
        cwd: str = "/",
        on_stdout: Callable[[bytes], None] = lambda data: None,
        on_stderr: Callable[[bytes], None] = lambda data: None,
    ) -> Job:
        """A command with its stdin open."""
        return await self.machine.execute(
            argv, on_stdout=on_stdout, on_stderr=on_stderr, cwd=cwd, env=self.env, stdin=True
        )

    async def ran(self, *argv: str, stdin: bytes = b"", cwd: str = "/") -> Ran:
        out, err = bytearray(), bytearray()
        job = await self.start(*argv, cwd=cwd, on_stdout=out.extend, on_stderr=err.extend)
        await self.machine.send_stdin(job, stdin)
        self.machine.close_stdin(job)
        return Ran(await job.done, bytes(out), bytes(err))

    def __call__(self, *argv: str, stdin: bytes = b"", cwd: str = "/") -> Ran:
        """A command run to its end."""
        return self.do(self.ran(*argv, stdin=stdin, cwd=cwd))

    def sh(self, script: str, cwd: str = "/") -> Ran:
        return self("sh", "-c", script, cwd=cwd)


@contextlib.asynccontextmanager
async def micro(run: Path) -> AsyncIterator[Guest]:
    """The default kernel with busybox."""
    kernel = refs.resolve(refs.DEFAULT)
    begin = Start(initramfs=initramfs.image(kernel))

    def argv(channels: Channels) -> list[str]:
        return qemu_argv(toolset.get().qemu, MachineSpec(), kernel.bootable, begin, channels)

    async with start(argv, run, lambda line: None) as machine:
        await _up(machine)
        yield Guest(machine, GUEST_ENV, run)


@contextlib.asynccontextmanager
async def host_root(run: Path, share: Share, topology: Topology | None = None) -> AsyncIterator[Guest]:
    """The default kernel with the host's user space."""
    spec = MachineSpec(topology or Topology(), memory=1024)
    with vng.host_root(toolset.get().qemu, spec, refs.resolve(refs.DEFAULT), share, run) as root:
        async with start(root.argv, run, lambda line: None, inherit=root.inherit) as machine:
            await _up(machine)
            yield Guest(machine, HOSTED_ENV, run)


async def _up(machine: Machine) -> None:
    signs: set[asyncio.Future[Any]] = {machine.hello, machine.ended}
    await asyncio.wait(signs, timeout=SECONDS, return_when=asyncio.FIRST_COMPLETED)
    assert machine.hello.done(), f"no hello; {machine.ended}"


async def _end_tasks() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.contextmanager
def in_thread(made: contextlib.AbstractAsyncContextManager[Guest]) -> Iterator[Guest]:
    """The guest for tests that are no coroutines."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def do(work: Awaitable[T]) -> T:
        async def whole() -> T:
            return await work

        return asyncio.run_coroutine_threadsafe(whole(), loop).result(SECONDS)

    try:
        guest = do(made.__aenter__())
        try:
            yield guest
        finally:
            do(made.__aexit__(None, None, None))
            do(_end_tasks())
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
