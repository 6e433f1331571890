# SPDX-License-Identifier: Apache-2.0
"""The parts of a report that can be decoded: frames with how they were found, registers, the Code: line, addresses.

`Crash.frames` says which functions; here it also matters whether a frame is the instruction itself (RIP, pc, a frame
of saved registers) or the return address behind a call, and what stands beside it. A report prints the state of user
space as well (`RIP: 0033:`): the kernel's counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from ..frames import parse_frame
from ..lines import read_line

__all__ = ["Trace", "TraceFrame", "read_trace"]

_MAX_FRAMES = 64
_SYMBOL = (
    r"(?P<func>[A-Za-z_$][\w.$]*)\+(?P<offset>0x[0-9a-f]{1,16})/(?P<size>0x[0-9a-f]{1,16})"
    r"(?: \[(?P<module>[\w-]+)(?:[ \]]+(?P<id>[0-9a-f]{40}))?\])?(?P<flags> \([A-Z]{1,4}\))?"
)
_ADDRESS = r"(?:\[<?(?:0x)?(?P<address>[0-9a-f]{8,16})>?\]\s*)?"
_FRAME = re.compile(rf"^\s*(?:<\w+>\s*)?{_ADDRESS}(?P<stale>\? )?{_SYMBOL}(?=[\s)]|$)(?P<doubt>.*\(unreliable\))?")
_BARE = re.compile(r"^\s*(?P<stale>\? )?(?:\[<)?0x(?P<address>[0-9a-f]{16})(?:>\])?\s*$")
# x86 (`RIP: 0010:`, and the instruction that an oops of older kernels names), arm64 and riscv, powerpc, s390.
_POINTER = re.compile(
    rf"(?:\bRIP: (?:0010:)|\bE?IP: (?:0060:)?|^\s*e?pc : |^PC is at |^NIP \[[0-9a-f]+\] |^Krnl PSW : .*\()"
    rf"(?:\[<(?P<address>[0-9a-f]+)>\] )*{_SYMBOL}"
)
_BARE_POINTER = re.compile(r"\bRIP: 0010:(?:0x)?(?P<address>[0-9a-f]{1,16})\b(?!\+)")
_USER = re.compile(r"\bRIP: 00(?:33|23):")
# Return addresses too: of a call to the checker, of the function that found its stack corrupted.
_CHECKED = re.compile(rf"^(?:BUG: K[A-Z]SAN: [\w -]+ in |Kernel panic - .{{1,60}} stack is corrupted in: ){_SYMBOL}")
_REGISTER = re.compile(r"\b([A-Z][A-Z0-9_]{1,7}|[a-z][a-z0-9]{1,2})\s?: {0,2}(?:00[0-9a-f]{2}:)?([0-9a-f]{8,16})\b")
_WORD = r"[<(]?(?:[0-9a-f]{2,8}|\?{8})[>)]?"
_CODE = re.compile(rf"^Code: (?P<bytes>{_WORD}(?: {_WORD}){{1,200}})\s*$")
_NO_CODE = re.compile(r"^Code: (?P<why>(?:Unable to access|Bad )[^\n]*)")
_FAULT = (
    re.compile(r"[Uu]nable to handle [\w ]*(?:,? address:| at virtual address| at) (?:0x)?([0-9a-f]{8,16})"),
    re.compile(r"BUG: kernel NULL pointer dereference, address: ([0-9a-f]{8,16})"),
    re.compile(r"for non-canonical address 0x([0-9a-f]{1,16})"),
    re.compile(r"^(?:Read|Write) of size \d+ at addr ([0-9a-f]{8,16}) by task"),
)
_RANGE = re.compile(r"KASAN: (?P<what>[\w-]+) in range \[0x(?P<low>[0-9a-f]{16})-0x(?P<high>[0-9a-f]{16})\]")
_SHIFT = re.compile(r"^Kernel Offset: (?:0x(?P<shift>[0-9a-f]+) from|(?P<none>disabled))")
_ACCESS = re.compile(r"#PF: (?:supervisor|user) (?P<what>read|write|instruction fetch)|\bWnR = (?P<wnr>[01])")
# With CONFIG_STACKTRACE_BUILD_ID the kernel's own build-id follows its version (lib/dump_stack.c).
_VERSION = re.compile(
    r"(?:Not t|T)ainted(?:: [A-Z ]{1,64}?)? {1,16}(?P<release>\d\S*) #(?P<version>\S+)(?:.*? (?P<id>[0-9a-f]{40}))?\s*$"
)


@dataclass(frozen=True)
class TraceFrame:
    """A frame as printed. Without a `function` only the `address` is known; `build_id` is the module's."""

    function: str
    offset: int | None
    size: int | None
    module: str | None = None
    reliable: bool = True
    exact: bool = False
    address: int | None = None
    build_id: str = ""


