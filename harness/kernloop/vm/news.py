# SPDX-License-Identifier: Apache-2.0
"""Something has changed: told to everyone who waits, and missed by nobody who asked before looking."""

from __future__ import annotations

import asyncio

__all__ = ["News"]


class News:
    """Take `next` first, look at the state, then await what was taken: what changes in between is not lost."""

    def __init__(self) -> None:
        self._next: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def next(self) -> asyncio.Future[None]:
        """Done at the next `tell`. Shared by all who wait: await it with asyncio.wait, which does not cancel."""
        return self._next

    def tell(self) -> None:
        told, self._next = self._next, asyncio.get_running_loop().create_future()
        # Whoever awaited it all the same, and gave up, has cancelled it; that must not end who tells.
        if not told.done():
            told.set_result(None)
