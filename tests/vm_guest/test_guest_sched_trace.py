# SPDX-License-Identifier: Apache-2.0
"""`kernloop sched trace`: the scheduling of a live VM, whatever ends the recording."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as pb

from kernloop.kernel import refs, source
from kernloop.sched import programs
from kernloop.sched.compile import compile_scheduler
from kernloop.sched.trace.stream import index
from kernloop.vm import client
from kernloop.vm.client import VM
from support import SCHEDULERS, kernloop, until
from vms import started, stop_all

pytestmark = pytest.mark.vm

HOGS = "for i in 1 2 3; do (while :; do :; done) & done; wait"


@pytest.fixture
def traced() -> Iterator[VM]:
    yield started("traced")
    stop_all()


def recording(vm: VM, *words: str) -> subprocess.Popen[str]:
    """`sched trace` under way: its program runs in the guest."""
    command = [sys.executable, "-m", "kernloop", "sched", "trace", vm.name, "--json", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)
    on = "grep -qs 1 /sys/kernel/tracing/instances/kernloop/tracing_on"
    until(lambda: vm.exec(["sh", "-c", on], timeout=20).status == 0, 60, "the recording")
    return process


def ended(process: subprocess.Popen[str]) -> dict[str, Any]:
    said, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    value: dict[str, Any] = json.loads(said)
    return value


def nothing_left(vm: VM) -> bool:
    left = "ls /sys/kernel/tracing/instances; cat /sys/kernel/tracing/dynamic_events"
    return vm.exec(["sh", "-c", left], timeout=20).stdout == b""


def test_hogs_take_turns_and_the_figures_say_so(traced: VM, tmp_path: Path) -> None:
    job = traced.exec_background(["sh", "-c", HOGS])
    file = tmp_path / "hogs.pftrace"
    value = kernloop("sched", "trace", "traced", "--seconds", "2", "--json", "--out", file, seconds=120).json
    traced.kill(job)
    assert value["complete"], value["lost"]
    assert value["stopped"] == "time"
    assert value["queue_moves"] == ["dsq_insert", "dsq_leave", "dsq_local"], value["queue_moves_why"]
    hogs = [task for task in value["tasks"] if task["comm"] == "sh" and task["ran_us"] > 50_000]
    assert len(hogs) == 3
    # Three on two CPUs: each runs for two thirds of the time, less what others took, and waits for the rest.
    assert sum(task["ran_us"] for task in hogs) <= 2e6 * value["seconds"]
    for task in hogs:
        assert task["delay_us"]["count"]
        assert task["ran_us"] + task["delay_us"]["count"] * task["delay_us"]["p50"] < 1.5e6 * value["seconds"]
    trace = pb.Trace.FromString(file.read_bytes())
    switches = [
        event for packet in trace.packet for event in packet.ftrace_events.event if event.HasField("sched_switch")
    ]
    assert len(switches) == sum(cpu["switches"] for cpu in value["cpus"])
    assert nothing_left(traced)


def test_the_moves_between_a_schedulers_queues_are_recorded(traced: VM, tmp_path: Path) -> None:
    kernel = refs.resolve(traced.info().facts["kernel"])
    kit = source.kit(kernel)
    built = compile_scheduler(SCHEDULERS / "fifo.bpf.c", kit, tmp_path / "fifo.bpf.o")
    assert built.object is not None
    traced.push(programs.loader(kit), "/root/scxload")
    traced.push(built.object, "/root/fifo.bpf.o")
    # A byte on its stdin makes it load the scheduler; the loader is a child of this shell.
    traced.exec_background(["sh", "-c", f"printf x | ./scxload fifo.bpf.o; {HOGS}"])
    state = ["grep", "-q", "enabled", "/sys/kernel/sched_ext/state"]
    until(lambda: traced.exec(state, timeout=20).status == 0, 60, "the scheduler")
    file = tmp_path / "fifo.pftrace"
    value = kernloop("sched", "trace", "traced", "--seconds", "0.5", "--json", "--out", file, seconds=120).json
    assert (value["scheduler"], value["states"]) == ("fifo", ["enabled", "enabled"])
    queues = {queue["name"]: queue for queue in value["queues"]}
    assert {"0x0", "local 0", "local 1"} <= set(queues)
    assert queues["0x0"]["inserts"] >= queues["0x0"]["stay_us"]["count"] > 0
    names = {p.track_descriptor.name for p in pb.Trace.FromString(file.read_bytes()).packet}
    assert {"dispatch queues of fifo", "DSQ 0x0: tasks"} <= names


def test_ctrl_c_keeps_what_was_recorded(traced: VM) -> None:
    process = recording(traced, "--seconds", "600")
    process.send_signal(signal.SIGINT)
    value = ended(process)
    assert value["stopped"] == "asked"
    assert value["events"]
    assert Path(value["trace"]).stat().st_size == value["bytes"] > 0
    assert nothing_left(traced)


def test_a_killed_kernloop_leaves_nothing_on_in_the_guest(traced: VM) -> None:
    process = recording(traced, "--seconds", "600")
    process.kill()
    process.communicate(timeout=60)
    until(lambda: nothing_left(traced), 60, "the end of the recording in the guest")


def test_a_guest_that_panics_meanwhile_leaves_what_it_had_sent(traced: VM) -> None:
    process = recording(traced, "--seconds", "600")
    # Rings are sent once a second.
    (job,) = [int(job) for job, state in traced.info().facts["jobs"].items() if state == "running"]
    sent = traced.run / "jobs" / str(job) / "stdout"
    until(lambda: index(sent).pages, 60, "a second's events")
    traced.sysrq("c")
    value = ended(process)
    assert value["stopped"] == "guest"
    assert not value["complete"]
    assert value["events"]
    assert "vm list" in value["next"]
    assert client.find("traced").info().state == "panicked"