@dataclass(frozen=True)
class Trace:
    """`code` holds the words of the Code: line as printed; `low` and `high` are KASAN's range of addresses,
    `protection` says that the fault has no address."""

    frames: tuple[TraceFrame, ...] = ()
    pointer: TraceFrame | None = None
    registers: dict[str, int] = field(default_factory=dict)
    code: tuple[str, ...] = ()
    no_code: str = ""
    fault: int | None = None
    access: str = ""
    low: int | None = None
    high: int | None = None
    range_kind: str = ""
    protection: bool = False
    shift: int | None = None
    release: str = ""
    build_id: str = ""
    modules: dict[str, str] = field(default_factory=dict)


def read_trace(lines: Iterable[str]) -> Trace:
    """What the lines of one report hold, with or without printk's prefixes; what other CPUs wrote is left out."""
    reader = _Reader()
    context: str | None = None
    for raw in lines:
        line = read_line(raw)
        context = line.caller if context is None else context
        if line.caller and context and line.caller != context:
            continue
        reader.read(line.text)
    return reader.trace()


class _Reader:
    def __init__(self) -> None:
        self.found: dict[str, object] = {}
        self.frames: list[TraceFrame] = []
        self.registers: dict[str, int] = {}
        self.modules: dict[str, str] = {}
        self.pointer: TraceFrame | None = None
        # Registers and code count until user space's come.
        self.open = True
        self.ended = False

    def read(self, text: str) -> None:
        self._facts(text)
        # Behind its end x86 prints the state of the first oops since boot once more, which may be another's.
        self.ended = self.ended or text.startswith("---[ end ")
        if self.ended:
            return
        if _USER.search(text):
            self.open = False
        if match := _POINTER.search(text) or _CHECKED.match(text):
            frame = _frame(match, exact=match.re is _POINTER)
            if self.pointer is None and frame.exact:
                self.pointer = frame
                self._add(frame, first=True)
            elif frame != self.pointer:
                self._add(frame)
            return
        if match := _BARE_POINTER.search(text):
            self._bare(match, exact=True)
        elif match := _FRAME.match(text):
            self._add(_frame(match, exact=bool(match["flags"] and "P" in match["flags"])))
        elif match := _BARE.match(text):
            self._bare(match, exact=False)
        elif other := parse_frame(text):  # 32-bit arm's and powerpc's
            self._add(TraceFrame(other.function, other.offset, other.size, other.module, other.reliable))
        elif self.open:
            self._state(text)

    def trace(self) -> Trace:
        return Trace(
            frames=tuple(self.frames),
            pointer=self.pointer,
            registers=self.registers,
            modules=self.modules,
            **self.found,  # type: ignore[arg-type]
        )

    def _add(self, frame: TraceFrame, first: bool = False) -> None:
        if frame.module and frame.build_id:
            self.modules.setdefault(frame.module, frame.build_id)
        same = self.pointer and (frame.function, frame.offset) == (self.pointer.function, self.pointer.offset)
        if same and not first and self.frames and frame.function:
            return  # arm64 and riscv begin the trace with the pointer once more
        if len(self.frames) < _MAX_FRAMES:
            self.frames.append(frame)

    def _bare(self, match: re.Match[str], exact: bool) -> None:
        stale = "stale" in match.re.groupindex and match["stale"]
        frame = TraceFrame("", None, None, reliable=not stale, exact=exact, address=int(match["address"], 16))
        if exact and self.pointer is None:
            self.pointer = frame
        self._add(frame, first=exact)

    def _facts(self, text: str) -> None:
        if "fault" not in self.found and (match := next((m for p in _FAULT if (m := p.search(text))), None)):
            self.found["fault"] = int(match[1], 16)
        if "low" not in self.found and (match := _RANGE.search(text)):
            self.found |= {"low": int(match["low"], 16), "high": int(match["high"], 16), "range_kind": match["what"]}
        if "general protection fault" in text or "stack segment" in text:
            self.found["protection"] = True
        if match := _SHIFT.match(text):
            self.found["shift"] = int(match["shift"] or "0", 16)
        if "access" not in self.found and (match := _ACCESS.search(text)):
            self.found["access"] = match["what"] or ("write" if match["wnr"] == "1" else "read")
        if "release" not in self.found and (match := _VERSION.search(text)):
            self.found |= {"release": match["release"], "build_id": match["id"] or ""}

    def _state(self, text: str) -> None:
        if "code" not in self.found and (match := _CODE.match(text)):
            self.found["code"] = tuple(match["bytes"].split())
        elif "no_code" not in self.found and (match := _NO_CODE.match(text)):
            self.found["no_code"] = match["why"]
        elif ":" in text and "#PF" not in text:
            for name, value in _REGISTER.findall(text):
                self.registers.setdefault(name.lower(), int(value, 16))


def _frame(match: re.Match[str], exact: bool) -> TraceFrame:
    found = match.groupdict()
    frame = TraceFrame(
        found["func"],
        int(found["offset"], 16),
        int(found["size"], 16),
        found["module"],
        not (found.get("stale") or found.get("doubt")),
        exact,
        int(found["address"], 16) if found.get("address") else None,
        found["id"] or "",
    )
    # `__pfx_f+0x10/0x10` is the address of `f` itself, on the stack as a pointer (CONFIG_CALL_PADDING).
    if frame.function.startswith("__pfx_") and frame.offset == frame.size:
        return replace(frame, exact=True)
    return frame
