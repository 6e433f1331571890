# SPDX-License-Identifier: Apache-2.0
"""Scheduling of a live VM recorded for some seconds, written as a Perfetto trace, and measured.

scxtrace.c runs in the guest, as a command of the agent: the kernel must be able to start that one. From then on it is
SCHED_FIFO, so a scheduler that starves its tasks is recorded doing so.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kernloop.debug.tracers import guest
from kernloop.errors import HarnessError, UsageError
from kernloop.sched.trace import latency, ringbuffer
from kernloop.sched.trace.latency import Measured, Meter
from kernloop.sched.trace.stream import Stream, index
from kernloop.vm import client, guest_programs

__all__ = ["MOST_BYTES", "SCHEMA", "Recording", "convert", "program", "record"]

SCHEMA = "kernloop.sched-trace/1"
# A job's output is kept up to 64 MiB (vm/jobs.py).
MOST_BYTES = 60 << 20
_EVENTS = tuple(name for name in ringbuffer.FIELDS if name.startswith("sched_"))
_TASK = "pid=p->pid:s32"
# A task that is put into a queue is on the CPU of that local queue already. Names of 7.x first, then of 6.12 to 6.18
# (kernel/sched/ext.c); where move_local_task_to_local_dsq() is inlined the way into the local queue is not seen.
_PROBES = {
    "dsq_insert": (
        f"scx_dispatch_enqueue {_TASK} dsq=dsq->id:u64 cpu=p->thread_info.cpu:u32 flags=enq_flags:u64",
        f"dispatch_enqueue {_TASK} dsq=dsq->id:u64 cpu=p->thread_info.cpu:u32 flags=enq_flags:u64",
    ),
    "dsq_leave": (
        f"scx_task_unlink_from_dsq {_TASK} dsq=dsq->id:u64 cpu=p->thread_info.cpu:u32",
        f"task_unlink_from_dsq {_TASK} dsq=dsq->id:u64 cpu=p->thread_info.cpu:u32",
    ),
    "dsq_local": (
        f"scx_move_local_task_to_local_dsq {_TASK} cpu=dst_rq->cpu:s32",
        f"move_local_task_to_local_dsq {_TASK} cpu=dst_rq->cpu:s32",
    ),
}


@dataclass(frozen=True)
class Recording:
    """`path` is the trace, `raw` what the guest sent. `stopped` says what ended it: time, asked, size, or guest.

    `queues` are the kinds of moves that could be recorded, `why` has the kernel's word on the others. `missed` are hits
    of probes that the kernel did not take.
    """

    path: Path
    raw: Path
    scheduler: str
    states: tuple[str, str]
    stopped: str
    note: str
    queues: tuple[str, ...]
    why: str
    missed: int
    measured: Measured

    @property
    def complete(self) -> bool:
        """Whether every event of the time is in it."""
        return not (self.measured.lost or self.measured.gaps or self.missed) and self.stopped != "guest"


def record(
    vm: client.VM,
    seconds: float,
    *,
    out: Path | None = None,
    task: str = "",
    most: int = MOST_BYTES,
    stop: threading.Event | None = None,
    say: Callable[[str], None] = lambda what: None,
) -> Recording:
    """Record `vm` for `seconds`, or until `stop` is set, or `most` bytes could be reached; write the trace to `out`.

    `task`, a regular expression of names, limits figures and queue moves. Raises HarnessError, UsageError.
    """
    shown = _shown(task)
    path = out or vm.run / f"sched-{time.strftime('%H%M%S')}.pftrace"
    if not path.absolute().parent.is_dir():
        raise UsageError(f"there is no folder {path.absolute().parent}", hint="make it first, or give another --out")
    stop = stop or threading.Event()
    program_there = guest.put(vm, program())
    say(f"recording {seconds:g} s of {vm.name}")
    done = guest.record(vm, [program_there, f"{seconds:g}", str(most), *_words()], seconds, stop)
    raw, said, note = done.stdout, done.stderr.strip(), done.note
    stream = index(raw)
    if not stream.texts:
        last = said.splitlines()[-1] if said else note
        raise HarnessError(
            f"nothing could be recorded: {last}",
            hint="the kernel needs ftrace: kernloop kernel build DIR --fragment ftrace"
            if done.status
            else "kernloop vm list",
            evidence=raw.parent,
        )
    say("writing the trace")
    return convert(stream, path, said=said, note=note, shown=shown)


def convert(
    stream: Stream,
    path: Path,
    *,
    said: str = "",
    note: str = "",
    shown: Callable[[str], bool] = lambda name: True,
) -> Recording:
    """The trace of what was sent, and its figures."""
    from kernloop.sched.trace import perfetto  # the schema takes a tenth of a second to import

    there = latency.tasks(stream.text("tasks"))
    begin, end = (_clock(stream, when) for when in ("begin", "end"))
    meter = Meter(begin, there)
    scheduler = stream.text("begin/root/ops").strip() or stream.text("end/root/ops").strip()
    perfetto.write(path, stream, ringbuffer.events(stream), meter, there, scheduler=scheduler, shown=shown)
    measured = meter.finish(end)
    kept = tuple(one for one in measured.tasks if shown(one.comm))
    recorded = {found.name for found in ringbuffer.formats(stream).values()}
    return Recording(
        path,
        stream.path,
        scheduler,
        (stream.text("begin/state").strip(), stream.text("end/state").strip()),
        stream.text("why") if stream.whole else "guest",
        note,
        tuple(name for name in _PROBES if name in recorded),
        "; ".join(line for line in said.splitlines() if line.startswith("probe "))[:500],
        _missed(stream.text("kprobe_profile")),
        Measured(**{**vars(measured), "tasks": kept}),
    )


def program() -> Path:
    """scxtrace, built for guests."""
    return guest_programs.build("scxtrace", [Path(__file__).parent / "scxtrace.c"])


def _shown(task: str) -> Callable[[str], bool]:
    try:
        wanted = re.compile(task)
    except re.error as error:
        raise UsageError(f"{task!r} is no regular expression: {error}", hint="escape ( [ * with a backslash") from None
    return lambda name: wanted.search(name) is not None


def _words() -> list[str]:
    words = [word for name in _EVENTS for word in ("event", f"sched/{name}")]
    for name, candidates in _PROBES.items():
        words += [word for one in candidates for word in ("probe", name, f"p:kernloop/{name} {one}")]
    return words


# "now ts:   427.563100" of per_cpu/cpu0/stats, in nanoseconds.
def _clock(stream: Stream, prefix: str) -> int | None:
    found = re.search(r"^now ts:\s*(\d+)\.(\d{6})", stream.text(f"{prefix}/0"), re.MULTILINE)
    return int(found[1]) * 10**9 + int(found[2]) * 1000 if found else None


# Lines of kprobe_profile: name, hits, misses.
def _missed(profile: str) -> int:
    rows = [line.split() for line in profile.splitlines()]
    return sum(int(row[2]) for row in rows if len(row) == 3 and row[0] in _PROBES and row[2].isdigit())
