# SPDX-License-Identifier: Apache-2.0
"""News: one who gives up waiting harms nobody."""

from __future__ import annotations

import asyncio

import pytest

from kernloop.vm.news import News


def test_who_gives_up_waiting_ends_neither_who_tells_nor_who_waits_on() -> None:
    async def both() -> None:
        news = News()
        waits = asyncio.create_task(asyncio.wait({news.next}))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(news.next, 0.01)
        news.tell()
        await asyncio.wait_for(waits, 1)
        following = news.next
        news.tell()
        assert following.done() and not following.cancelled()

    asyncio.run(both())
