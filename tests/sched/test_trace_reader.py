# SPDX-License-Identifier: Apache-2.0
"""A recording of fifo.bpf.c in a guest of 7.3.4 (fixtures/sched_trace), read, measured, and written for Perfetto."""

from __future__ import annotations

import gzip
import struct
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as pb

from kernloop.errors import HarnessError, UsageError
from kernloop.sched.trace import record, ringbuffer
from kernloop.sched.trace.ringbuffer import FIELDS, LOST, Event, Layout
from kernloop.sched.trace.stream import Stream, index

FIXTURE = Path(__file__).parents[1] / "fixtures/sched_trace/fifo-7.3.4.raw.gz"
DATA = gzip.decompress(FIXTURE.read_bytes())


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recording") / "stdout"
    path.write_bytes(DATA)
    return path


@pytest.fixture(scope="module")
def stream(raw: Path) -> Stream:
    return index(raw)


@pytest.fixture(scope="module")
def trace(stream: Stream, tmp_path_factory: pytest.TempPathFactory) -> pb.Trace:
    path = tmp_path_factory.mktemp("trace") / "a.pftrace"
    record.convert(stream, path)
    return pb.Trace.FromString(path.read_bytes())


def test_the_events_come_in_the_order_of_their_time(stream: Stream) -> None:
    found = list(ringbuffer.events(stream))
    assert [event.ts for event in found] == sorted(event.ts for event in found)
    kinds = Counter(event.kind for event in found)
    assert set(kinds) <= set(FIELDS)
    assert {"sched_switch", "sched_waking", "sched_migrate_task", "dsq_insert", "dsq_leave", "dsq_local"} <= set(kinds)


def test_who_leaves_a_cpu_is_who_came_to_it(stream: Stream) -> None:
    """A field read at a wrong place would break this chain at once."""
    runs: dict[int, int] = {}
    for event in ringbuffer.events(stream):
        if event.kind == "sched_switch":
            assert runs.setdefault(event.cpu, event.values[1]) == event.values[1] == event.pid
            runs[event.cpu] = event.values[5]


def test_fifo_takes_from_its_one_queue_what_it_puts_there(stream: Stream, tmp_path: Path) -> None:
    found = record.convert(stream, tmp_path / "a.pftrace")
    queues = {one.name: one for one in found.measured.dsqs}
    assert set(queues) == {"0x0", "local 0", "local 1"}
    assert queues["0x0"].stay.count <= queues["0x0"].inserts <= queues["0x0"].stay.count + queues["0x0"].depth
    assert found.scheduler == "fifo"
    assert found.states == ("enabled", "enabled")
    assert found.complete
    assert found.stopped == "time"
    assert {task.comm for task in found.measured.tasks} >= {"sh", "init"}


def test_no_cpu_is_busy_for_longer_than_the_recording(stream: Stream, tmp_path: Path) -> None:
    measured = record.convert(stream, tmp_path / "a.pftrace").measured
    length = measured.end - measured.begin
    assert 0.4e9 < length < 0.6e9
    assert all(0.9 * length < cpu.busy <= length for cpu in measured.cpus), "three hogs on two CPUs"
    ran = sum(task.ran for task in measured.tasks)
    assert ran == pytest.approx(sum(cpu.busy for cpu in measured.cpus), rel=0.01)
    delays = [task.delay.max for task in measured.tasks]
    assert delays == sorted(delays, reverse=True)


def test_perfetto_gets_every_event_as_the_kernel_told_it(stream: Stream, trace: pb.Trace) -> None:
    wanted = Counter(event.kind for event in ringbuffer.events(stream) if event.kind.startswith("sched_"))
    bundles = [packet.ftrace_events for packet in trace.packet if packet.HasField("ftrace_events")]
    found = Counter(event.WhichOneof("event") for bundle in bundles for event in bundle.event)
    assert found == wanted
    for cpu in {bundle.cpu for bundle in bundles}:
        times = [event.timestamp for bundle in bundles if bundle.cpu == cpu for event in bundle.event]
        assert times == sorted(times)


def test_perfetto_knows_the_kernel_the_tasks_and_the_queues(trace: pb.Trace) -> None:
    [system] = [packet.system_info for packet in trace.packet if packet.HasField("system_info")]
    assert system.utsname.release.startswith("7.3.4")
    [tree] = [packet.process_tree for packet in trace.packet if packet.HasField("process_tree")]
    assert any(process.pid == 1 and process.cmdline[0] == "init" for process in tree.processes)
    tracks = {p.track_descriptor.uuid: p.track_descriptor for p in trace.packet if p.HasField("track_descriptor")}
    names = {track.name for track in tracks.values()}
    assert {"dispatch queues of fifo", "DSQ 0x0: tasks", "DSQ local 0: tasks"} <= names
    used = {p.track_event.track_uuid for p in trace.packet if p.HasField("track_event")}
    assert used <= set(tracks), "an event without its track is not shown"
    assert all(track.parent_uuid in tracks for track in tracks.values() if track.parent_uuid)


