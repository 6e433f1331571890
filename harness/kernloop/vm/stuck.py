# SPDX-License-Identifier: Apache-2.0
"""Where the vCPUs of a guest that says nothing are, seen from outside: registers, and the stack by the kernel's own
symbols. The guest's kernel is not asked for anything.
"""

from __future__ import annotations

import contextlib
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from kernloop.errors import HarnessError
from kernloop.report.frames import Frame, guilty
from kernloop.vm import kallsyms
from kernloop.vm.kallsyms import Place, Symbols
from kernloop.vm.machine import Machine
from kernloop.vm.memory import vmcoreinfo

__all__ = ["FILE", "Stuck", "in_debugger", "look", "told", "worst"]

FILE = "cpus.txt"

_CPU = re.compile(r"^CPU#(\d+)\s*$", re.MULTILINE)
_REGISTER = re.compile(r"\b(RIP|RSP|RFL)=([0-9a-f]+)")
_STATE = re.compile(r"\b(CPL|HLT)=(\d)")
_INTERRUPTS = 1 << 9
# Stacks of tasks are this large and lie at a multiple of it (arch/x86/include/asm/page_64_types.h); with KASAN twice.
_STACK = 16 << 10
_PAGE = 4096
_MOST_FRAMES = 24
_CALL_BYTES = 7
_KERNEL = 1 << 63
_SECONDS = 30.0


@dataclass(frozen=True)
class Stuck:
    """A vCPU. `place` and `stack` are None and empty where no symbols are known, or it is not in the kernel; `stack`
    are the calls that its stack holds, the innermost first, some perhaps of earlier."""

    cpu: int
    rip: int
    interrupts: bool
    halted: bool
    user: bool
    place: Place | None
    stack: tuple[Place, ...] = ()

    @property
    def function(self) -> str | None:
        """Who is to blame: the first that does not merely wait or dispatch."""
        if self.place is None:
            return None
        return guilty(Frame(place.function) for place in (self.place, *self.stack)) or self.place.function

    def __str__(self) -> str:
        where = str(self.place) if self.place else f"{self.rip:#x}"
        interrupts = "on" if self.interrupts else "off"
        if self.user:
            return f"CPU {self.cpu} is in user space at {self.rip:#x}"
        return f"CPU {self.cpu} {'is halted' if self.halted else 'is'} in {where} with interrupts {interrupts}"


async def look(machine: Machine, run: Path) -> tuple[Stuck, ...]:
    """Stop the guest, and look at each vCPU; what is found is in `FILE` of the run directory `run`, too.

    The guest stays stopped. Raises HarnessError when the monitor does not answer.
    """
    import tempfile  # with random and what that needs: most guests do not hang

    await machine.qmp("stop")
    text = str(await machine.qmp("human-monitor-command", {"command-line": "info registers -a"}))
    (run / "registers.txt").write_text(text)
    with tempfile.TemporaryDirectory(prefix="kernloop-look-") as folder:
        memory = _Memory(machine, Path(folder))
        cpus = [(number, *_read(part)) for number, part in _parts(text)]
        # User page tables need not have the kernel in them.
        memory.through = next((cpu for cpu, registers, state in cpus if not state["CPL"]), 0)
        symbols = await _symbols(machine, Path(folder), memory)
        found = [await _stuck(cpu, registers, state, symbols, memory) for cpu, registers, state in cpus]
    (run / FILE).write_text(told(found, symbols is not None))
    return tuple(found)


def worst(cpus: Iterable[Stuck]) -> Stuck | None:
    """The vCPU that most likely keeps the others: in the kernel, not idle, interrupts off."""

    def order(one: Stuck) -> tuple[bool, ...]:
        return one.user, one.halted and one.interrupts, one.interrupts, one.halted

    return min(cpus, key=order, default=None)


def in_debugger(cpus: Iterable[Stuck]) -> bool:
    """Whether KGDB or KDB in the guest holds it: they poll the serial port with interrupts off, for as long as it
    takes (kgdb_cpu_enter() in kernel/debug/debug_core.c)."""
    places = (place for one in cpus for place in (one.place, *one.stack) if place)
    return any(place.function.startswith(("kgdb_cpu_enter", "kdb_main_loop")) for place in places)


