# SPDX-License-Identifier: Apache-2.0
"""Bytes of a BPF function as instructions, and its blocks (Documentation/bpf/standardization/instruction-set.rst).

A decoder of our own: capstone 5 stops at the 32-bit jumps that clang makes for -mcpu=v3, and each instruction has one
form of eight bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

from kernloop.errors import HarnessError
from kernloop.sched.obj.model import Block, Call, Core, Insn, Line, Ref

__all__ = ["CALL", "CALLX", "EXIT", "JA", "JA32", "JCOND", "LD_IMM64", "DecodeError", "Known", "blocks", "decode"]

LD_IMM64, CALL, CALLX, EXIT, JA, JA32, JCOND = 0x18, 0x85, 0x8D, 0x95, 0x05, 0x06, 0xE5
_JMP, _JMP32 = 0x05, 0x06
# They have a target: neither call nor exit.
_JUMPS = frozenset(code for code in range(256) if code & 7 in (_JMP, _JMP32) and code & 0xF0 not in (0x80, 0x90))
# Kernel functions that never return.
_ENDS = frozenset({"bpf_throw", "__bpf_trap"})


class DecodeError(HarnessError):
    """The bytes are no BPF program."""


@dataclass(frozen=True)
class Known:
    """What relocations and .BTF.ext say of a function's instructions, by slot."""

    calls: Mapping[int, Call] = field(default_factory=dict)
    refs: Mapping[int, Ref] = field(default_factory=dict)
    cores: Mapping[int, Core] = field(default_factory=dict)
    lines: Mapping[int, Line] = field(default_factory=dict)


def decode(data: bytes, known: Known) -> tuple[Insn, ...]:
    """The instructions of a function; each has the line of the last one before it that has any.

    Raises DecodeError for what are no whole instructions, and for jumps out of the function or into a 64-bit load.
    """
    if len(data) % 8:
        raise DecodeError(f"a BPF function of {len(data)} bytes: no multiple of 8")
    rows: list[tuple[int, int, int, int, int, int, int]] = []
    index_of: dict[int, int] = {}
    slots = struct.iter_unpack("<BBhi", data)
    slot = 0
    for code, registers, off, imm in slots:
        index_of[slot] = len(rows)
        if code == LD_IMM64:
            second = next(slots, None)
            if second is None or second[0]:
                raise DecodeError(f"the 64-bit load at {slot} lacks its second half")
            whole = (imm & 0xFFFFFFFF) | (second[3] & 0xFFFFFFFF) << 32
            rows.append((slot, code, registers & 15, registers >> 4, off, imm, whole))
            slot += 2
        else:
            if registers & 15 > 10 or registers >> 4 > 10:
                raise DecodeError(f"the instruction at {slot} names a register that is not there")
            rows.append((slot, code, registers & 15, registers >> 4, off, imm, imm))
            slot += 1
    found, line = [], None
    lines, calls, refs, cores = known.lines, known.calls, known.refs, known.cores
    for index, (at, code, dst, src, off, imm, whole) in enumerate(rows):
        target = None
        if code in _JUMPS:
            wanted = at + 1 + (imm if code == JA32 else off)
            target = index_of.get(wanted)
            if target is None:
                raise DecodeError(f"the jump at {at} goes to {wanted}, where no instruction begins")
        line = lines.get(at, line)
        found.append(
            Insn(index, at, code, dst, src, off, imm, whole, target, calls.get(at), refs.get(at), cores.get(at), line)
        )
    return tuple(found)


def blocks(insns: tuple[Insn, ...]) -> tuple[Block, ...]:
    """The control flow of a function. One that runs off its end, which no kernel loads, just ends there."""
    leaders = {0}
    for insn in insns:
        if insn.target is not None:
            leaders.add(insn.target)
            leaders.add(insn.index + 1)
        elif insn.code == EXIT or (insn.call is not None and _ends(insn)):
            leaders.add(insn.index + 1)
    starts = sorted(leader for leader in leaders if leader < len(insns))
    number_of = {start: number for number, start in enumerate(starts)}
    found = []
    for number, start in enumerate(starts):
        end = starts[number + 1] if number + 1 < len(starts) else len(insns)
        last = insns[end - 1]
        after: tuple[int, ...] = ()
        if not _ends(last):
            if last.code not in (JA, JA32) and end < len(insns):
                after = (number_of[end],)
            if last.target is not None:
                after += (number_of[last.target],)
        found.append(Block(number, start, end, after))
    return tuple(found)


def _ends(insn: Insn) -> bool:
    return insn.code == EXIT or (insn.call is not None and insn.call.kind == "kfunc" and insn.call.name in _ENDS)
