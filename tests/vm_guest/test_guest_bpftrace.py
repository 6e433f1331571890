# SPDX-License-Identifier: Apache-2.0
"""`kernloop debug bpftrace` in a live VM: maps as data, mistakes with bpftrace's own line, and whatever ends it."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kernloop.vm.client import VM
from kernloop.vm.request import VmRequest
from support import Done, kernloop, start, until
from vms import running, sh

pytestmark = pytest.mark.vm

# Its statistics go to stderr.
DATA = 'tracepoint:syscalls:sys_enter_write /comm == "dd" && args.fd == 1/'
WRITES = f"{DATA} {{ @writes = count(); @sizes = hist(args.count); }}"
WRITER = "dd if=/dev/zero of=/dev/null bs=4096 count=100 2>/dev/null"


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state")


@pytest.fixture(scope="module")
def vm(state: Path) -> Iterator[VM]:
    """bpftrace is sent to it, which takes its time once."""
    with running(VmRequest(name="bpf", memory=1024), state=state) as vm:
        yield vm


def bpftrace(state: Path, program: str, *words: str) -> Done:
    return kernloop("debug", "bpftrace", "bpf", program, *words, seconds=300, XDG_STATE_HOME=str(state))


def under_way(state: Path, vm: VM, program: str) -> subprocess.Popen[bytes]:
    """A trace whose probes are attached, which would last for minutes: the last of them says so."""
    before = set(vm.run.glob("jobs/*/stdout"))
    program += ' interval:ms:50 { printf("on\\n"); }'
    words = ("debug", "bpftrace", "bpf", program, "--seconds", "600", "--json")
    process = start(*words, env={"XDG_STATE_HOME": str(state)})

    def attached() -> bool:
        return any(b'"on' in file.read_bytes() for file in set(vm.run.glob("jobs/*/stdout")) - before)

    until(attached, 200, "probes attached")
    return process


def maps(value: dict[str, Any]) -> dict[str, Any]:
    return {one["name"]: one["rows"] for one in value["maps"]}


def tracing(vm: VM) -> bool:
    """Whether a bpftrace runs in the guest, or a function of its kernel is hooked."""
    look = "cat /proc/[0-9]*/comm | grep -q '^bpftrace\\|^bounded\\|^ld-linux'; echo $?; cat $0"
    found = vm.exec(["sh", "-c", look, "/sys/kernel/tracing/enabled_functions"], timeout=100).stdout.decode()
    return found.strip() != "1"


def test_ctrl_c_keeps_what_was_counted_and_it_is_what_happened(state: Path, vm: VM) -> None:
    process = under_way(state, vm, WRITES)
    sh(vm, WRITER)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    value = Done(0, out, err).json
    assert (value["stopped"], value["complete"], value["lost"]) == ("asked", True, 0)
    assert maps(value) == {
        "@writes": [{"value": 100}],
        "@sizes": [{"value": [{"low": 4096, "high": 8191, "count": 100}]}],
    }
    assert not tracing(vm)


def test_it_ends_with_its_time_and_prints_what_it_printed(state: Path, vm: VM) -> None:
    program = (
        'BEGIN { printf("it begins\\n"); @done = 0; } interval:ms:100 { @ticks = count(); }'
        " kprobe:vfs_read { @by[comm] = count(); @at[kstack(2)] = count(); } END { @done = 1; }"
    )
    value = bpftrace(state, program, "--seconds", "8", "--json").json
    assert (value["stopped"], value["lines"]) == ("time", ["it begins"])
    found = maps(value)
    assert found["@done"] == [{"value": 1}]
    # How many of them is the host's load.
    assert found["@ticks"][0]["value"] >= 1
    # Our own agent reads what its jobs say.
    assert sum(row["value"] for row in found["@by"]) > 0
    assert any(row["stack"][0].startswith("vfs_read+") for row in found["@at"])
    assert Path(value["raw"]).read_text().count('"type"') >= 5
    assert not tracing(vm)


def test_a_program_that_ends_itself_is_not_waited_for(state: Path, vm: VM) -> None:
    value = bpftrace(state, "BEGIN { @x = 7; exit(); }", "--seconds", "600", "--json").json
    assert (value["stopped"], maps(value)) == ("itself", {"@x": [{"value": 7}]})


def test_a_mistake_in_the_program_is_told_in_bpftraces_words(state: Path, vm: VM) -> None:
    for program, *told in (
        ("BEGIN { @[ = count(); }", "1:12-13: ERROR: syntax error", "'='"),
        ("kprobe:vfs_raed { @ = count(); }", "ERROR", "vfs_read"),
        ("tracepoint:sched:sched_swich { @ = count(); }", "sched:sched_switch"),
        (
            "tracepoint:sched:sched_switch { @[args.nextcomm] = count(); }",
            "nextcomm",
            "sched_switch/format",
        ),
        ("kprobe:no_such_function_* { @ = count(); }", "No probes"),
    ):
        done = bpftrace(state, program, "--seconds", "5")
        assert done.status == 1, done.text
        assert [word for word in told if word not in done.text] == [], done.text
    assert bpftrace(state, " ").status == 2
    assert bpftrace(state, "nosuch.bt").status == 2


def test_a_killed_client_leaves_no_probe(state: Path, vm: VM) -> None:
    process = under_way(state, vm, "kprobe:vfs_read { @ = count(); }")
    assert tracing(vm)
    process.kill()
    process.communicate(timeout=60)
    until(lambda: not tracing(vm), 200, "the end of bpftrace in the guest")


# The last one: the mount stays.
def test_a_kernel_that_shows_no_btf_is_refused_before_anything_is_sent(state: Path, vm: VM) -> None:
    sh(vm, "mount -t tmpfs none /sys/kernel/btf")
    done = bpftrace(state, "BEGIN { @x = 1; }")
    assert done.status == 2
    assert "has no BTF" in done.text
    assert "--fragment bpf" in done.text
