# SPDX-License-Identifier: Apache-2.0
"""A question's code is the caller's: it may never come back. It is ended when its time is, or who asked is gone."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Iterator
from types import FrameType

from kernloop.errors import SubjectError

__all__ = ["Stopped", "Watch"]

# Then it is in C code, or will not be stopped: the process ends.
_GRACE_SECONDS = 5.0
_SIGNAL = signal.SIGALRM


class Stopped(BaseException):
    """Raised in a question's code; no handler for Exception catches it."""


class Watch:
    """Of the main thread, which asks and answers one question after the other."""

    def __init__(self) -> None:
        self._asking = False
        self._why = ""
        signal.signal(_SIGNAL, self._stop)

    @contextlib.contextmanager
    def question(self, client: socket.socket, seconds: float) -> Iterator[None]:
        """For the block, which is one question. Raises SubjectError when it was ended for its time, Stopped when nobody
        waits for its answer."""
        reader, writer = os.pipe()
        self._why = ""
        thread = threading.Thread(target=self._wait, args=(client, seconds, reader), daemon=True)
        try:
            self._asking = True
            thread.start()
            try:
                yield
            finally:
                self._asking = False
        except Stopped:
            if self._why != "time":
                raise
            what = f"it has taken longer than {seconds:g} s and was ended"
            raise SubjectError(what, hint="ask for less, or with a longer --timeout") from None
        finally:
            os.write(writer, b"x")
            thread.join()
            os.close(reader)
            os.close(writer)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self._asking:
            raise Stopped

    def _wait(self, client: socket.socket, seconds: float, done: int) -> None:
        deadline = time.monotonic() + seconds
        poll = select.poll()
        poll.register(done, select.POLLIN)
        poll.register(client, select.POLLRDHUP)
        events = dict(poll.poll(max(deadline - time.monotonic(), 0) * 1000))
        if done in events:
            return
        self._why = "gone" if events else "time"
        signal.pthread_kill(threading.main_thread().ident or 0, _SIGNAL)
        if not select.select([done], [], [], _GRACE_SECONDS)[0]:
            os._exit(1)
