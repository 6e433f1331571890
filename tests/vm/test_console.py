# SPDX-License-Identifier: Apache-2.0
"""What a console under watch tells those who wait for it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from kernloop.vm import session
from kernloop.vm.console import Console
from kernloop.vm.session import Session

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


@pytest.mark.parametrize(("lost", "taken"), [(0, True), (1, True), (9, False)])
def test_a_break_that_the_kernel_loses_is_sent_once_more(
    lost: int, taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an 8250 that is not enumerated loses one that comes while the kernel prints."""
    monkeypatch.setattr(session, "_PRESSED_SECONDS", (0.05, 0.05))
    console, sent = Console(), list[str]()

    async def send_break(key: str) -> None:
        sent.append(key)
        if len(sent) > lost:
            console.feed("[    9.442211] sysrq: Show backtrace of all active CPUs")

    pressed = Session.press(
        cast(Any, SimpleNamespace(console=console, machine=SimpleNamespace(send_break=send_break))), "l"
    )
    assert asyncio.run(pressed) == taken
    assert sent == ["l"] * min(lost + 1, 2)
