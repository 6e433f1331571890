# SPDX-License-Identifier: Apache-2.0
"""What slow work is under way, told to whoever shows it: the library never prints."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

__all__ = ["Listener", "at", "heard_by", "say"]


class Listener(Protocol):
    """`done` and `whole` are seconds where the work knows how long it will take, else None."""

    def __call__(self, what: str, done: float | None = None, whole: float | None = None, /) -> None: ...


_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


def say(what: str) -> None:
    """`what` has begun."""
    if (listener := _listener.get()) is not None:
        listener(what)


def at(what: str, done: float, whole: float) -> None:
    """The work is at `what` now, `done` seconds into about `whole`."""
    if (listener := _listener.get()) is not None:
        listener(what, done, whole)


@contextmanager
def heard_by(listener: Listener) -> Iterator[None]:
    """Inside the block, `listener` hears of slow work."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)
