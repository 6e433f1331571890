# SPDX-License-Identifier: Apache-2.0
"""Processes that hold a debugging session: a client starts one detached, tells it by JSON on stdin what it is for, and
hears JSON lines from it: any number of `say`, then `up` or `error`. From then on it is reached by its socket."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kernloop.errors import HarnessError
from kernloop.host import bytecode, process
from kernloop.vm import wire
from kernloop.vm.client import said

__all__ = ["alive", "leave_client", "start", "tell"]


def start(
    module: str, wanted: dict[str, Any], *, what: str, hint: str, say: Callable[[str], None] = lambda what: None
) -> dict[str, Any]:
    """Start `main` of `module` for `wanted`; what it says of itself once it is up.

    Raises what it raised, HarnessError when it ends without a word.
    """
    code = f"import gc; gc.disable(); from {module} import main; gc.enable(); main()"
    with open(os.memfd_create("kernloop-owner"), "w+b") as log:  # noqa: PTH123 it has no path
        child = process.detach([sys.executable, "-c", code], stderr=log.fileno(), env=bytecode.environment())
        # Once it has told what there is to tell it is init's child, not a zombie of ours.
        threading.Thread(target=child.wait, daemon=True).start()
        assert child.stdin is not None
        assert child.stdout is not None
        with child.stdin as stdin:
            stdin.write(json.dumps(wanted).encode())
        with child.stdout as stdout:
            for message in said(stdout, what):
                if "say" in message:
                    say(message["say"])
                elif "error" in message:
                    raise wire.raised(message["error"])
                elif "up" in message:
                    return dict(message["up"])
        log.seek(0)
        words = log.read().decode(errors="replace").strip().splitlines()
    raise HarnessError(f"{what} ended: {words[-1] if words else 'it said nothing'}", hint=hint)


def tell(message: dict[str, Any]) -> None:
    """From the owner to the client that started it."""
    with contextlib.suppress(OSError):
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()


def leave_client(log: Path) -> None:
    """What the client heard of was all that it will; what is written to stderr from here on goes to `log`."""
    null = os.open(os.devnull, os.O_RDWR)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for ours, fd in ((null, 0), (null, 1), (file, 2)):
        os.dup2(ours, fd)
    os.close(null)
    os.close(file)
    os.chdir("/")


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
