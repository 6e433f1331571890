# SPDX-License-Identifier: Apache-2.0
"""How soon a running VM knows that its kernel died: from the last byte of the panic to the typed report."""

from __future__ import annotations

import time
from collections.abc import Callable

from kernloop.errors import HarnessError
from kernloop.vm import client
from kernloop.vm.request import VmRequest

__all__ = ["live_latency"]

# What panics at once in any kernel that can: SysRq c (drivers/tty/sysrq.c).
_PANIC = ("sh", "-c", "echo c > /proc/sysrq-trigger")
_SECONDS = 60.0


def live_latency(kernel: str, count: int, *, say: Callable[[str], None] = lambda what: None) -> tuple[float, ...]:
    """Seconds from the last byte that the console's log got to a client's having the report, of `count` panics.

    The client waits for the VM's end as any user of `vm wait` does, then asks for its facts: kind, function, lines.
    Each panic is of a VM of its own. Raises HarnessError when one does not panic, or is not told.
    """
    found = []
    for number in range(1, count + 1):
        say(f"panic {number} of {count}")
        vm = client.start(VmRequest(kernel=kernel), bound=True)
        try:
            vm.exec_background(_PANIC)
            waited = vm.wait_exit(timeout=_SECONDS)
            crash = vm.info().facts["crash"]
            told = time.time()
            if waited.state != "panicked" or crash is None:
                raise HarnessError(f"the VM did not panic: {waited.state}", hint="see its run", evidence=vm.run)
            found.append(told - (vm.run / "console.log").stat().st_mtime_ns / 1e9)
        finally:
            vm.stop()
    return tuple(found)
