# SPDX-License-Identifier: Apache-2.0
"""What a BPF verifier log consists of: libbpf's frame, the verifier's lines, and the block of kernel 7.3.

kernel/bpf/verifier.c and log.c write an instruction as `5: (15) if r0 == 0x0 goto pc+5   ; R0=map_value(...)`, the
source line before it as `; text @ file.c:41` (older kernels: `; text`), a state on a line of its own as `5: R0=...` or,
at level 2, `from 3 to 5: R0=...`. At level 1 a path that went well is taken back from the log, and the state of the
next one can stand behind the jump: `3: (16) if w1 == 0x1 goto pc+1 5: R10=fp0`. tools/lib/bpf/libbpf.c puts the whole
between `-- BEGIN PROG LOAD LOG --` and `-- END PROG LOAD LOG --`. kernel/bpf/diagnostics.c (7.3) adds
`Verification failed:`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from .lines import read_line, split_lines

__all__ = ["Insn", "Log", "Source", "find_log", "insn_of", "messages", "source_of", "state_of", "states", "text_lines"]

_FAILED = re.compile(r"\bprog '(?P<program>[^']+)': BPF program load failed: (?P<error>.+)")
_PROGRAM = re.compile(r"\bprog '(?P<program>[^']+)': ")
_BEGIN, _END = "-- BEGIN PROG LOAD LOG --", "-- END PROG LOAD LOG --"
_PROCESSED = re.compile(r"processed (?P<count>\d+) insns")
_BLOCK = "Verification failed: "

_SOURCE = re.compile(r"; (?P<text>.*?) @ (?P<file>[^@\s]+):(?P<line>\d+)\s*$")
# The state is aligned to a column (BPF_LOG_ALIGNMENT, include/linux/bpf_verifier.h).
_INSN = re.compile(
    r"(?P<number>\d+): (?P<text>(?:\([0-9a-f]{2}\) |<invalid ).*?)\s{0,40}"
    r"(?:;(?P<state>.*)|(?<=[^ ]) \d+: (?P<late>(?:frame\d+: )?R\d+(?:_r?w)?=.*))?$"
)
_STATE = re.compile(
    r"(?:\d+: ?|from \d+ to \d+(?: \(speculative execution\))?: ?)?(?P<state> ?(?:frame\d+: )?R\d+(?:_r?w)?=.*)$"
)
_REGISTER = re.compile(r"\b(?P<name>R\d+|fp-\d+)(?:_r?w)?=(?P<value>(?:[^\s()]++|\((?:[^()]++|\([^()]*+\))*+\))++)")
_FRAME = re.compile(r"\s*frame(\d+):")
_SYSLOG = re.compile(r"[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \S+ [^:]{1,60}: ")

# Narration: never the cause. Lines of register states and instructions are told by the patterns above.
_NARRATION = re.compile(
    r"""\s*(?:;|from\ \d+\ to\ \d+|(?:\d+\s+)?\d+:\ |\d+:$|frame\d+:|R\d+(?:_r?w)?=|(?:cur|old)\ state:
    |mark_precise|force_precise
    |libbpf:|--\s|func\ '.*'\ arg\d+\ (?:has\ btf_id|type\ )|[Ff]unc\#\d+\s
    |arg\#\d+\ reference\ type\(.*\)\ size\ cannot|Validating\ |[Ll]ive\ regs|caller:|callee:|returning\ from\ callee
    |to\ caller\ at|last_idx\ |regs=|parent\ (?:state|didn't)|verification\ time
    |stack\ depth\ (?:max\ )?[\d+]+$|max_states|propagating\s
    |frame\ \d+:\ propagating|\(\.\.\.\)|Instruction\ |BPF_EXIT\ instruction\ in\ main\ prog\ would\ lead\ to
    |Caller\ passes\ invalid\ args|subprog\#?\s?\d+|topo_order|SCC\ |stack\ use/def|load:\ |marking\ pointer\ arg
    |CO-RE\ relocating|processed\ \d|Cannot\ find\ btf\ of\ tracepoint|signature\ verification\ passed)""",
    re.VERBOSE,
)
_NO_SCALAR = "doesn't return scalar. Only those"
# A message may span lines: bounds first, then what is wrong with them.
_MOST_MESSAGES = 4


@dataclass(frozen=True)
class Insn:
    """`state` is what the verifier noted behind the instruction, '' where it did not."""

    number: int
    text: str
    state: str


@dataclass(frozen=True)
class Source:
    """A line of the program's source. Kernels before 6.9 do not tell the file: `line` is None then."""

    text: str
    file: str = ""
    line: int | None = None

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}" if self.line is not None else ""


