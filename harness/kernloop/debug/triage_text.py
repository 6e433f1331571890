# SPDX-License-Identifier: Apache-2.0
"""`debug triage` as text for an agent: the weightiest first, and no more than some 1,500 tokens of it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kernloop.debug.triage import Triage

if TYPE_CHECKING:
    from kernloop.debug.memory_facts import CpuSeen, Memory
    from kernloop.debug.whyhung import Finding
    from kernloop.debug.whyoops import Pointed
    from kernloop.sched.live.model import Seen

__all__ = ["BUDGET", "lines", "weight"]

# Tokens as `weight` has them, which is within some percent of what a tokenizer makes of such text.
BUDGET = 1380
_WIDEST = 170
# Letters a token that a line has at least; else it is shortened further.
_DENSEST = 2
_PIECES = re.compile(r"[A-Za-z]+|\d+|[^\sA-Za-z\d]|\s(?=\d)")
_FRAMES_OF_REPORT = 10
# What a log says beside words: the registers and code of a report that is told elsewhere.
_FRAME = re.compile(r"^\s*[\w.]+\+0x[0-9a-f]+/0x|\(inlined\)$")
_NOISE = re.compile(
    r"\] (?:Code: |R[A-Z0-9]{1,2}: |[FCDE]S: |CR\d: |PKRU: |ORIG_RAX|RSP: |Modules linked in|---\[|"
    r"Run \S+ as init| *with (?:argum|environm)ents?:|  +\S+$|Freeing unused|Write protecting)"
)


@dataclass(frozen=True)
class _Section:
    """`least` lines are shown whatever the others say; the rest as far as there is room, in the order of sections. With
    `backwards` the last line is the weightiest."""

    title: str
    lines: tuple[str, ...]
    least: int
    most: int
    rest: str = "--json"
    backwards: bool = False


def lines(found: Triage) -> list[str]:
    """The lines; what is left out is told, with where it is."""
    sections = [one for one in _sections(found) if one.lines]
    shown = [min(one.least, len(one.lines)) for one in sections]
    room = BUDGET - sum(_weight_of(one, count) for one, count in zip(sections, shown, strict=True))
    # Lines that are mostly digits and signs: the least of what weighs least is too much.
    for place in reversed(range(len(sections))):
        while room < 0 and sections[place].title and shown[place] > 1:
            shown[place] -= 1
            room += weight(sections[place].lines[shown[place]])
    for place, one in enumerate(sections):
        while shown[place] < min(one.most, len(one.lines)):
            cost = weight(one.lines[shown[place]])
            if cost > room:
                break
            room -= cost
            shown[place] += 1
    text: list[str] = []
    for one, count in zip(sections, shown, strict=True):
        text += [one.title] if one.title else []
        kept = reversed(one.lines[:count]) if one.backwards else one.lines[:count]
        left = len(one.lines) - count
        more = [f"  ... {left} {'before' if one.backwards else 'more'}: {one.rest}"] if left else []
        text += more if one.backwards else []
        text += [f"  {line}" if one.title else line for line in kept]
        text += [] if one.backwards else more
    return text


def weight(text: str) -> int:
    """About how many tokens: words in pieces of some letters, numbers in pieces of three digits, signs one each, and
    the space before a number as well."""
    total = 1
    for piece in _PIECES.findall(text):
        total += -(-len(piece) // 6) if piece.isalpha() else -(-len(piece) // 3)
    return total


def _weight_of(one: _Section, count: int) -> int:
    return weight(one.title) + sum(map(weight, one.lines[:count])) + 8 * (count < len(one.lines))


def _sections(found: Triage) -> Iterator[_Section]:
    memory = found.memory
    yield _Section("", tuple(_clip(line, 400) for line in _head(found)), 8, 8)
    hung = found.crash is None or found.crash.family == "hang" or found.verdict in ("hang", "boot-hang")
    report = _Section("Report", tuple(_cut(_report(found))), 3, 16, "kernloop report " + found.subject.name)
    if not hung:
        yield report
    if memory:
        yield from _of_memory(memory, found, hung=hung)
    elif found.hang:
        yield _Section("Hang, by the console", tuple(_cut(_hang(found))), 4, 14)
    if hung:
        yield report
    if memory:
        yield _Section("sched_ext", tuple(_cut(_scheduler(memory))), 1, 8)
        told = _quiet(memory.dmesg)
        yield _Section("Log", told, 4, 12, "kernloop debug drgn VMCORE -e 'dmesg()'", backwards=True)
        yield _Section("Not read", tuple(_cut(memory.problems)), 1, 3)
    elif found.log_tail:
        told = _quiet(found.log_tail)
        rest = f"kernloop runs show {found.subject.name} --console"
        yield _Section("Console", told, 4, 14, rest, backwards=True)
    if found.no_memory:
        yield _Section("", (_clip(found.no_memory),), 1, 1)
    if found.next:
        yield _Section("", (_clip(f"next: {found.next}", 400),), 1, 1)


def _head(found: Triage) -> Iterator[str]:
    memory, crash = found.memory, found.crash
    if found.verdict in ("", "unknown"):
        state = f"the VM is {memory.state}: " if memory and memory.state != "dump" else ""
        yield state + (crash.title if crash else "no crash on its console")
    else:
        yield f"{found.verdict}: {found.summary}"
    facts = [found.kernel] if found.kernel else []
    if memory:
        size = f" ({memory.bytes >> 20} MiB)" if memory.bytes is not None else ""
        facts += [f"{memory.tasks} tasks, types by {memory.types.upper()}", f"memory{size} {memory.source}"]
    if facts:
        yield "; ".join(facts)


def _report(found: Triage) -> Iterator[str]:
    crash = found.crash
    if crash is None:
        return
    where = f" in {crash.function}" if crash.function and crash.function not in crash.title else ""
    yield f"{crash.title}{where} (kind {crash.kind})" if crash.title not in found.summary else f"kind {crash.kind}"
    if crash.message and crash.message not in crash.title and crash.message not in found.summary:
        yield crash.message
    task = f"{crash.comm}[{crash.pid}]" if crash.comm else ""
    facts = [f"task {task}" if task else "", f"CPU {crash.cpu}" if crash.cpu is not None else "", crash.tainted]
    yield ", ".join([one for one in facts if one] + [f"console lines {crash.start_line} to {crash.end_line}"])
    if crash.corrupted:
        yield f"the report is damaged: {crash.corrupted}"
    if ended := found.scx:
        for name in ("scheduler", "message", "cause", "placement"):
            if said := getattr(ended, name):
                yield f"{name}: {said}"
    elif found.trace:
        elsewhere = _by_memory(found)
        yield from (line for line in found.trace[:_FRAMES_OF_REPORT] if not (elsewhere and _FRAME.search(line)))
    elif not found.memory:
        names = [frame.function for frame in crash.frames if frame.reliable]
        first = names.index(crash.function) if crash.function in names else 0
        yield " < ".join(names[first : first + _FRAMES_OF_REPORT])
    if found.reports > 1:
        yield f"{found.reports - 1} more reports: kernloop report {found.subject.name} --all"


# Whether the task to blame is told with its stack, so that the report's need not be.
def _by_memory(found: Triage) -> bool:
    memory, crash = found.memory, found.crash
    return bool(memory and memory.suspect and crash and memory.suspect.task == f"{crash.comm}[{crash.pid}]")


def _finding(one: Finding) -> str:
    kind = "" if one.text.startswith(one.kind) else f"{one.kind}: "
    if one.kind == "scheduler-stall" and one.holder:
        kind = f"{one.kind} by {one.holder}: "
    return f"{kind}{'' if one.sure else '(likely) '}{one.text}"


def _of_memory(memory: Memory, found: Triage, *, hung: bool) -> Iterator[_Section]:
    # Of a crash only: somebody always sleeps for a moment.
    findings = [_finding(one) for one in memory.findings if hung or one.kind != "blocked"]
    told = tuple(_clip(one, 260) for one in findings)
    why = _Section("Why it hangs", told, 2, 6) if hung else _Section("Who waits", told, 1, 6)
    if hung:
        yield why
    if one := memory.suspect:
        place = f"on CPU {one.cpu}" if one.cpu is not None else f"state {one.state}"
        reason = "" if one.why in {each.text for each in memory.findings} else f": {one.why}"
        role = "Task that waits" if one.waits else "Task to blame"
        title = f"{role}{'' if one.sure else ' (likely)'}: {one.task}, {place}{reason}"
        calls = one.calls or ("in user space",)
        # The report's lines have what was inlined.
        if _by_memory(found) and (lines_ := tuple(line for line in found.trace if _FRAME.search(line))):
            calls = lines_
        yield _Section(_clip(title), tuple(_cut(_stack(calls, one.whole))), 5, 14)
    pointers = sorted(memory.pointers, key=_telling)
    values = [f"{one.register} {one.value:#x}: {one.what}" for one in pointers]
    yield _Section("Registers point to", tuple(_cut(values)), 3, 6, "kernloop debug why-oops")
    if not hung:
        yield why
    held = [f"{one.who} holds {one}{'' if one.sure else ' (perhaps)'}: {one.how}" for one in memory.held]
    yield _Section("Locks held", tuple(_cut(held or ["none found of the tasks on CPUs and of those named here"])), 2, 8)
    blamed = memory.suspect.task if memory.suspect else ""
    cpus = tuple(_cut(line for cpu in memory.cpus for line in _cpu(cpu, blamed)))
    yield _Section("CPUs", cpus, min(len(memory.cpus), 4), 12)


# What is no more than an address last, and what was freed first.
def _telling(one: Pointed) -> int:
    if any(word in one.what for word in ("free", "poison", "LIST_", "never written")):
        return 0
    words = ("object of", "not mapped", "variable", "user space", "stack of", "code of", "not canonical", "memory")
    return next((place for place, word in enumerate(words, 1) if word in one.what), 1)


def _cpu(cpu: CpuSeen, blamed: str) -> Iterator[str]:
    if cpu.idle:
        yield f"{cpu.cpu}: idle"
        return
    words = [f"{cpu.cpu}: {cpu.task}"]
    words += [f"has it for {cpu.ran:.1f} s"] if cpu.ran is not None and cpu.ran >= 1 else []
    words += ["interrupts off"] if cpu.interrupts is False else []
    words += ["stopped by the panic"] if cpu.stopped else []
    where = "in user space" if cpu.user else " < ".join(cpu.calls[:8])
    if cpu.task == blamed and not cpu.user:
        where = "as above"
    yield f"{', '.join(words)}; {where}"


def _stack(calls: Sequence[str], whole: bool) -> Iterator[str]:
    yield from calls
    if not whole:
        yield "(the stack could not be followed further)"


def _scheduler(memory: Memory) -> Iterator[str]:
    if memory.sched_summary:
        yield memory.sched_summary
    if memory.sched:
        yield from _waiting(memory.sched)


def _waiting(seen: Seen) -> Iterator[str]:
    for task in seen.off_queue[:4]:
        yield f"{task.comm}[{task.pid}] runnable for {task.waiting:.1f} s on no DSQ, held by {task.held or 'nobody'}"
    for queue in sorted(seen.queues, key=lambda one: -one.count)[:3]:
        if queue.count:
            first = queue.tasks[0] if queue.tasks else None
            who = f", first {first.comm}[{first.pid}] for {first.waiting or 0:.1f} s" if first else ""
            yield f"{queue.kind} DSQ {queue.name or queue.id}: {queue.count} tasks{who}"


def _hang(found: Triage) -> Iterator[str]:
    hang = found.hang
    assert hang is not None
    if hang.summary not in found.summary:
        yield hang.summary
    for cpu in hang.cpus:
        off = ", interrupts off" if cpu.irqs_off else ""
        who = f" {cpu.comm}[{cpu.pid}]" if cpu.pid is not None else ""
        yield f"CPU {cpu.cpu}: {cpu.state}{who}{off} {' < '.join(cpu.frames[:6]) or cpu.at or ''}".rstrip()
    for task in hang.blocked:
        yield f"{task.comm}[{task.pid}] in state {task.state}: {' < '.join(task.frames[:6])}"
    for lock in hang.held:
        yield f"{lock.comm}[{lock.pid}] holds {lock.name}"


def _quiet(log: Sequence[str]) -> tuple[str, ...]:
    return tuple(_cut(line for line in reversed(log) if not _NOISE.search(line)))


def _cut(texts: Iterable[str]) -> Iterator[str]:
    return (_clip(text) for text in texts)


def _clip(text: str, most: int = _WIDEST) -> str:
    flat = " ".join(text.split())
    kept = flat[:most]
    while weight(kept) > most // _DENSEST:
        kept = kept[: len(kept) * 7 // 8]
    return flat if kept == flat else kept[:-3] + "..."
