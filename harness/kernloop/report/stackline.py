# SPDX-License-Identifier: Apache-2.0
"""The lines by which a report shows where a CPU was: the program counter, the headings of traces, the frames.

Each architecture writes them its own way: show_regs() in arch/x86/kernel/{dumpstack,process_32}.c (`RIP: 0010:`,
`EIP:`; `IP:` was arch/x86/mm/fault.c's), arch/arm64/kernel/process.c and arch/riscv/kernel/process.c (`pc :`, `epc :`),
arch/arm/kernel/process.c (`PC is at`), arch/powerpc/kernel/process.c (`NIP [addr]`), arch/s390/kernel/dumpstack.c
(`Krnl PSW :`), arch/mips/kernel/traps.c (`epc   :`), arch/loongarch/kernel/process.c (`pc addr func`). The name itself
is `%pS`: lib/vsprintf.c.

>>> program_counter("RIP: 0010:kl_write+0x12/0x40"), program_counter("RIP: 0033:0x7f14111da350"), program_counter("a")
('kl_write', '', None)
>>> frame_names("[<80100000>] (kl_write) from [<80100008>] (vfs_write+0x1/0x2)")
('kl_write', 'vfs_write')
"""

from __future__ import annotations

from .frames import base_name
from .patterns import Pattern
from .sentences import SYMBOL

__all__ = ["frame_names", "heading", "is_injected", "program_counter"]

_LABEL = Pattern(r"(?P<psw>^Krnl PSW : )|(?:IP|NIP|\bpc |PC is at|\bERA|\bepc {1,3})[: ]{1,2}")
# What stands between the label and the name: a code segment, addresses in brackets or bare, an opening bracket.
_NUMBERS = Pattern(r"(?:\s*(?:[0-9]+:|\(?\[<?(?:0x)?[0-9a-f]+>?\]|\[<\s*\(null\)>\]|\((?!null)))*\s*")
_STATE = Pattern(r"[0-9a-f]+ [0-9a-f]+ \(?")
_NAME = Pattern(rf"(?P<name>{SYMBOL})\+")
_NOWHERE = Pattern(r"0x[0-9a-f]+|\(null\)|[0-9a-f]{8,16}(?![\w+])")


def program_counter(line: str) -> str | None:
    """The function that a line says the CPU was in; "" for an address without a name, None for other lines."""
    label = _LABEL.search(line)
    if label is None:
        return None
    begin = (_STATE if label["psw"] else _NUMBERS).match(line, label.end())
    at = begin.end() if begin else label.end()
    if name := _NAME.match(line, at):
        return base_name(name["name"])
    # powerpc's "NIP:  addr LR: addr CTR: addr" is a row of registers; the name comes below, behind "NIP [addr]".
    return "" if _NOWHERE.match(line, at) and " LR: " not in line else None


# Words of a heading, and what the trace below it is about.
_HEADINGS = {
    "Call Trace": "calls",
    "Call trace": "calls",
    "Backtrace": "calls",
    "backtrace": "allocation",
    "Allocated": "allocation",
    "Freed": "release",
    "Uninit was stored to memory at": "store",
    "badaddr: ": "registers",
}


def heading(line: str) -> str | None:
    """What sort of trace begins below a line; None for a line that is no heading."""
    if "race" not in line and "ed" not in line and " at" not in line and "badaddr" not in line:
        return None  # most lines, for less than seven searches
    for words, sort in _HEADINGS.items():
        at = line.find(words)
        if at >= 0 and _heads(sort, line[:at], line[at + len(words) :]):
            return sort
    return None


# A heading ends in a colon. "stack backtrace:" (lockdep) only announces the heading that follows.
def _heads(sort: str, before: str, behind: str) -> bool:
    if sort == "registers":  # riscv prints no heading between its registers and the frames
        return " cause:" in behind or "status: " in before
    if sort == "allocation" and before.endswith("k "):
        return False
    if sort in ("allocation", "release") and behind.startswith((" by task ", " (crc ")):
        return behind.rstrip().endswith(":")
    return behind.startswith(":") or (sort == "calls" and not before.strip() and not behind.strip())


_ADDRESSES = Pattern(r"\s*(?:\(?\[<?(?:0x)?[0-9a-f]+>?\]\s*)*\(?")
_CALLEE = Pattern(r"(?P<name>[A-Za-z_][\w.]*)\)?$")


def frame_names(line: str) -> tuple[str, ...]:
    """The functions of a frame that is certain, without the compiler's tails: 32-bit arm names two, callee first."""
    if "+" not in line:
        return ()
    found: tuple[str, ...] = ()
    if " from " in line:
        callee, _, caller = line.partition(" from ")
        if name := _CALLEE.match(callee, _end(callee)):
            found, line = (base_name(name["name"]),), caller
    name = _NAME.match(line, _end(line))
    return (*found, base_name(name["name"])) if name else ()


def _end(text: str) -> int:
    numbers = _ADDRESSES.match(text)
    return numbers.end() if numbers else 0


def is_injected(line: str) -> bool:
    """Fault injection (lib/fault-inject.c) prints a trace of its own, in the middle of others."""
    return "should_fail" in line and any(name in ("should_fail", "should_failslab") for name in frame_names(line))
