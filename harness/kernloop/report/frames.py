# SPDX-License-Identifier: Apache-2.0
"""Stack frames as the kernel prints them, and which of them can be the guilty one.

`%pB` and `%pS` (lib/vsprintf.c, kernel/kallsyms.c) write `symbol+0xoffset/0xsize [module build-id]`; a leading `? ` is
the unwinder's word for "found on the stack, perhaps stale" (arch/x86/kernel/dumpstack.c), and so is powerpc's
`(unreliable)` behind it. Kernels before 4.15 put the address in `[<...>]` first; 32-bit arm writes
`[<pc>] (callee) from [<lr>] (caller+0x..)`, or the same without addresses.

>>> parse_frame("  ? handle_mm_fault+0xcf/0x200 [kvm]")
Frame(function='handle_mm_fault', offset=207, size=512, module='kvm', reliable=False)
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from .machinery import is_machinery
from .patterns import Pattern

__all__ = ["Frame", "base_name", "guilty", "parse_frame", "rip_function", "source_name"]

_SYMBOL = (
    r"(?P<func>[A-Za-z_$][\w.$]*)(?:\+(?P<offset>0x[0-9a-f]{1,16})/(?P<size>0x[0-9a-f]{1,16}))"
    r"(?: \[(?P<module>[\w-]+)(?: [0-9a-f]+)?\])?"
)
_PC = r"(?:\(?\[<?(?:0x)?[0-9a-fA-F]+>?\]\s*)*"
_FRAME = Pattern(rf"^\s*{_PC}(?P<stale>\? )?{_SYMBOL}(?=[\s)]|$)(?P<doubt>\)? \(unreliable\))?")
_ARM = Pattern(rf"^\s*{_PC}\(?(?P<callee>[A-Za-z_][\w.]*)\)? from {_PC}\(?{_SYMBOL}")
_RIP = Pattern(
    rf"(?:\b(?:[RE]?IP|e?pc)\s?: |\bPC is at |\bNIP(?: \[[0-9a-f]+\]|:) )(?:[0-9a-f]{{2,4}}:)?{_PC}{_SYMBOL}"
    rf"|^Krnl PSW : [0-9a-f]+ [0-9a-f]+ \({_SYMBOL.replace('(?P<', '(?P<s_')}"
)
# What the compiler appends to the name of a clone or a split-off cold part.
_TAILS = frozenset({"constprop", "isra", "part", "cold", "llvm", "lto_priv"})
# What the build puts before the name of a system call: the same one is found on all architectures without it.
_SYSCALL = Pattern(
    r"^(?:__(?:x64|ia32|arm64|arm|s390x?|riscv|powerpc|mips|loongarch)_(?=(?:compat_)?sys_)|__(?:se|do)_sys_"
    r"|_{2,4}sys_|ksys_|compat_SYSC_|compat_SyS_|SYSC_|SyS_)"
)
_RUST = Pattern(r"^_R[A-Za-z]")
_RUST_WORD = Pattern(r"(?<!\d)([1-9]\d{0,2})_?(?=[A-Za-z_])")


@dataclass(frozen=True)
class Frame:
    """One frame; `reliable` is false for what the unwinder printed with a question mark."""

    function: str
    offset: int | None = None
    size: int | None = None
    module: str | None = None
    reliable: bool = True


def base_name(function: str) -> str:
    """The function's name in the source: `do_exit.cold` is `do_exit`; of Rust's mangled ones the last part."""
    if _RUST.match(function):
        return _rust_name(function)
    name, *rest = function.split(".")
    while rest and (rest[-1] in _TAILS or rest[-1].isdecimal()):
        rest.pop()
    return ".".join([name, *rest])


def source_name(function: str) -> str:
    """The name for a title: a system call goes without what an architecture puts before it."""
    return _SYSCALL.sub("", function) or function


def parse_frame(text: str) -> Frame | None:
    """The frame that a console line (without its printk prefix) holds, or None."""
    if "+0x" not in text:
        return None
    match = _FRAME.match(text)
    if match:
        return _frame(match, not (match["stale"] or match["doubt"]))
    match = _ARM.match(text)
    return _frame(match, True) if match else None


def rip_function(text: str) -> Frame | None:
    """The frame of a `RIP: 0010:symbol+0x..` line of kernel mode; None for user mode and for a bare address."""
    match = _RIP.search(text)
    return _frame(match, True) if match else None


def guilty(frames: Iterable[Frame], extra: str = "") -> str | None:
    """The first reliable frame that neither reports, dispatches nor waits."""
    for frame in frames:
        name = base_name(frame.function)
        if frame.reliable and not is_machinery(name, extra):
            return name
    return None


def _frame(match: re.Match[str], reliable: bool) -> Frame:
    found = match.groupdict()
    if found["func"] is None:
        found = {name.removeprefix("s_"): value for name, value in found.items() if name.startswith("s_")}
    return Frame(found["func"], int(found["offset"], 16), int(found["size"], 16), found["module"], reliable)


# Rust's v0 mangling writes each part of a path as its length and its letters; the path's last part is the function.
def _rust_name(mangled: str) -> str:
    found, at = mangled, 0
    while word := _RUST_WORD.search(mangled, at):
        name = mangled[word.end() : word.end() + int(word[1])]
        at = word.end() + len(name)
        found = name or found
    return found
