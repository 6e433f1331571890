# SPDX-License-Identifier: Apache-2.0
"""A recorder at work in a live VM: a program of ours, put there once, that ends with its time or with its stdin."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kernloop.errors import HarnessError
from kernloop.vm import client

__all__ = ["FOLDER", "Recorded", "nearest_hint", "put", "record", "text_of"]

FOLDER = "/run/kernloop"
# What the guest may take beside its time: compiling, rings to be written, a busy host.
_GRACE = 300.0
_KEEP = 1 << 18


@dataclass(frozen=True)
class Recorded:
    """`stdout` has all that was sent. `status` is None when the VM ended meanwhile: `note` says how."""

    stdout: Path
    stderr: str
    status: int | None
    note: str


def put(vm: client.VM, built: Path) -> str:
    """`built` in the guest, under a name that tells its build; sent once."""
    guest = f"{FOLDER}/{built.parent.name}"
    if vm.exec(["test", "-x", guest], timeout=20).status != 0:
        vm.exec(["mkdir", "-p", FOLDER], timeout=20)
        vm.push(built, guest)
    return guest


def record(vm: client.VM, argv: Sequence[str], seconds: float, stop: threading.Event) -> Recorded:
    """Run `argv`, which takes `seconds` or as long as `stop` is not set. Raises HarnessError if it never began."""
    before = _jobs(vm)
    try:
        done = vm.exec(argv, timeout=seconds + _GRACE, stdin=_until(stop), keep=_KEEP)
        note = "" if done.status == 0 else done.summary
        return Recorded(done.folder / "stdout", done.stderr.decode(errors="replace"), done.status, note)
    except HarnessError as error:
        # The VM ended, but what it had sent is there.
        new = sorted(_jobs(vm) - before)
        if not new:
            raise
        folder = vm.run / "jobs" / str(new[-1])
        said = (folder / "stderr").read_text(errors="replace") if (folder / "stderr").exists() else ""
        return Recorded(folder / "stdout", said, None, error.message)
    finally:
        stop.set()


def text_of(vm: client.VM, path: str) -> str:
    """A text of the guest, "" when it has none."""
    kept: list[bytes] = []
    done = vm.exec(["cat", path], timeout=60, on_stdout=kept.append, keep=1)
    return b"".join(kept).decode(errors="replace") if done.status == 0 else ""


def nearest_hint(names: Sequence[str]) -> str:
    return f"did you mean {' or '.join(names)}?" if names else ""


# stdin that ends when it is to stop.
def _until(stop: threading.Event) -> Iterator[bytes]:
    stop.wait()
    yield from ()


def _jobs(vm: client.VM) -> set[int]:
    with contextlib.suppress(OSError):
        return {int(folder.name) for folder in (vm.run / "jobs").iterdir() if folder.name.isdigit()}
    return set()
