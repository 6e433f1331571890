# SPDX-License-Identifier: Apache-2.0
"""What slow work is under way, told to whoever shows it: the library never prints."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["heard_by", "say"]

_listener: ContextVar[Callable[[str], None] | None] = ContextVar("listener", default=None)


def say(what: str) -> None:
    """`what` has begun."""
    if (listener := _listener.get()) is not None:
        listener(what)


@contextmanager
def heard_by(listener: Callable[[str], None]) -> Iterator[None]:
    """Inside the block, `listener` hears of slow work."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)