def told(cpus: Iterable[Stuck], known: bool) -> str:
    """As lines for people."""
    lines = [] if known else ["The kernel's symbols could not be read from its memory."]
    for one in cpus:
        lines.append(str(one))
        lines += [f"    {place}" for place in one.stack]
    return "\n".join(lines) + "\n"


def _parts(text: str) -> list[tuple[int, str]]:
    marks = list(_CPU.finditer(text))
    ends = [mark.start() for mark in marks[1:]]
    return [(int(mark[1]), text[mark.end() : end]) for mark, end in zip(marks, [*ends, len(text)], strict=False)]


def _read(part: str) -> tuple[dict[str, int], dict[str, int]]:
    registers = {name: int(value, 16) for name, value in _REGISTER.findall(part)}
    state = {name: int(value) for name, value in _STATE.findall(part)}
    return {"RIP": 0, "RSP": 0, "RFL": 0, **registers}, {"CPL": 0, "HLT": 0, **state}


# The guest's memory by virtual addresses, as one of its vCPUs sees it.
class _Memory:
    def __init__(self, machine: Machine, folder: Path) -> None:
        self.through = 0
        self._machine = machine
        self._file = folder / "memory"

    async def read(self, address: int, size: int) -> bytes:
        """Raises HarnessError for what is not mapped."""
        arguments = {"val": address, "size": size, "filename": str(self._file), "cpu-index": self.through}
        await self._machine.qmp("memsave", arguments, seconds=_SECONDS)
        return self._file.read_bytes()


async def _symbols(machine: Machine, folder: Path, memory: _Memory) -> Symbols | None:
    wanted: dict[tuple[int, int], bytes] = {}

    def read(address: int, size: int) -> bytes:
        if (address, size) not in wanted:
            raise _Missing(address, size)
        return wanted[address, size]

    with contextlib.suppress(HarnessError, struct.error):
        where = kallsyms.tables(await vmcoreinfo(machine, folder))
        while where is not None:
            try:
                return kallsyms.load(where, read)
            except _Missing as missing:
                wanted[missing.address, missing.size] = await memory.read(missing.address, missing.size)
    return None


# `load` is told of memory that is not read yet, and called again with it: it knows nothing of a monitor.
class _Missing(Exception):
    def __init__(self, address: int, size: int) -> None:
        super().__init__(address, size)
        self.address, self.size = address, size


async def _stuck(
    cpu: int, registers: dict[str, int], state: dict[str, int], symbols: Symbols | None, memory: _Memory
) -> Stuck:
    rip, user = registers["RIP"], state["CPL"] == 3
    place = symbols.at(rip) if symbols and not user else None
    stack = await _calls(registers["RSP"], symbols, memory) if symbols and not user else ()
    return Stuck(cpu, rip, bool(registers["RFL"] & _INTERRUPTS), bool(state["HLT"]), user, place, stack)


# The words of the stack that are behind a call instruction in a function: what the unwinder of the kernel would find,
# and what earlier calls left.
async def _calls(stack: int, symbols: Symbols, memory: _Memory) -> tuple[Place, ...]:
    if stack < _KERNEL:
        return ()
    # Stacks of interrupts lie at a multiple of a page only, with nothing mapped behind them.
    data = b""
    with contextlib.suppress(HarnessError):
        while len(data) < _STACK - stack % _STACK:
            at = stack + len(data)
            data += await memory.read(at, _PAGE - at % _PAGE)
    found: list[Place] = []
    for (word,) in struct.iter_unpack("<Q", data[: len(data) // 8 * 8]):
        if word < _KERNEL or len(found) == _MOST_FRAMES:
            continue
        place = symbols.at(word)
        if place and place.offset and place not in found and await _behind_call(word, memory):
            found.append(place)
    return tuple(found)


async def _behind_call(address: int, memory: _Memory) -> bool:
    try:
        code = await memory.read(address - _CALL_BYTES, _CALL_BYTES)
    except HarnessError:
        return False
    # call rel32; call *reg; call *mem(%rip)
    return code[-5] == 0xE8 or (code[-2] == 0xFF and code[-1] & 0xF8 == 0xD0) or code[-6:-4] == b"\xff\x15"
