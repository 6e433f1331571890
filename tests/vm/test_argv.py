# SPDX-License-Identifier: Apache-2.0
"""QEMU's command line, as a function of the specification alone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kernloop.errors import UsageError
from kernloop.vm.argv import Channels, MachineSpec, Start, VirtualTime, qemu_argv
from kernloop.vm.topology import Topology, numa, parse_cpus

CHANNELS = Channels((3, 4), (5, 6), 7, Path("/runs/a/console.log"))


COLD = Start(initramfs=Path("/k/initramfs"))


def argv(spec: MachineSpec, channels: Channels = CHANNELS, start: Start = COLD) -> list[str]:
    return qemu_argv(Path("/q/qemu"), spec, Path("/k/bzImage"), start, channels)


def values(words: list[str], option: str) -> list[str]:
    return [words[at + 1] for at, word in enumerate(words) if word == option]


def test_virtual_time_counts_instructions_and_takes_nothing_from_the_host() -> None:
    words = argv(MachineSpec(virtual_time=VirtualTime(shift=4)))
    assert values(words, "-icount") == ["shift=4,sleep=off,align=off"]
    assert values(words, "-accel") == ["tcg,thread=single,tb-size=1024"]
    assert values(words, "-rtc") == ["base=2020-01-01,clock=vm"]
    assert values(words, "-cpu") == ["max,-erms,-fsrm,-fzrm,-fsrs,-fsrc,-rdrand,-rdseed"]


def test_virtual_time_is_never_kvm() -> None:
    assert values(argv(MachineSpec(accelerator="kvm", virtual_time=VirtualTime())), "-accel") == [
        "tcg,thread=single,tb-size=1024"
    ]


def test_tcg_has_one_thread_for_more_corrupt_static_keys() -> None:
    words = argv(MachineSpec(Topology(4), accelerator="tcg"))
    assert values(words, "-accel") == ["tcg,thread=single"]
    assert values(words, "-smp") == ["4"]
    assert "-icount" not in words


def test_kvm_shows_the_host_cpu() -> None:
    words = argv(MachineSpec(accelerator="kvm"))
    assert (values(words, "-accel"), values(words, "-cpu")) == (["kvm"], ["host"])


def test_a_panic_pauses_the_machine_and_nothing_reboots() -> None:
    words = argv(MachineSpec())
    assert values(words, "-action") == ["panic=pause,watchdog=pause"]
    assert "-no-reboot" in words
    assert "panic=0" in values(words, "-append")[0].split()


def test_words_for_the_kernel_come_last_so_that_they_win() -> None:
    line = values(argv(MachineSpec(append=("rdinit=/bin/cat", "quiet"))), "-append")[0].split()
    assert line[-2:] == ["rdinit=/bin/cat", "quiet"]


def test_a_guest_in_the_hosts_time_does_not_panic_because_its_first_ticks_come_late() -> None:
    for spec, there in ((MachineSpec(), True), (MachineSpec(virtual_time=VirtualTime()), False)):
        assert ("no_timer_check" in values(argv(spec), "-append")[0].split()) is there


def test_memory_and_images_are_those_asked_for() -> None:
    words = argv(MachineSpec(memory=2048))
    assert words[0] == "/q/qemu"
    assert (values(words, "-m"), values(words, "-kernel"), values(words, "-initrd")) == (
        ["2048M"],
        ["/k/bzImage"],
        ["/k/initramfs"],
    )


@pytest.mark.parametrize(
    ("path", "escaped"), [("/a,b/console.log", "/a,,b/console.log"), ("/a b/c=d.log", "/a b/c=d.log")]
)
def test_a_comma_in_the_run_directory_does_not_end_the_option(path: str, escaped: str) -> None:
    words = argv(MachineSpec(), Channels((3, 4), (5, 6), 7, Path(path)))
    pipes = "file,id=console,path=/dev/fd/3,append=on,input-path=/dev/fd/4"
    assert f"{pipes},logfile={escaped},logappend=on" in values(words, "-chardev")


def test_the_kernels_last_words_go_to_a_file_of_the_run_that_outlives_the_machine() -> None:
    words = argv(MachineSpec())
    assert values(words, "-object")[-1] == "memory-backend-file,id=erst,mem-path=/runs/a/erst,share=on,size=256K"
    assert "acpi-erst,memdev=erst" in values(words, "-device")


def test_a_watchdog_counts_real_time_only() -> None:
    assert "i6300esb" in values(argv(MachineSpec()), "-device")
    assert "i6300esb" not in values(argv(MachineSpec(virtual_time=VirtualTime())), "-device")


def test_no_channel_has_a_name_in_the_file_system() -> None:
    channels = values(argv(MachineSpec()), "-chardev")
    assert len(channels) == 3
    assert all(
        "fd=7" in value or re.search(r",path=/dev/fd/[35],.*input-path=/dev/fd/[46]", value) for value in channels
    )
    assert not any("port=" in value for value in channels)


def test_a_topology_is_said_as_sockets_cores_and_threads() -> None:
    words = argv(MachineSpec(parse_cpus("8,sockets=2,cores=2,threads=2")))
    assert values(words, "-smp") == ["8,sockets=2,cores=2,threads=2"]


def test_numa_nodes_have_their_cpus_memory_and_distances_both_ways() -> None:
    topology = numa(parse_cpus("4"), 512, ("0-1:256M", "2-3:256M"), ("0-1:30",))
    words = argv(MachineSpec(topology, 512))
    assert values(words, "-machine") == ["q35"]
    assert values(words, "-object")[:2] == [f"memory-backend-ram,id=ram{number},size=256M" for number in (0, 1)]
    assert values(words, "-numa") == [
        "node,nodeid=0,cpus=0-1,memdev=ram0",
        "node,nodeid=1,cpus=2-3,memdev=ram1",
        "dist,src=0,dst=0,val=10",
        "dist,src=0,dst=1,val=30",
        "dist,src=1,dst=0,val=30",
        "dist,src=1,dst=1,val=10",
    ]


@pytest.mark.parametrize(
    "text", ["", "0", "65", "two", "4,threads", "4,threads=0", "4,rows=2", "4,cores=3", "4,cores=2,cores=2", "-1"]
)
def test_a_topology_that_cannot_be_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_cpus(text)
    assert "--cpus 8,sockets=2,cores=2,threads=2" in caught.value.hint


@pytest.mark.parametrize(
    ("nodes", "distances"),
    [
        (("0-1:256M",), ()),
        (("0-3:256M",), ()),
        (("0-2:256M", "2-3:256M"), ()),
        (("0-3",), ()),
        (("0-1:256M", "2-3:256M"), ("0-2:20",)),
        (("0-1:256M", "2-3:256M"), ("0-0:20",)),
        (("0-1:256M", "2-3:256M"), ("0-1:9",)),
        (("0-1:256M", "2-3:256M"), ("0-1:255",)),
        ((), ("0-1:20",)),
    ],
)
def test_nodes_that_do_not_add_up_are_refused(nodes: tuple[str, ...], distances: tuple[str, ...]) -> None:
    with pytest.raises(UsageError):
        numa(parse_cpus("4"), 512, nodes, distances)


def test_a_restored_machine_has_its_memory_from_the_snapshot_privately_and_no_initramfs() -> None:
    start = Start(ram=Path("/s"), payload=Path("/r/payload"), freeze=True, incoming=True)
    words = argv(MachineSpec(), start=start)
    assert values(words, "-object")[0] == "memory-backend-file,mem-path=/s/ram,share=off,id=ram,size=512M"
    assert values(words, "-machine") == ["q35,memory-backend=ram"]
    assert values(words, "-incoming") == ["defer"]
    assert "-initrd" not in words
    assert "name=opt/kernloop/payload,file=/r/payload" in values(words, "-fw_cfg")


def test_a_restore_starts_no_timer_of_the_hosts() -> None:
    assert "migration.announce-rounds=0" in values(argv(MachineSpec()), "-global")


def test_kgdb_has_a_port_behind_the_consoles_and_the_kernel_is_told_of_it() -> None:
    words = argv(MachineSpec(kgdb=True), Channels((3, 4), (5, 6), 7, Path("/runs/a/console.log"), 8))
    assert values(words, "-serial") == ["chardev:console", "chardev:kgdb"]
    assert "socket,id=kgdb,fd=8,server=on,wait=off" in values(words, "-chardev")
    assert {"console=ttyS0", "kgdboc=ttyS1"} <= set(values(words, "-append")[0].split())
    assert not [word for word in argv(MachineSpec()) if "kgdb" in word]


def test_a_kernel_that_waits_for_its_debugger_as_it_boots_keeps_its_text_writable_for_breakpoints() -> None:
    waits, runs = (
        values(argv(MachineSpec(kgdb=True, append=append)), "-append")[0].split() for append in (("kgdbwait",), ())
    )
    assert "rodata=off" in waits
    assert "rodata=off" not in runs
