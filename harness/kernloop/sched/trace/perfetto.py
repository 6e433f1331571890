# SPDX-License-Identifier: Apache-2.0
"""A recording as Perfetto reads it: the scheduler's events as the ftrace events that they are, so that its tracks of
CPUs and threads are its own; dispatch queues beside them.

Each insertion into a queue is an instant on its task's track, with an arrow from the insertion before it if the task
has not run since; how many tasks lie in a queue is a counter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as pb

from kernloop.sched.trace.latency import Meter, Task, dsq_name
from kernloop.sched.trace.ringbuffer import LOST, Event
from kernloop.sched.trace.stream import Stream

__all__ = ["write"]

_FTRACE, _TRACKS = 1, 2  # packet sequences
_BUNDLE = 512
_QUEUES = 1  # the uuid of the tracks' parent; queues are counted from the next on, threads lie far above
_THREADS = 1 << 32
_LOCAL = 0x8000000000000002


def write(
    path: Path,
    stream: Stream,
    events: Iterable[Event],
    meter: Meter,
    there: Iterable[Task],
    *,
    scheduler: str,
    shown: Callable[[str], bool],
) -> None:
    """Write `events` to `path`, and feed each to `meter`. Tasks whose name `shown` is for have their moves drawn."""
    with path.open("wb") as file:
        writer = _Writer(file, meter, {task.pid: task for task in there}, scheduler, shown)
        writer.head(stream)
        for event in events:
            meter.feed(event)
            writer.event(event)
        writer.finish(stream)


class _Writer:
    def __init__(
        self, file: BinaryIO, meter: Meter, there: dict[int, Task], scheduler: str, shown: Callable[[str], bool]
    ) -> None:
        self._file = file
        self._meter = meter
        self._there = there
        self._names = {pid: task.comm for pid, task in there.items()}
        self._scheduler = scheduler
        self._shown = shown
        self._bundles: dict[int, Any] = {}
        self._queues: dict[str, int] = {}
        self._threads: set[int] = set()
        self._flows: dict[int, int] = {}
        self._flow = 0

    def head(self, stream: Stream) -> None:
        name, release, version, machine, *_ = [*stream.text("uname").split("\n"), "", "", "", ""]
        packet = self._packet(_FTRACE)
        uname = packet.system_info.utsname
        uname.sysname, uname.release, uname.version, uname.machine = name, release, version, machine
        self._put(packet)
        packet = self._packet(_FTRACE)
        tree = packet.process_tree
        for task in sorted(self._there.values(), key=lambda one: one.pid):
            if task.pid == task.tgid:
                process = tree.processes.add()
                process.pid, process.cmdline[:] = task.pid, [task.comm]
            else:
                thread = tree.threads.add()
                thread.tid, thread.tgid, thread.name = task.pid, task.tgid, task.comm
        self._put(packet)
        # Whoever reads the tracks' sequence begins here.
        packet = self._packet(_TRACKS)
        packet.sequence_flags = pb.TracePacket.SEQ_INCREMENTAL_STATE_CLEARED
        packet.track_descriptor.uuid = _QUEUES
        packet.track_descriptor.name = f"dispatch queues of {self._scheduler or 'sched_ext'}"
        self._put(packet)

    def event(self, event: Event) -> None:
        bundle = self._bundles.get(event.cpu)
        if bundle is None or len(bundle.ftrace_events.event) >= _BUNDLE or event.kind == LOST:
            self._flush(event.cpu)
            bundle = self._bundles[event.cpu] = self._packet(_FTRACE)
            bundle.ftrace_events.cpu = event.cpu
        values = event.values
        match event.kind:
            case "lost":
                bundle.ftrace_events.lost_events = True
            case "sched_switch":
                found = self._ftrace(bundle, event).sched_switch
                found.prev_comm, found.prev_pid, found.prev_prio, found.prev_state = values[:4]
                found.next_comm, found.next_pid, found.next_prio = values[4:]
                self._names[values[5]] = values[4]
                self._flows.pop(values[5], None)
            case "sched_waking" | "sched_wakeup" | "sched_wakeup_new":
                found = getattr(self._ftrace(bundle, event), event.kind)
                found.comm, found.pid, found.prio, found.target_cpu = values
                self._names[values[1]] = values[0]
            case "sched_migrate_task":
                found = self._ftrace(bundle, event).sched_migrate_task
                found.pid, found.orig_cpu, found.dest_cpu = values
                found.comm = self._names.get(values[0], "")
            case "sched_process_fork":
                found = self._ftrace(bundle, event).sched_process_fork
                found.parent_pid, found.child_comm, found.child_pid = values
                self._names[values[2]] = values[1]
            case "sched_process_exit":
                found = self._ftrace(bundle, event).sched_process_exit
                found.comm, found.pid, found.prio = values
            case "dsq_insert":
                self._inserted(event, values[0], dsq_name(values[1], values[2]))
            case "dsq_local":
                self._inserted(event, values[0], dsq_name(_LOCAL, values[1]))
            case "dsq_leave":
                self._count(event.ts, dsq_name(values[1], values[2]))

    def finish(self, stream: Stream) -> None:
        for cpu in list(self._bundles):
            self._flush(cpu)
        # Perfetto warns of lost events by these.
        for phase, prefix in ((pb.FtraceStats.START_OF_TRACE, "begin"), (pb.FtraceStats.END_OF_TRACE, "end")):
            packet = self._packet(_FTRACE)
            packet.ftrace_stats.phase = phase
            for cpu, stats in cpu_stats(stream, prefix):
                found = packet.ftrace_stats.cpu_stats.add()
                found.cpu = cpu
                found.entries = stats.get("entries", 0)
                found.overrun = stats.get("overrun", 0)
                found.commit_overrun = stats.get("commit overrun", 0)
                found.dropped_events = stats.get("dropped events", 0)
            self._put(packet)

    def _ftrace(self, bundle: Any, event: Event) -> Any:
        found = bundle.ftrace_events.event.add()
        found.timestamp, found.pid = event.ts, event.pid
        return found

    def _inserted(self, event: Event, pid: int, queue: str) -> None:
        self._count(event.ts, queue)
        name = self._names.get(pid, "")
        if not self._shown(name):
            return
        self._thread(pid, name)
        packet = self._packet(_TRACKS)
        packet.timestamp = event.ts
        found = packet.track_event
        found.type = pb.TrackEvent.TYPE_INSTANT
        found.track_uuid = _THREADS + pid
        found.name = f"to DSQ {queue}"
        found.categories.append("sched_ext")
        if pid in self._flows:
            found.terminating_flow_ids.append(self._flows[pid])
        self._flow += 1
        self._flows[pid] = self._flow
        found.flow_ids.append(self._flow)
        note = found.debug_annotations.add()
        note.name, note.uint_value = "by CPU", event.cpu
        if event.kind == "dsq_insert":
            note = found.debug_annotations.add()
            note.name, note.uint_value = "enq_flags", event.values[3]
        self._put(packet)

    def _count(self, ts: int, queue: str) -> None:
        if queue not in self._queues:
            self._queues[queue] = _QUEUES + 1 + len(self._queues)
            packet = self._packet(_TRACKS)
            track = packet.track_descriptor
            track.uuid, track.parent_uuid, track.name = self._queues[queue], _QUEUES, f"DSQ {queue}: tasks"
            track.counter.unit = pb.CounterDescriptor.UNIT_COUNT
            self._put(packet)
        packet = self._packet(_TRACKS)
        packet.timestamp = ts
        packet.track_event.type = pb.TrackEvent.TYPE_COUNTER
        packet.track_event.track_uuid = self._queues[queue]
        packet.track_event.counter_value = self._meter.queue_depth(queue)
        self._put(packet)

    def _thread(self, pid: int, name: str) -> None:
        if pid in self._threads:
            return
        self._threads.add(pid)
        packet = self._packet(_TRACKS)
        track = packet.track_descriptor
        track.uuid = _THREADS + pid
        task = self._there.get(pid)
        track.thread.pid, track.thread.tid, track.thread.thread_name = task.tgid if task else pid, pid, name
        self._put(packet)

    def _flush(self, cpu: int) -> None:
        packet = self._bundles.pop(cpu, None)
        if packet is not None and (packet.ftrace_events.event or packet.ftrace_events.lost_events):
            self._put(packet)

    def _packet(self, sequence: int) -> Any:
        packet = pb.TracePacket()
        packet.trusted_packet_sequence_id = sequence
        return packet

    # Serialized traces may be put behind each other: protobuf's repeated fields add up.
    def _put(self, packet: Any) -> None:
        self._file.write(pb.Trace(packet=[packet]).SerializeToString())


def cpu_stats(stream: Stream, prefix: str) -> Iterator[tuple[int, dict[str, int]]]:
    """What per_cpu/cpuN/stats said, whole numbers only, when the recording began or ended."""
    for cpu in range(1 << 16):
        text = stream.text(f"{prefix}/{cpu}")
        if not text:
            return
        pairs = [line.partition(":") for line in text.splitlines()]
        yield cpu, {name.strip(): int(value) for name, _, value in pairs if value.strip().isdigit()}
