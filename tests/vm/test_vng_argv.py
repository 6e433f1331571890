# SPDX-License-Identifier: Apache-2.0
"""virtme-ng's command line made ours: its devices stay, its terminal and its init go."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from kernloop.vm.argv import Channels, MachineSpec, Start
from kernloop.vm.share import Share
from kernloop.vm.virtme import Said
from kernloop.vm.vng import qemu_argv, virtiofsd_argv

CHANNELS = Channels((3, 4), (5, 6), 7, Path("/runs/a/console.log"))
ROOT, SHARED = "/tmp/t/virtmeroot", "/tmp/t/virtmeshare"
# As virtme-ng 1.42 prints it, with --rodir /tmp/t/share.
SAID = Said(
    tuple(
        shlex.split(
            "/q/qemu -m 1024M -chardev socket,id=charvirtfs3,path=/tmp/t/virtmeroot"
            " -device vhost-user-fs-pci,chardev=charvirtfs3,tag=ROOTFS"
            " -object memory-backend-memfd,id=mem,size=1024M,share=on -numa node,memdev=mem"
            " -chardev socket,id=charvirtfs11,path=/tmp/t/virtmeshare"
            " -device vhost-user-fs-pci,chardev=charvirtfs11,tag=virtme.initmount0"
            " -device i6300esb,id=watchdog0 -machine q35 -cpu max -parallel none -net none -echr 1"
            " -chardev file,path=/proc/self/fd/2,id=dmesg -device virtio-serial-pci -device virtconsole,chardev=dmesg"
            " -chardev stdio,id=console,signal=off,mux=off -serial chardev:console -vga none -display none -smp 2"
            " -kernel /k/bzImage -append 'nr_open=1048576 virtme_initmount0=tmp/t/share"
            " virtme_initmount0_fstype=virtiofs virtme_initmount0_access=ro virtme_console=ttyS0 console=hvc0"
            ' psmouse.proto=exps "virtme_stty_con=rows 24 cols 80 iutf8" TERM=xterm virtme_root_user=1'
            " rootfstype=virtiofs root=ROOTFS raid=noautodetect ro quiet loglevel=1 init=/v/virtme-ng-init'"
        )
    ),
    {
        ROOT: tuple(
            f"--syslog --no-announce-submounts --readonly --socket-path {ROOT} --shared-dir /"
            " --sandbox none --cache always".split()
        ),
        SHARED: tuple(
            f"--syslog --no-announce-submounts --readonly --socket-path {SHARED} --shared-dir /tmp/t/share"
            " --sandbox none --cache always".split()
        ),
    },
)
MORE = ("virtme_initmount0=/home/me/my project",)


def argv(spec: MachineSpec) -> list[str]:
    sockets = {ROOT: 20, SHARED: 21}
    start = Start(initramfs=Path("/k/initramfs"), payload=Path("/k/payload"))
    return qemu_argv(SAID, sockets, MORE, Path("/q/qemu"), spec, Path("/k/vmlinux"), start, CHANNELS)


def values(words: list[str], option: str) -> list[str]:
    return [words[at + 1] for at, word in enumerate(words) if word == option]


def kernel_words(spec: MachineSpec) -> list[str]:
    return shlex.split(values(argv(spec), "-append")[0])


def test_shared_folders_are_reached_by_descriptors_and_nothing_is_named_in_the_file_system() -> None:
    channels = values(argv(MachineSpec()), "-chardev")
    assert "socket,id=charvirtfs3,fd=20" in channels
    assert "socket,id=charvirtfs11,fd=21" in channels
    assert not any("/tmp/t" in channel for channel in channels)


def test_the_machine_is_virtme_ngs_with_our_console_agent_and_monitor_only() -> None:
    words = argv(MachineSpec())
    devices = values(words, "-device")
    assert "vhost-user-fs-pci,chardev=charvirtfs3,tag=ROOTFS" in devices
    assert "memory-backend-memfd,id=mem,size=1024M,share=on" in values(words, "-object")
    assert len([device for device in devices if device.startswith("virtio-serial-pci")]) == 1
    assert values(words, "-serial") == ["chardev:console"]
    assert not any("stdio" in word or "/proc/self" in word for word in words)
    assert len([word for word in values(words, "-chardev") if ",id=console," in word]) == 1
    assert values(words, "-kernel") == ["/k/vmlinux"]
    assert values(words, "-initrd") == ["/k/initramfs"]
    assert values(words, "-fw_cfg") == ["name=opt/kernloop/payload,file=/k/payload"]


def test_a_panic_pauses_it_as_it_does_any_machine_of_ours() -> None:
    words = argv(MachineSpec())
    assert values(words, "-action") == ["panic=pause,watchdog=pause"]
    assert "i6300esb" in values(words, "-device")
    assert "pvpanic-pci" in values(words, "-device")
    assert "-no-reboot" in words
    assert "panic=0" in kernel_words(MachineSpec())


@pytest.mark.parametrize(("accelerator", "cpu"), [("kvm", "host"), ("tcg", "max")])
def test_the_accelerator_is_the_one_that_was_proved(accelerator: str, cpu: str) -> None:
    words = argv(MachineSpec(accelerator=accelerator))
    assert values(words, "-accel") == ["kvm" if accelerator == "kvm" else "tcg,thread=single"]
    assert values(words, "-cpu") == [cpu]


def test_the_kernel_starts_our_init_on_our_console_and_hears_of_the_real_folder() -> None:
    words = kernel_words(MachineSpec(append=("quiet",)))
    assert [word for word in words if word.startswith("console=")] == ["console=ttyS0"]
    assert not any(word.startswith(("init=", "root=", "rootfstype=", "virtme_stty_con=")) for word in words)
    assert "rdinit=/init" in words
    assert "kernloop_root=ROOTFS" in words
    assert [word for word in words if word.startswith("virtme_initmount0=")] == list(MORE)
    assert "virtme_initmount0_access=ro" in words
    assert words[-1] == "quiet"


def test_only_the_callers_folder_is_seen_uncached_and_only_it_can_be_writable() -> None:
    share = Share(Path("/home/me/my project"))
    root = virtiofsd_argv(Path("/v/virtiofsd"), SAID.daemons[ROOT], 20, share)
    folder = virtiofsd_argv(Path("/v/virtiofsd"), SAID.daemons[SHARED], 21, share)
    assert {"--fd=20", "--shared-dir=/", "--readonly", "--cache=always", "--sandbox=none"} <= set(root)
    assert {"--fd=21", "--shared-dir=/home/me/my project", "--cache=never", "--allow-mmap"} <= set(folder)
    assert not any(word.startswith(("--socket-path", "--syslog")) for word in (*root, *folder))
