# SPDX-License-Identifier: Apache-2.0
"""What a run that hung shows: its console, and the registers that QEMU gave where the kernel said nothing."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from kernloop.kernel import debugfiles
from kernloop.report.hang import Hang, hang, tells_of_hang

if TYPE_CHECKING:
    from kernloop.report.symbols import Images

__all__ = ["in_console", "seen"]

# Where KASLR put the kernel, said in a panic (arch/x86/kernel/setup.c); without it addresses are the link's.
_OFFSET = re.compile(rb"Kernel Offset: (?:0x([0-9a-f]{1,16}) from|disabled)")
_NO_KASLR = b" nokaslr"


def seen(run: Path) -> Hang | None:
    """Which CPU spins where and who waits for what in the run at `run`; None where nothing was asked or said."""
    try:
        console = (run / "console.log").read_bytes()
        path = run / "registers.txt"
        registers = path.read_text(errors="replace") if path.exists() else ""
    except OSError:
        return None
    if not registers and not tells_of_hang(console):
        return None
    return in_console(console, registers, _symbols(run, console))


def in_console(console: bytes, registers: str = "", symbol: Callable[[int], str | None] | None = None) -> Hang | None:
    """The same of a console alone."""
    return hang(console.decode(errors="replace").split("\n"), registers=registers, symbol=symbol)


# Names of addresses, by the run's own vmlinux; it is opened when the first is asked for.
def _symbols(run: Path, console: bytes) -> Callable[[int], str | None]:
    @cache
    def offset() -> int | None:
        said = _OFFSET.search(console)
        if said:
            return int(said[1] or b"0", 16)
        return 0 if _NO_KASLR in console else None

    @cache
    def images() -> Images | None:
        return debugfiles.noted(run) if offset() is not None else None

    def name(address: int) -> str | None:
        found = files.vmlinux.at(address - (offset() or 0)) if (files := images()) and files.vmlinux else None
        return found.name if found else None

    return name
