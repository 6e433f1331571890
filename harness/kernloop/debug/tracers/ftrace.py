# SPDX-License-Identifier: Apache-2.0
"""Functions, their time, and events of a live VM's kernel, by ftrace in an instance of its own.

ftrace.c runs in the guest, as SCHED_FIFO; what the user traces there is left alone, and a child of it takes the
instance away whatever ends it.
"""

from __future__ import annotations

import fnmatch
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kernloop.debug.tracers import guest
from kernloop.debug.tracers.ftrace_lines import Line, Sum, Summary, read
from kernloop.debug.tracers.near import nearest
from kernloop.errors import HarnessError, UsageError
from kernloop.vm import client, guest_programs

__all__ = ["MOST_BYTES", "SCHEMA", "Traced", "trace"]

SCHEMA = "kernloop.ftrace/1"
# A job's output is kept up to 64 MiB (vm/jobs.py).
MOST_BYTES = 60 << 20
_TRACEFS = "/sys/kernel/tracing"
_FRAGMENT = "kernloop kernel build DIR --fragment ftrace; debian: kernels have it"


@dataclass(frozen=True)
class Traced:
    """`raw` has all lines, `lines` the first of them, up to byte `cursor`.

    `stopped` says what ended it: time, asked, size, or guest.
    """

    tracer: str
    raw: Path
    lines: tuple[Line, ...]
    cursor: int
    count: int
    sums: tuple[Sum, ...]
    lost: int
    stopped: str
    note: str

    @property
    def complete(self) -> bool:
        """Whether everything of the time is in it."""
        return not self.lost and self.stopped not in ("guest", "size")


def trace(
    vm: client.VM,
    seconds: float,
    *,
    functions: Sequence[str] = (),
    graph: bool = False,
    tree: Sequence[str] = (),
    events: Sequence[str] = (),
    condition: str = "",
    most: int = MOST_BYTES,
    limit: int = 100,
    stop: threading.Event | None = None,
    say: Callable[[str], None] = lambda what: None,
) -> Traced:
    """Trace `vm` for `seconds`, or until `stop` is set, or `most` bytes are there; `limit` lines come back.

    `functions` are globs, one that begins with ! takes functions out again; with `graph` each call has its time. `tree`
    are functions of which all that they call is shown. `events` are SYSTEM:NAME, NAME or globs of these, each with a
    filter of ftrace's behind a colon if it has one; `condition` is the filter of the others.

    Raises UsageError for what the kernel does not have or take, HarnessError.
    """
    _check(functions, graph, tree, events, condition)
    tracer = "function_graph" if graph or tree else "function" if functions else "nop"
    known = guest.text_of(vm, f"{_TRACEFS}/available_tracers").split()
    if tracer not in known:
        lacks = f"has no tracer {tracer}" if known else "has no ftrace"
        raise UsageError(f"the kernel of {vm.name} {lacks}", hint=_FRAGMENT)
    # A tree begins where its root is traced.
    words = [word for name in (*tree, *functions) if functions for word in ("function", name)]
    words += [word for name in tree for word in ("tree", name)]
    for event, own in _events(vm, events).items():
        words += ["event", event, own or condition]
    program = guest.put(vm, guest_programs.build("ftrace", [Path(__file__).parent / "ftrace.c"]))
    say(f"tracing {vm.name} for {seconds:g} s")
    done = guest.record(
        vm, [program, f"{seconds:g}", str(most), "tracer", tracer, *words], seconds, stop or threading.Event()
    )
    if refused := re.search(r"^refused (\w+) (.*): (.*)$", done.stderr, re.MULTILINE):
        raise _refused(vm, refused, done)
    why = re.search(r"^why (\w+)$", done.stderr, re.MULTILINE)
    lost = re.search(r"^lost (\d+)$", done.stderr, re.MULTILINE)
    first: list[Line] = []
    summary = Summary()
    cursor = at = 0
    with done.stdout.open("rb") as text:
        for raw in text:
            at += len(raw)
            for line in read([raw.decode(errors="replace")]):
                summary.add(line)
                if len(first) < limit:
                    first.append(line)
                    cursor = at
    return Traced(
        tracer,
        done.stdout,
        tuple(first),
        cursor,
        summary.count,
        tuple(summary.sums()),
        int(lost[1]) if lost else summary.lost,
        why[1] if why else "guest",
        done.note,
    )


def _check(functions: Sequence[str], graph: bool, tree: Sequence[str], events: Sequence[str], condition: str) -> None:
    if not functions and not events and not tree:
        raise UsageError("nothing is to be traced", hint="--functions 'vfs_*', or --events sched:sched_switch")
    if graph and not functions:
        raise UsageError("a graph is of functions", hint="--functions GLOB --graph")
    if condition and not events:
        raise UsageError("a filter is of events", hint="--events SYSTEM:NAME --filter EXPR")


# "sched:sched_switch:prev_pid==0" is an event and its filter, and so it is without the system.
def _parted(event: str) -> tuple[str, str]:
    parts = event.split(":")
    at = next((n for n, part in enumerate(parts) if n and re.search(r"[=<>&~]", part)), len(parts))
    return ":".join(parts[:at]), ":".join(parts[at:]).strip()


# SYSTEM/NAME of each event meant, with its own filter.
def _events(vm: client.VM, wanted: Sequence[str]) -> dict[str, str]:
    if not wanted:
        return {}
    known = guest.text_of(vm, f"{_TRACEFS}/available_events").split()
    found: dict[str, str] = {}
    for event in wanted:
        name, own = _parted(event)
        pattern = name.replace("/", ":")
        whole = ":" in pattern
        fitting = [one for one in known if fnmatch.fnmatchcase(one if whole else one.partition(":")[2], pattern)]
        if not fitting:
            near = nearest(pattern, known if whole else {one.partition(":")[2] for one in known})
            raise UsageError(
                f"the kernel of {vm.name} has no event {name}",
                hint=guest.nearest_hint(near) or f"kernloop vm exec {vm.name} -- cat {_TRACEFS}/available_events",
            )
        found |= dict.fromkeys((one.replace(":", "/", 1) for one in fitting), own)
    return found


def _refused(vm: client.VM, refused: re.Match[str], done: guest.Recorded) -> HarnessError:
    what, name, error = refused.groups()
    evidence = done.stdout.parent
    if what == "function":
        names = {
            line.split()[0] for line in guest.text_of(vm, f"{_TRACEFS}/available_filter_functions").splitlines() if line
        }
        return UsageError(
            f"the kernel of {vm.name} has no function {name} that can be traced",
            hint=guest.nearest_hint(nearest(name.lstrip("!"), names)) or "inlined functions and notrace ones cannot be",
            evidence=evidence,
        )
    if what == "filter":
        # The filter's own file says it: "parse_error: Field not found", or only "Error: (0)".
        said = re.findall(r"^(?:parse_error: |Error: \(0\))(.*)$", done.stderr, re.MULTILINE)
        fields = f"kernloop vm exec {vm.name} -- cat {_TRACEFS}/events/{name}/format"
        return UsageError(
            f"{name} does not take the filter: {said[-1] if said and said[-1] else 'syntax error'}",
            hint=f"its fields: {fields}",
            evidence=evidence,
        )
    hint = "end the other one" if re.search("another recording|in use", name) else _FRAGMENT
    return HarnessError(f"the kernel of {vm.name} refuses {what} {name}: {error}", hint=hint, evidence=evidence)
