# SPDX-License-Identifier: Apache-2.0
"""QEMU's command line, as a function of the specification alone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kernloop.vm.argv import Channels, MachineSpec, VirtualTime, qemu_argv

CHANNELS = Channels((3, 4), (5, 6), 7, Path("/runs/a/console.log"))


def argv(spec: MachineSpec, channels: Channels = CHANNELS) -> list[str]:
    return qemu_argv(Path("/q/qemu"), spec, Path("/k/bzImage"), Path("/k/initramfs"), channels)


def values(words: list[str], option: str) -> list[str]:
    return [words[at + 1] for at, word in enumerate(words) if word == option]


def test_virtual_time_counts_instructions_and_takes_nothing_from_the_host() -> None:
    words = argv(MachineSpec(virtual_time=VirtualTime(shift=4, seed=7)))
    assert values(words, "-icount") == ["shift=4,sleep=off,align=off"]
    assert values(words, "-accel") == ["tcg,thread=single"]
    assert values(words, "-rtc") == ["base=2020-01-01,clock=vm"]
    assert "kernloop.seed=7" in values(words, "-append")[0].split()
    assert values(words, "-cpu") == ["max,-rdrand,-rdseed"]


def test_virtual_time_is_never_kvm() -> None:
    assert values(argv(MachineSpec(accelerator="kvm", virtual_time=VirtualTime())), "-accel") == ["tcg,thread=single"]


def test_tcg_has_one_thread_for_more_corrupt_static_keys() -> None:
    words = argv(MachineSpec(cpus=4, accelerator="tcg"))
    assert values(words, "-accel") == ["tcg,thread=single"]
    assert values(words, "-smp") == ["4"]
    assert "-icount" not in words


def test_kvm_shows_the_host_cpu() -> None:
    words = argv(MachineSpec(accelerator="kvm"))
    assert (values(words, "-accel"), values(words, "-cpu")) == (["kvm"], ["host"])


def test_a_panic_pauses_the_machine_and_nothing_reboots() -> None:
    words = argv(MachineSpec())
    assert values(words, "-action") == ["panic=pause"]
    assert "-no-reboot" in words
    assert "panic=0" in values(words, "-append")[0].split()


def test_words_for_the_kernel_come_last_so_that_they_win() -> None:
    line = values(argv(MachineSpec(append=("rdinit=/bin/cat", "quiet"))), "-append")[0].split()
    assert line[-2:] == ["rdinit=/bin/cat", "quiet"]


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
    assert f"{pipes},logfile={escaped}" in values(words, "-chardev")


def test_no_channel_has_a_name_in_the_file_system() -> None:
    channels = values(argv(MachineSpec()), "-chardev")
    assert len(channels) == 3
    assert all(
        "fd=7" in value or re.search(r",path=/dev/fd/[35],.*input-path=/dev/fd/[46]", value) for value in channels
    )
    assert not any("port=" in value for value in channels)
