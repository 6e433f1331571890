# SPDX-License-Identifier: Apache-2.0
"""A bpftrace program on the kernel of a live VM for some seconds, its maps and prints as data.

bpftrace is Debian stable's with its libraries (200 MB, most of it LLVM): a guest with the host's user space runs it
where it lies, another one gets it sent once. bounded.c starts it, so its time counts from when its program is compiled:
0.23 says how many probes there are before it attaches them.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from kernloop.debug.tracers import guest
from kernloop.debug.tracers.bpftrace_output import Output, read
from kernloop.debug.tracers.near import nearest
from kernloop.errors import HarnessError, SubjectError, UsageError
from kernloop.host import bundle, process
from kernloop.vm import client, guest_programs

__all__ = ["BUNDLE", "SCHEMA", "Traced", "program_text", "trace"]

SCHEMA = "kernloop.bpftrace/1"
_HOME = f"{guest.FOLDER}/bpftrace"
BUNDLE = bundle.Bundle("bpftrace", ("bpftrace",), ("usr/bin/bpftrace",), home=_HOME)
_MARK = '"attached_probes"'
# The bundle in memory, and LLVM at work: 0.1 GiB.
_MIB_SENT, _MIB_AT_WORK = 210, 80
# Kinds of probes that name something of the kernel, and the short names that bpftrace has for them.
_FUNCTIONS = ("kprobe", "k", "kretprobe", "kr", "fentry", "f", "fexit", "fr", "kfunc", "kretfunc")
_TRACEPOINTS = ("tracepoint", "t", "rawtracepoint", "rt")
_PROBE = re.compile(rf"(?<![\w@.])({'|'.join((*_FUNCTIONS, *_TRACEPOINTS))})\s*:\s*([\w.:]+)(?![\w.:*?])")
_TEXT = re.compile(r"^[0-9a-f]+ [tTwW] (\S+)", re.MULTILINE)
_LOOK = (
    "[ -e /sys/kernel/btf/vmlinux ] && echo btf; [ -e /sys/kernel/tracing/events ] && echo events;"
    " while read name value unit; do [ $name = MemAvailable: ] && echo $((value / 1024)); done < /proc/meminfo"
)


@dataclass(frozen=True)
class Traced:
    """`stopped` says what ended it: time, asked, itself (its own exit()), killed (it took no notice of its end), or
    guest. `raw` has all that bpftrace printed, `complaints` its warnings."""

    version: str
    stopped: str
    seconds: float
    note: str
    raw: Path
    output: Output
    complaints: tuple[str, ...]

    @property
    def complete(self) -> bool:
        return not self.output.lost and self.stopped not in ("guest", "killed")


def program_text(program: str) -> str:
    """`program` itself, or the text of the file that it names."""
    if not re.fullmatch(r"\S+\.bt", program):
        return program
    try:
        return Path(program).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{program} cannot be read: {error}", hint="name a bpftrace program") from None


def trace(
    vm: client.VM,
    program: str,
    seconds: float,
    *,
    stop: threading.Event | None = None,
    say: Callable[[str], None] = lambda what: None,
) -> Traced:
    """Run `program` in `vm` for `seconds` from when it is compiled, or until `stop` is set.

    Raises SubjectError for a program that bpftrace or this kernel does not take, UsageError for a kernel or VM that
    runs no bpftrace, HarnessError.
    """
    if not program.strip():
        raise UsageError(
            "the program is empty", hint="'tracepoint:sched:sched_switch { @[args.next_comm] = count(); }'"
        )
    stop = stop or threading.Event()
    command = _put(vm, say)
    bounded = guest.put(vm, guest_programs.build("bounded", [Path(__file__).parent / "bounded.c"]))
    say(f"tracing {vm.name} for {seconds:g} s")
    began = time.monotonic()
    done = guest.record(vm, [bounded, f"{seconds:g}", _MARK, *command, "-f", "json", "-e", program], seconds, stop)
    with done.stdout.open(errors="replace") as lines:
        output = read(lines)
    ended = re.search(r"^bounded: (\w+)$", done.stderr, re.MULTILINE)
    complaints = tuple(line for line in done.stderr.splitlines() if line and not line.startswith("bounded: "))
    stopped = ended[1] if ended else "guest"
    # Interrupted while it attaches it exits 255 and says nothing (0.23.2).
    if stopped == "time" and output.attached is not None and done.status and not complaints:
        raise HarnessError(
            f"the time was over before all {output.attached} probes were attached",
            hint=f"give it more: --seconds {max(10, round(4 * seconds))}",
            evidence=done.stdout.parent,
        )
    if stopped not in ("guest", "asked") and (output.attached is None or (done.status and not output.maps)):
        raise _refused(vm, program, complaints, done)
    note = done.note or ("" if output.attached is not None else "it was ended before its probes were attached")
    version = _version()
    return Traced(version, stopped, time.monotonic() - began, note, done.stdout, output, complaints + output.complaints)


# The command of bpftrace in the guest, where it is sent unless the guest sees ours.
def _put(vm: client.VM, say: Callable[[str], None]) -> list[str]:
    look = vm.exec(["sh", "-c", _LOOK], timeout=60).stdout.decode(errors="replace").split()
    if not {"btf", "events"} <= set(look):
        lacks = "has no BTF" if "btf" not in look else "has no trace events"
        raise UsageError(
            f"the kernel of {vm.name} {lacks}",
            hint="kernloop kernel build DIR --fragment ftrace --fragment bpf; debian: kernels have both",
        )
    folder = bundle.get(BUNDLE)
    for place in (str(folder), _HOME):
        if vm.exec(["test", "-x", f"{place}/bpftrace"], timeout=60).status == 0:
            return bundle.command(place, "bpftrace")
    free = int(look[-1]) if look[-1].isdigit() else 0
    if free < _MIB_SENT + _MIB_AT_WORK:
        raise UsageError(
            f"{vm.name} has {free} MiB of memory to spare; bpftrace takes {_MIB_SENT + _MIB_AT_WORK}",
            hint="kernloop vm start --memory 1024",
        )
    say(f"sending bpftrace to {vm.name} ({_MIB_SENT} MB, once)")
    # One that was cut off must not be taken for whole.
    staging = f"{_HOME}.new"
    vm.push(folder, staging)
    moved = vm.exec(["sh", "-c", f"rm -rf {_HOME} && mv {staging} {_HOME}"], timeout=60)
    if moved.status != 0:
        raise HarnessError(f"bpftrace cannot be put into {vm.name}: {moved.summary}", hint="is there room in /run?")
    return bundle.command(_HOME, "bpftrace")


# "bpftrace v0.23.2"
def _version() -> str:
    said = process.run([*bundle.command(bundle.get(BUNDLE), "bpftrace"), "--version"], seconds=60, what="bpftrace")
    return said.stdout.strip().rpartition(" ")[2].lstrip("v")


def _refused(vm: client.VM, program: str, complaints: tuple[str, ...], done: guest.Recorded) -> HarnessError:
    evidence = done.stdout.parent
    if done.status in (126, 127):
        said = complaints[0] if complaints else done.note
        return HarnessError(f"bpftrace does not start in {vm.name}: {said}", evidence=evidence)
    if not complaints:
        # A glob that fits nothing: it says "No probes to attach" on its stdout.
        said = done.stdout.read_text(errors="replace").strip().rpartition("\n")[2]
        hint = "does the glob fit a name? debug ftrace VM --functions GLOB tells"
        return SubjectError(f"bpftrace does not take the program: {said or done.note}", hint=hint, evidence=evidence)
    # "stdin:1:33-40: ERROR: ...", below it the line of the program, with a mark.
    first = next((n for n, line in enumerate(complaints) if "ERROR" in line), 0)
    text = re.sub(r"^stdin:", "", complaints[first])
    named = list(_named(program))
    for kind, name in named:
        names = set(_names(vm, kind))
        bare = name.rpartition(":")[2] if kind in _FUNCTIONS else name
        if names and bare not in names:
            what = f"function {bare} that can be traced" if kind in _FUNCTIONS else f"tracepoint {bare}"
            near = nearest(bare, names)
            hint = f"did you mean {' or '.join(near)}?" if near else "names are in /sys/kernel/tracing of the guest"
            return SubjectError(f"{text}: the kernel of {vm.name} has no {what}", hint=hint, evidence=evidence)
    tracepoint = next((name for kind, name in named if kind in ("tracepoint", "t")), "")
    if "does not contain a field" in text and tracepoint:
        fields = f"/sys/kernel/tracing/events/{tracepoint.replace(':', '/')}/format"
        hint = f"its fields: kernloop vm exec {vm.name} -- cat {fields}"
    else:
        place = _marked(complaints[first + 1 : first + 3])
        hint = f"LINE:COLUMN is in the program{place}; all it said is in the evidence"
    return SubjectError(f"bpftrace does not take the program: {text}", hint=hint, evidence=evidence)


# What bpftrace means: a line of the program, below it ~~~.
def _marked(lines: tuple[str, ...]) -> str:
    mark = re.fullmatch(r" *(~+) *", lines[1]) if len(lines) == 2 else None
    return f", at {lines[0][mark.start(1) : mark.end(1)]!r}" if mark else ""


# Only after a failure, so a probe that stands in a string costs a look at most.
def _named(program: str) -> Iterator[tuple[str, str]]:
    for found in _PROBE.finditer(re.sub(r"//[^\n]*|/\*.*?\*/", " ", program, flags=re.DOTALL)):
        yield found[1], found[2]


def _names(vm: client.VM, kind: str) -> Iterable[str]:
    if kind in _TRACEPOINTS:
        return guest.text_of(vm, "/sys/kernel/tracing/available_events").split()
    traceable = guest.text_of(vm, "/sys/kernel/tracing/available_filter_functions")
    if traceable:
        return [line.split()[0] for line in traceable.splitlines() if line]
    return _TEXT.findall(guest.text_of(vm, "/proc/kallsyms"))
