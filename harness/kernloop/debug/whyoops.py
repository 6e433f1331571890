# SPDX-License-Identifier: Apache-2.0
"""Why a kernel crashed: the registers that its report prints, with what each points to in the memory it left."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drgn import FaultError, Object, Program

from kernloop import vmcores
from kernloop.debug.code import Code, code_of
from kernloop.debug.helpers.memory import SlabObject, slab_object
from kernloop.debug.helpers.tasks import Who, every_task, who
from kernloop.debug.orc import Stack
from kernloop.debug.stacks import Stacks
from kernloop.debug.values import Limits, plain
from kernloop.report.crash import Crash
from kernloop.vm.client import VM
from kernloop.vm.request import live

__all__ = ["Oops", "Pointed", "investigate", "memory_of", "registers_in"]

# __show_regs() in arch/x86/kernel/process_64.c.
_REGISTER = re.compile(r"\b(R[A-Z0-9]{1,2}|CR2)\s*: ([0-9a-f]{16})\b")
_POINTER = re.compile(r"\bRSP: [0-9a-f]{4}:([0-9a-f]{16})")
# page_fault_oops() in arch/x86/mm/fault.c. By then CR2 itself may be that of the code that could not be shown.
_FAULT = re.compile(r"\bCR2: ([0-9a-f]{16})\s*$", re.MULTILINE)
_RIP = re.compile(r"\bRIP: 0010:")
_KERNEL = 0xFFFF800000000000
_PAGE = 4096
# show_fault_oops() in arch/x86/mm/fault.c
_PAGE_FAULTS = ("NULL pointer dereference", "unable to handle page fault", "unable to handle kernel")
# include/linux/poison.h: of list_del() and of freed and of unused slab memory.
_POISONS = {0xDEAD000000000100: "LIST_POISON1", 0xDEAD000000000122: "LIST_POISON2"}
_FILLED = {0x6B: "freed slab memory", 0x5A: "slab memory never written", 0xA5: "the end of slab poison"}
_WORDS = 8
_LIMITS = Limits(depth=2, elements=8, values=60)


@dataclass(frozen=True)
class Pointed:
    """What `value` in `register` is; `content` the structure there, or words, None where neither is worth it."""

    register: str
    value: int
    what: str
    content: Any = None


@dataclass(frozen=True)
class Oops:
    """`stack` is the task's as it is in the memory, which may be later than the report."""

    pointers: tuple[Pointed, ...]
    task: Who | None
    stack: Stack | None


def registers_in(text: str) -> dict[str, int]:
    """The registers of the first dump of them in a report that is of the kernel's own code, empty without one."""
    begin = _RIP.search(text)
    if begin is None:
        return {}
    found: dict[str, int] = {}
    for name, value in _REGISTER.findall(text[begin.start() :]):
        if name in found:
            break  # the next dump: that of the system call, or of another CPU
        found[name] = int(value, 16)
    if fault := _FAULT.search(text, begin.start()):
        found["CR2"] = int(fault[1], 16)
    if stack := _POINTER.search(text, begin.start()):
        found["RSP"] = int(stack[1], 16)
    return found


def memory_of(run: Path) -> VM | Path | None:
    """What has the memory of a run: the VM if it lives, else the newest vmcore in its directory."""
    for path, spec in live():
        if path == run:
            return VM(str(spec.get("subject")), path)
    return vmcores.newest(run)


def investigate(prog: Program, crash: Crash, registers: Mapping[str, int]) -> Oops:
    """What the registers of `crash` point to in `prog`, and the task's stack."""
    code = code_of(prog)
    # CR2 is the address of the last page fault, whoever had that: it tells of nothing else.
    faulted = any(one in crash.message for one in _PAGE_FAULTS)
    known = {name: value for name, value in registers.items() if name != "CR2" or faulted}
    pointers = tuple(_pointed(prog, code, name, value) for name, value in known.items() if _tells(value))
    task = next((one for one in every_task(prog) if one.pid.value_() == crash.pid), None) if crash.pid else None
    stack = Stacks(prog).of(task) if task is not None else None
    return Oops(pointers, who(task) if task is not None else None, stack)


# Small numbers are counts more often than addresses near zero; zero itself says what it is in the report.
def _tells(value: int) -> bool:
    return value >= _PAGE


def _pointed(prog: Program, code: Code, register: str, value: int) -> Pointed:
    if (poison := _poison(value)) is not None:
        return Pointed(register, value, poison)
    if value < _KERNEL:
        space = "an address of user space" if value < 1 << 47 else "no address (not canonical)"
        return Pointed(register, value, space)
    if code.in_image(value) or code.generated(value):
        name, module = code.name(value)
        return Pointed(register, value, f"code of {name}" + f" [{module}]" * bool(module))
    if name := code.data(value):
        what = name if name.startswith("data at ") else f"variable {name}"
        return Pointed(register, value, what, _words(prog, value))
    if found := slab_object(prog, value):
        return Pointed(register, value, _slab(found, value), _structure(prog, found))
    if owner := _stack_of(prog, value):
        return Pointed(register, value, f"the stack of {owner}")
    words = _words(prog, value)
    return Pointed(register, value, "memory" if words else "an address that is not mapped", words)


def _poison(value: int) -> str | None:
    for base, name in _POISONS.items():
        if 0 <= value - base < 0x22:
            return name + (f"+{value - base:#x}" if value > base else "")
    bytes_ = value.to_bytes(8, "little")
    # What was read from poison may have an offset added: the upper six bytes remain.
    if len(set(bytes_[2:])) == 1 and bytes_[7] in _FILLED:
        return f"read from {_FILLED[bytes_[7]]} (use after free)" if bytes_[7] == 0x6B else _FILLED[bytes_[7]]
    return None


def _slab(found: SlabObject, value: int) -> str:
    offset = value - found.address
    state = {True: "", False: ", which is free", None: ", free or not"}[found.allocated]
    return f"object of {found.cache}" + (f"+{offset:#x}" if offset else "") + state


# A cache that is called as the structure it has; words of the others.
def _structure(prog: Program, found: SlabObject) -> Any:
    try:
        if not found.cache.isidentifier():
            raise LookupError  # kmalloc-64
        one = Object(prog, prog.type(f"struct {found.cache}"), address=found.address)
        return {"type": f"struct {found.cache}", "value": plain(one, _LIMITS)}
    except (LookupError, SyntaxError):  # kmalloc-64 is no name of a structure
        return _words(prog, found.address)


def _words(prog: Program, address: int) -> list[str]:
    try:
        data = prog.read(address & ~7, 8 * _WORDS)
    except FaultError:
        return []
    return [f"{int.from_bytes(data[at : at + 8], 'little'):#x}" for at in range(0, len(data), 8)]


def _stack_of(prog: Program, value: int) -> Who | None:
    for task in every_task(prog):
        begin = task.stack.value_()
        if begin <= value < begin + (16 << 10):
            return who(task)
    return None
