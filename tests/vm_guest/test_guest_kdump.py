# SPDX-License-Identifier: Apache-2.0
"""A vmcore that a kernel's own kdump made: it is what /proc/vmcore had in the second kernel.

In a QEMU of the test's own: kernloop keeps a guest that panics as it is, so that the second kernel never runs.
"""

from __future__ import annotations

import lzma
import os
from pathlib import Path

import pytest

from kernloop.debug.helpers.logs import dmesg
from kernloop.debug.helpers.tasks import ps, runqueues
from kernloop.debug.stacks import Stacks
from kernloop.debug.target import about, open_core
from kernloop.debug.whyhung import investigate
from kernloop.host import process, toolset
from kernloop.kernel import refs
from kernloop.vm import cpio, guest_programs
from support import ROOT

pytestmark = [
    pytest.mark.vm,
    pytest.mark.skipif("KERNLOOP_LONG_TESTS" not in os.environ, reason="two boots: set KERNLOOP_LONG_TESTS"),
]
KERNEL = "debian:7.3.4"
SECONDS = 400.0
MOUNTS = "#!/bin/busybox sh\nb=/bin/busybox\n$b mount -t proc proc /proc\n$b mount -t devtmpfs dev /dev\n"
# A task of a name of its own works on the other CPU.
FIRST = """/kexec_crash /kernel /second 'console=ttyS0 nr_cpus=1 irqpoll reset_devices nokaslr'
$b taskset 2 $b sh -c 'printf working > /proc/$$/comm; while :; do :; done' &
$b sleep 1
exec $b taskset 1 $b sh -c 'printf crashing > /proc/$$/comm; echo c > /proc/sysrq-trigger'
"""
SECOND = """$b insmod /virtio_blk.ko
$b stat -c 'BYTES %s' /proc/vmcore
$b dd if=/proc/vmcore of=/dev/vda bs=1M
$b sync
$b poweroff -f
"""


def initrd(script: str, *files: cpio.Entry) -> bytes:
    busybox = cpio.regular("bin/busybox", toolset.get().busybox.read_bytes(), 0o755)
    folders = [cpio.directory(name) for name in ("bin", "proc", "dev")]
    return cpio.archive([*folders, busybox, cpio.regular("init", (MOUNTS + script).encode(), 0o755), *files])


def test_the_vmcore_of_a_kdump_tells_who_panicked_and_what_the_others_did(tmp_path: Path) -> None:
    kernel = refs.resolve(KERNEL)
    assert kernel.modules is not None
    [packed] = kernel.modules.rglob("virtio_blk.ko.xz")
    second = initrd(SECOND, cpio.regular("virtio_blk.ko", lzma.decompress(packed.read_bytes())))
    load = guest_programs.build("kexec_crash", [ROOT / "tests/fixtures/kdump/kexec_crash.c"])
    files = (("kernel", kernel.image.read_bytes()), ("second", second), ("kexec_crash", load.read_bytes()))
    first, disk, console = tmp_path / "first", tmp_path / "disk", tmp_path / "console"
    first.write_bytes(initrd(FIRST, *(cpio.regular(name, data, 0o755) for name, data in files)))
    with disk.open("wb") as file:
        file.truncate(1 << 30)
    argv: list[str | Path] = [toolset.get().qemu, "-accel", "tcg,thread=single", "-cpu", "max", "-m", "512"]
    argv += ["-smp", "2", "-kernel", kernel.image, "-initrd", first, "-append"]
    argv += ["console=ttyS0 crashkernel=224M panic=-1", "-nodefaults", "-nographic", "-no-reboot"]
    argv += ["-serial", f"file:{console}", "-drive", f"file={disk},format=raw,if=none,id=disk"]
    argv += ["-device", "virtio-blk-pci,drive=disk"]
    process.run(argv, seconds=SECONDS, what="a kdump")
    said = console.read_text(errors="replace")
    assert "BYTES " in said, said[-3000:]
    os.truncate(disk, int(said.partition("BYTES ")[2].split()[0]))

    prog = open_core(disk)
    stacks = Stacks(prog)
    assert (about(prog).state, about(prog).build_id) == ("dump", kernel.build_id)
    assert {"kthreadd", "working", "crashing"} <= {row.name for row in ps(prog)}
    assert [rq.current.comm for rq in runqueues(prog)] == ["crashing", "working"]
    crashed = stacks.of_cpu(0)
    assert crashed.functions[0] == "__crash_kexec" and "a guess" in crashed.why
    assert {"panic", "sysrq_handle_crash", "vfs_write"} <= set(crashed.functions)
    assert [one.pid for one in about(prog).cpus] == [rq.current.pid for rq in runqueues(prog)]
    assert any("sysrq triggered crash" in line for line in dmesg(prog))
    assert not [one for one in investigate(prog).findings if one.kind not in ("blocked", "scheduler-stall")]