@dataclass(frozen=True)
class Log:
    """One program's log: `lines` up to the verdict, `block` the explanation of 7.3."""

    program: str
    error: str
    lines: tuple[str, ...] = ()
    block: tuple[str, ...] = ()
    processed: int | None = None

    @property
    def whole(self) -> bool:
        """Whether its last line, `processed N insns`, is there."""
        return self.processed is not None


def text_lines(text: str) -> list[str]:
    """The lines of a loader's output, without what a console or syslog puts before them."""
    lines = [line.rstrip() for line in split_lines(text)]
    for n, line in enumerate(lines):
        first = line[:1]
        if first in "[<\x1b":
            lines[n] = read_line(line).text
        elif "J" <= first <= "Z" or "A" <= first <= "F":
            lines[n] = _SYSLOG.sub("", line, count=1)
    return lines


def find_log(lines: list[str]) -> Log:
    """The last program's log of a loader's output; without `lines` where there is none."""
    program = error = ""
    begins = processed = -1
    for n, line in enumerate(lines):
        # Each test is a cheap one: a log has 100,000 lines.
        if "prog '" in line:
            if failed := _FAILED.search(line):
                program, error = failed["program"], failed["error"].strip()
            elif line.endswith(_BEGIN):
                begins, processed = n, -1
                named = _PROGRAM.search(line)
                program = named["program"] if named else program
        elif processed < 0 and line.startswith("processed ") and _PROCESSED.match(line):
            processed = n
    if begins < 0 and processed < 0 and not any(_INSN.match(line) for line in lines if line[:1].isdecimal()):
        return Log(program, error)
    body = lines[begins + 1 :]
    end = processed - begins - 1 if processed > begins else len(body)
    count = _PROCESSED.match(lines[processed]) if processed > begins else None
    closed = next((n for n, line in enumerate(body[:end]) if line.endswith(_END)), end)
    body = body[:closed]
    start = next((n for n, line in enumerate(body) if line.startswith(_BLOCK)), len(body))
    return Log(program, error, tuple(body[:start]), tuple(body[start:]), int(count["count"]) if count else None)


def messages(lines: tuple[str, ...]) -> tuple[int | None, tuple[str, ...]]:
    """Where the verdict stands, and its lines in order: the last ones that are no narration."""
    for n in range(len(lines) - 1, -1, -1):
        if _is_message(lines[n]):
            # 6.17 says so of each void program, and it is a fault only where the function is called.
            if _NO_SCALAR in lines[n] and not any(line.startswith("Caller passes") for line in lines[n + 1 : n + 2]):
                continue
            first = n
            while first > 0 and n - first < _MOST_MESSAGES - 1 and _is_message(lines[first - 1]):
                first -= 1
            return n, tuple(line.strip() for line in lines[first : n + 1])
    return None, ()


def _is_message(line: str) -> bool:
    return bool(line.strip()) and not _NARRATION.match(line) and not _STATE.match(line)


def insn_of(line: str) -> Insn | None:
    """The instruction on this line."""
    if not line[:1].isdecimal():
        return None
    match = _INSN.match(line)
    return Insn(int(match["number"]), match["text"], (match["state"] or match["late"] or "").strip()) if match else None


def source_of(line: str) -> Source | None:
    """The source line that this line shows."""
    if not line.startswith("; "):
        return None
    match = _SOURCE.match(line)
    return Source(match["text"], match["file"], int(match["line"])) if match else Source(line[2:].strip())


def state_of(line: str) -> str | None:
    """The registers on a line that has nothing else."""
    match = _STATE.match(line)
    return match["state"].strip() if match else None


def states(state: str) -> tuple[int, Iterator[tuple[str, str]]]:
    """The frame that a state is of, and its registers and stack slots with their values."""
    frame = _FRAME.match(state)
    return int(frame[1]) if frame else 0, ((match["name"], match["value"]) for match in _REGISTER.finditer(state))
