# SPDX-License-Identifier: Apache-2.0
"""Why a BPF object did not load: the verifier's log and libbpf's complaints, boiled down to one cause and one place.

The log is written by kernel/bpf/verifier.c and log.c, framed by tools/lib/bpf/libbpf.c (`-- BEGIN PROG LOAD LOG --`).
The cause is the last line before `processed N insns` that is none of the verifier's narration. Kernel 7.3 adds a
block behind that line (kernel/bpf/diagnostics.c: `Verification failed:`, `Reason:`, `At:`, `Suggestion:`), which is
used where it is there. Unresolved symbols fail in libbpf before any log.

>>> parse_rejection("libbpf: extern (func ksym) 'scx_bpf_consume': not found in kernel or module BTFs").kind
'relocation'
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from .lines import split_lines

__all__ = ["Kind", "Rejection", "parse_rejection"]

Kind = Literal["verifier", "relocation", "btf", "complexity", "license", "other"]

_FAILED = re.compile(r"libbpf: prog '(?P<program>[^']+)': BPF program load failed: (?P<error>.+)")
_BEGIN, _END = "-- BEGIN PROG LOAD LOG --", "-- END PROG LOAD LOG --"
_PROCESSED = re.compile(r"^processed (?P<count>\d+) insns")
_BLOCK = re.compile(r"^Verification failed: (?P<title>.+)")

_SOURCE = re.compile(r"^; (?P<text>.*?) @ (?P<file>[^@\s]+):(?P<line>\d+)\s*$")
# The state is aligned to a column (BPF_LOG_ALIGNMENT, include/linux/bpf_verifier.h).
_INSN = re.compile(r"^(?P<number>\d+): (?P<text>\([0-9a-f]{2}\) .*?)\s{0,40}(?:; (?P<state>.*))?$")
_STATE = re.compile(r"^(?:\d+: |from \d+ to \d+: |(?:cur|old) state: )?(?:frame\d+: )?(?P<state>R\d+(?:_r?w)?=.*)$")
_REGISTER = re.compile(r"(?P<name>R\d+)(?:_r?w)?=(?P<value>(?:[^\s()]|\((?:[^()]|\([^()]*\))*\))+)")
_ALLOC = re.compile(r"\balloc_insn=(\d+)")

# Narration: never the cause. Lines of register states and instructions are told by the patterns above.
_NARRATION = re.compile(
    r"""^(?:;|\s|from\ \d+\ to\ \d+|\d+:\ |\d+:$|frame\d+:|R\d+(?:_r?w)?=|(?:cur|old)\ state:|mark_precise|libbpf:|--\s
    |func\ '.*'\ arg\d+\ has\ btf_id|[Ff]unc\#\d+\ |Global\ function\ .*\ doesn't\ return\ scalar
    |arg\#\d+\ reference\ type\(.*\)\ size\ cannot|Validating\ |[Ll]ive\ regs|caller:|callee:|returning\ from\ callee
    |to\ caller\ at|last_idx\ |regs=|parent\ (?:state|didn't)|verification\ time|stack\ depth|max_states|propagating\s
    |\(\.\.\.\)|Instruction\ |BPF_EXIT\ instruction\ in\ main\ prog\ would\ lead\ to)""",
    re.VERBOSE,
)

_AT = re.compile(r"^  (?:\S+ @ )?(?P<file>\S+?):(?P<line>\d+):\d+\s*$")
_AT_TEXT = re.compile(r"^\s*>>> *\d+ \| (?P<text>.*\S)")

# Failures of libbpf itself: no program has reached the verifier.
_WITHOUT_LOG: tuple[tuple[Kind, re.Pattern[str], str], ...] = (
    (
        "relocation",
        re.compile(r"extern \((?:func|var) ksym\) '(?P<name>[^']+)': not found in (?:kernel|vmlinux).*"),
        "This kernel has no such symbol: build against the target kernel's headers, or test bpf_ksym_exists().",
    ),
    (
        "btf",
        re.compile(r"extern \((?:func|var) ksym\) '(?P<name>[^']+)': .*incompatible with .*"),
        "The prototype differs from the kernel's: take vmlinux.h from the target kernel, and correct it.",
    ),
    (
        "relocation",
        re.compile(r"extern '(?P<name>[^']+)' \(strong\): not resolved.*"),
        "Declare the extern __weak, or give libbpf the kernel's config (/boot/config-RELEASE or /proc/config.gz).",
    ),
    (
        "btf",
        re.compile(r"failed to find (?:kernel BTF type ID of '(?P<name>[^']+)'.*|valid kernel BTF.*)"),
        "The target kernel lacks this BTF type: it needs CONFIG_DEBUG_INFO_BTF and the feature that is attached to.",
    ),
    (
        "btf",
        re.compile(r"struct_ops init_kern.*(?:not found|cannot find|mismatch|incompatible|Unmatched).*"),
        "The struct_ops type differs from the kernel's: take vmlinux.h and the headers from the target kernel.",
    ),
    (
        "other",
        re.compile(r"failed to open system Kconfig.*"),
        "Give the guest /boot/config-$(uname -r): libbpf needs it for __kconfig externs.",
    ),
    ("other", re.compile(r"(?:Error in bpf_create_map|map '[^']+': failed to (?:create|auto-create)).*"), ""),
    ("other", re.compile(r"(?:failed to open|failed to find valid|elf: ).*"), ""),
)

# What a cause means: the first that matches says the kind and, where the kernel has no advice of its own, the cure.
_CAUSES: tuple[tuple[Kind, re.Pattern[str], str], ...] = (
    ("license", re.compile(r"non-GPL|GPL-restricted|GPL only"), 'Declare char _license[] SEC("license") = "GPL".'),
    (
        "complexity",
        re.compile(r"BPF program is too large|too complex|too many states|processed insn limit"),
        "Make the program smaller for the verifier: bpf_for() or bpf_loop(), global functions for parts.",
    ),
    (
        "complexity",
        re.compile(r"infinite loop detected|back-edge from insn|loop detected"),
        "Bound the loop with bpf_for(), bpf_repeat() or a counter that ends it.",
    ),
    (
        "relocation",
        re.compile(r"unknown func |invalid func unknown|call unknown#"),
        "The kernel has no such helper or kfunc: build for this kernel, or guard the call.",
    ),
    (
        "verifier",
        re.compile(r"invalid mem access '\w*_or_null|Possibly NULL pointer"),
        "Test the pointer for NULL before using it.",
    ),
    (
        "verifier",
        re.compile(r"Unreleased reference"),
        "Release the reference (bpf_task_release(), bpf_cpumask_release(), ...) on every path before returning.",
    ),
    (
        "verifier",
        re.compile(r"outside of the allowed memory range|invalid access to map value|unbounded memory access"),
        "Check the index against the size right before the access, or use ARRAY_ELEM_PTR().",
    ),
    (
        "verifier",
        re.compile(r"must be sleepable|sleepable kfunc|calling kernel function \S+ is not allowed"),
        "Call it from an op that allows it: sleeping kfuncs only in .s programs such as ops.init.",
    ),
    (
        "verifier",
        re.compile(r"invalid mem access 'scalar'"),
        "Keep the pointer's type: reload it instead of computing it.",
    ),
    ("verifier", re.compile(r"!read_ok|unreadable"), "Set the variable on every path before it is read."),
)


@dataclass(frozen=True)
class Rejection:
    """One program, one cause. `reason` is the kernel's own explanation (7.3+), `hint` what to change."""

    program: str
    cause: str
    source_file: str
    source_line: int | None
    source_text: str
    instruction: str
    kind: Kind
    insns_processed: int | None
    register_states: tuple[str, ...]
    hint: str
    reason: str = ""


def parse_rejection(text: str) -> Rejection | None:
    """The failure that a loader's output tells of, or None. A verifier log without libbpf's frame will do as well."""
    lines = [line.rstrip() for line in split_lines(text)]
    program, error = "", ""
    for line in lines:
        if failed := _FAILED.search(line):
            program, error = failed["program"], failed["error"].strip()
    log = _last_log(lines)
    if log:
        return _from_log(program, error, log)
    for line in lines:
        for kind, pattern, hint in _WITHOUT_LOG:
            if "libbpf: " in line and (match := pattern.search(line)):
                return Rejection(program, match[0], "", None, "", "", kind, None, (), hint)
    if error:
        return Rejection(program, f"BPF program load failed: {error}", "", None, "", "", "other", None, (), "")
    return None


# The lines of the last verifier log, up to and with `processed`: earlier ones are tries that libbpf repeated.
def _last_log(lines: list[str]) -> list[str]:
    begins = [n for n, line in enumerate(lines) if line.endswith(_BEGIN)]
    if not begins and not any(_PROCESSED.match(line) for line in lines):
        return []
    body = lines[begins[-1] + 1 :] if begins else lines
    ends = [n for n, line in enumerate(body) if _PROCESSED.match(line) or line.endswith(_END)]
    return body[: ends[0] + 1] if ends else body


def _from_log(program: str, error: str, log: list[str]) -> Rejection | None:
    processed = next((match for line in log if (match := _PROCESSED.match(line))), None)
    start = next((n for n, line in enumerate(log) if _BLOCK.match(line)), None)
    classic, block = (log, []) if start is None else (log[:start], log[start:])
    at = _cause_line(classic)
    if at is None and not block and not error:
        return None
    title = _BLOCK.match(block[0]) if block else None
    cause = classic[at].strip() if at is not None else title["title"] if title else f"BPF program load failed: {error}"
    end = at if at is not None else len(classic)
    alloc = _ALLOC.search(cause)
    if alloc:
        end = next((n for n, line in enumerate(classic[:end]) if line.startswith(f"{alloc[1]}: (")), end - 1) + 1
    source = next((match for line in reversed(classic[:end]) if (match := _SOURCE.match(line))), None)
    insn = next((match for line in reversed(classic[:end]) if (match := _INSN.match(line))), None)
    file, number, text = (source["file"], int(source["line"]), source["text"]) if source else ("", None, "")
    instruction = f"{insn['number']}: {insn['text']}" if insn else ""
    if block and not alloc:
        file, number, text, instruction = _place(block, (file, number, text, instruction))
    kind, hint = _classify(cause)
    return Rejection(
        program,
        cause,
        file,
        number,
        text,
        instruction,
        kind,
        int(processed["count"]) if processed else None,
        _registers(classic[:end]),
        _section(block, "Suggestion") or hint,
        _section(block, "Reason"),
    )


# The root cause: the last line that is no narration, such as a leak's summary behind the line that names its place.
def _cause_line(lines: list[str]) -> int | None:
    end = next((n for n, line in enumerate(lines) if _PROCESSED.match(line)), len(lines))
    for n in range(end - 1, -1, -1):
        line = lines[n]
        if line.strip() and not _NARRATION.match(line) and not _STATE.match(line):
            return n
    return None


def _classify(cause: str) -> tuple[Kind, str]:
    return next(((kind, hint) for kind, pattern, hint in _CAUSES if pattern.search(cause)), ("verifier", ""))


# What is known of the registers at the end of these lines; only the last ones matter.
def _registers(lines: list[str]) -> tuple[str, ...]:
    known: dict[str, str] = {}
    for line in lines[-200:]:
        insn = _INSN.match(line)
        state = _STATE.match(line)
        text = insn["state"] if insn else state["state"] if state else None
        for match in _REGISTER.finditer(text or ""):
            known[match["name"]] = match["value"]
    return tuple(f"{name}={known[name]}" for name in sorted(known, key=lambda name: int(name[1:])))


# A section of the block of 7.3, its lines joined: a title line, then lines indented by two.
def _section(block: list[str], title: str) -> str:
    start = next((n for n, line in enumerate(block) if line == f"{title}:"), None)
    if start is None:
        return ""
    end = next((n for n in range(start + 1, len(block)) if not block[n].startswith("  ")), len(block))
    return " ".join(line.strip() for line in block[start + 1 : end])


def _place(block: list[str], known: tuple[str, int | None, str, str]) -> tuple[str, int | None, str, str]:
    start = next((n for n, line in enumerate(block) if line == "At:"), None)
    if start is None:
        return known
    end = next((n for n in range(start + 1, len(block)) if not block[n].strip()), len(block))
    file, number, text, instruction = known
    lines = block[start + 1 : end]
    if where := next((match for line in lines if (match := _AT.match(line))), None):
        file, number = where["file"], int(where["line"])
        shown = next((match for line in lines if (match := _AT_TEXT.match(line))), None)
        text = shown["text"].strip() if shown else text
    return file, number, text, instruction