def test_the_moves_of_a_task_hang_together_by_arrows(trace: pb.Trace) -> None:
    moves = [packet.track_event for packet in trace.packet if packet.track_event.name.startswith("to DSQ")]
    began = {flow for move in moves for flow in move.flow_ids}
    ended = [flow for move in moves for flow in move.terminating_flow_ids]
    assert ended
    assert set(ended) <= began
    assert len(ended) == len(set(ended))


def test_only_the_tasks_that_were_asked_for(stream: Stream, tmp_path: Path) -> None:
    found = record.convert(stream, tmp_path / "a.pftrace", shown=lambda name: name == "usleep")
    assert {task.comm for task in found.measured.tasks} == {"usleep"}
    assert len(found.measured.cpus) == 2


@pytest.mark.parametrize("length", [len(DATA) // 2, len(DATA) // 3, 20_000])
def test_a_recording_that_its_guest_did_not_survive_is_read_as_far_as_it_goes(tmp_path: Path, length: int) -> None:
    (tmp_path / "stdout").write_bytes(DATA[:length])
    found = record.convert(index(tmp_path / "stdout"), tmp_path / "a.pftrace")
    assert found.stopped == "guest"
    assert not found.complete
    assert pb.Trace.FromString((tmp_path / "a.pftrace").read_bytes()).packet


def test_events_that_the_ring_lost_are_told(stream: Stream) -> None:
    known, how = ringbuffer.formats(stream), ringbuffer.layout(stream.text("header_page"))
    page = bytearray(next(stream.open_pages(0)))
    (commit,) = struct.unpack_from("<Q", page, 8)
    struct.pack_into("<Q", page, 8, commit | 1 << 31 | 1 << 30)
    end = how.data + commit
    counted = bytes(page[:end]) + struct.pack("<Q", 1234)
    first, *rest = ringbuffer.page_events(counted, 0, how, known)
    assert (first.kind, first.values) == (LOST, (1234,))
    assert rest == list(ringbuffer.page_events(next(stream.open_pages(0)), 0, how, known))


def test_times_go_on_over_long_gaps(stream: Stream) -> None:
    """A time extension, then an absolute stamp whose high bits are those of the page."""
    known, how = ringbuffer.formats(stream), Layout()
    waking = next(one for one in known.values() if one.name == "sched_waking")
    record_ = struct.pack("<HBBi", waking.id, 0, 0, 7) + b"sh".ljust(16, b"\0") + struct.pack("<iii", 42, 120, 1)
    words = (len(record_) + 3) // 4
    event = struct.pack("<I", words | 5 << 5) + record_.ljust(words * 4, b"\0")
    extended = struct.pack("<II", 30 | 3 << 5, 2)
    stamped = struct.pack("<II", 31 | 9 << 5, 7)
    data = event + extended + event + stamped + event
    base = 0x0800000000000000
    page = struct.pack("<QQ", base, len(data)) + data
    found = list(ringbuffer.page_events(page, 1, how, known))
    assert [one.values for one in found] == [("sh", 42, 120, 1)] * 3
    assert [one.ts - base for one in found] == [5, 5 + (2 << 27) + 3 + 5, (7 << 27) + 9 + 5]


def test_a_string_that_lies_elsewhere_in_the_record_is_found(stream: Stream) -> None:
    """__data_loc: comm of sched_process_fork is such a string in 7.x, and an array in 6.12."""
    forks = [event for event in ringbuffer.events(stream) if event.kind == "sched_process_fork"]
    assert forks
    assert {event.values[1] for event in forks} == {"sh"}
    array = next(text for text in stream.all("format") if "name: sched_process_exit" in text)
    assert ringbuffer.parse_format(array) is not None


def test_a_kernel_without_a_field_is_told_by_name(stream: Stream) -> None:
    text = next(text for text in stream.all("format") if "name: sched_waking" in text)
    with pytest.raises(HarnessError, match="sched_waking has no field target_cpu"):
        ringbuffer.parse_format(text.replace("target_cpu", "somewhere"))


@given(st.binary(max_size=200), st.integers(0, 60), st.integers(0, 255))
def test_no_bytes_in_a_page_stop_the_reader(junk: bytes, at: int, byte: int) -> None:
    known = {one.id: one for text in _formats() if (one := ringbuffer.parse_format(text))}
    for page in (junk, _changed(at, byte)):
        for event in ringbuffer.page_events(page, 0, Layout(), known):
            assert isinstance(event, Event)
            assert event.kind == LOST or len(event.values) == len(FIELDS[event.kind])


@given(st.binary(max_size=300))
def test_no_bytes_in_a_file_stop_the_index(tmp_path_factory: pytest.TempPathFactory, junk: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "junk"
    path.write_bytes(DATA[:500] + junk)
    index(path)


def test_an_expression_that_is_none_is_refused_before_anything_runs() -> None:
    with pytest.raises(UsageError, match="no regular expression"):
        record._shown("sh[")


def _formats() -> list[str]:
    return [part.decode() for part in DATA.split(b"format\0")[1:] for part in [part.partition(b"T\0\0\0")[0]]]


def _changed(at: int, byte: int) -> bytes:
    start = DATA.index(b"P\0") + 8
    page = bytearray(DATA[start : start + 1000])
    page[at] = byte
    return bytes(page)
