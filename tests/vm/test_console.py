# SPDX-License-Identifier: Apache-2.0
"""What a console under watch tells those who wait for it."""

from __future__ import annotations

import asyncio
from pathlib import Path

from kernloop.vm.console import Console

LOG = Path(__file__).parent.parent / "fixtures/console/crash-no-root-7.3.4-debian.log"


def test_a_panic_without_pvpanic_is_over_with_its_last_line_and_not_before() -> None:
    async def watch() -> list[tuple[bool, bool]]:
        console, seen = Console(), []
        for line in LOG.read_text().splitlines():
            console.feed(line)
            seen.append((console.panic.is_set(), console.panicked.is_set()))
        return seen

    seen = asyncio.run(watch())
    assert seen[0] == (False, False)
    assert (True, False) in seen
    assert [panicked for _, panicked in seen].count(True) == 1
    assert seen[-1] == (True, True)
