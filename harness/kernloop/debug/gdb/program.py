# SPDX-License-Identifier: Apache-2.0
"""A GDB that can do what is asked of it, found by trying."""

from __future__ import annotations

import os
import shutil
from functools import cache
from pathlib import Path

from kernloop.errors import HarnessError
from kernloop.host import process

__all__ = ["find"]

_NAMES = ("gdb", "gdb-multiarch")
# Answers only where x86-64 is one of its architectures, and Python, which the kernel's own commands want, is built in.
_TRY = ("-nx", "-batch", "-ex", "set architecture i386:x86-64", "-ex", 'python print("py" + "thon")')
_SECONDS = 30.0


@cache
def find() -> Path:
    """The machine's GDB; KERNLOOP_GDB names another. Raises HarnessError."""
    refused = []
    for name in [os.environ["KERNLOOP_GDB"]] if "KERNLOOP_GDB" in os.environ else _NAMES:
        if path := shutil.which(name):
            done = process.run([path, *_TRY], seconds=_SECONDS, what="trying gdb", check=False)
            if done.status == 0 and "python" in done.stdout.split():
                return Path(path)
            refused.append(path)
    why = f"{' and '.join(refused)} cannot debug x86-64, or has no Python" if refused else "there is no gdb"
    raise HarnessError(f"{why} on this machine", hint="install Debian's gdb, or name one in KERNLOOP_GDB")
