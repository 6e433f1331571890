# SPDX-License-Identifier: Apache-2.0
"""Every run of a bisect, on disk before the next begins: a killed bisect asks again and is answered from here."""

from __future__ import annotations

import json
import os
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from kernloop.git.vote import Shot, Sign
from kernloop.runs import write_text

__all__ = ["Journal"]


class Journal:
    """The runs of earlier processes, oldest first for each subject, and those of this one behind them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        shots = _read(path)
        # The machine's faults at the end are what ended the bisect, or came with it: they deserve another try.
        while shots and shots[-1][1].fault:
            shots.pop()
        self._waiting: dict[str, deque[Shot]] = defaultdict(deque)
        for subject, shot in shots:
            self._waiting[subject].append(shot)
        # What a kill cut off must not spoil the line that comes next.
        write_text(path, "".join(_line(subject, shot) for subject, shot in shots))

    @property
    def kernels(self) -> dict[str, str]:
        """The digest of the kernel that was built of each subject, as far as an earlier process built it."""
        return {subject: shot.kernel for subject, shots in self._waiting.items() for shot in shots if shot.kernel}

    def exhausted(self, subject: str) -> bool:
        """Whether the next run of `subject` will be a new one."""
        return not self._waiting[subject]

    def __call__(self, subject: str, shoot: Callable[[], Shot]) -> Shot:
        """The next run of `subject`: one that is kept, or a new one, which is kept."""
        if self._waiting[subject]:
            return self._waiting[subject].popleft()
        shot = shoot()
        with self._path.open("a") as file:
            file.write(_line(subject, shot))
            file.flush()
            os.fsync(file.fileno())
        return shot


def _line(subject: str, shot: Shot) -> str:
    return json.dumps({"subject": subject, **asdict(shot)}) + "\n"


def _read(path: Path) -> list[tuple[str, Shot]]:
    found = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            value = json.loads(line)
            found.append((value.pop("subject"), Shot(**{**value, "sign": Sign(value["sign"])})))
        except (ValueError, KeyError, TypeError):
            break  # cut off by a kill: nothing was written behind it
    return found
