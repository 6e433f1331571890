# SPDX-License-Identifier: Apache-2.0
"""Guests with the host's user space as root: its programs and files are there, and nothing of it changes."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from guests import Guest, host_root, in_thread
from kernloop.kernel import refs
from kernloop.vm.share import Share
from kernloop.vm.topology import numa, parse_cpus
from support import alive, child, said, until

pytestmark = pytest.mark.vm


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a name that needs care in shells, QEMU options and kernel command lines."""
    folder = tmp_path_factory.mktemp("run") / "my proj,ect=é"
    folder.mkdir()
    return folder


@pytest.fixture(scope="module")
def guest(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    with in_thread(host_root(tmp_path_factory.mktemp("run"), Share(folder))) as guest:
        yield guest


@pytest.fixture
def writing_guest(tmp_path: Path) -> Iterator[Guest]:
    """With NUMA nodes as well."""
    (tmp_path / "run").mkdir()
    (tmp_path / "project").mkdir()
    topology = numa(parse_cpus("4,cores=2,threads=2"), 1024, ("0-1:512M", "2-3:512M"), ("0-1:33",))
    with in_thread(host_root(tmp_path / "run", Share(tmp_path / "project", writable=True), topology)) as guest:
        yield guest


def test_the_kernel_is_the_one_asked_for_and_the_files_are_the_hosts(guest: Guest) -> None:
    assert guest("uname", "-r").out.decode().strip() == refs.resolve(refs.DEFAULT).release
    assert {path.name for path in Path("/usr/bin").iterdir()} <= set(
        guest("ls", "-a", "/usr/bin").out.decode().splitlines()
    )
    assert guest("cat", "/etc/passwd").out == Path("/etc/passwd").read_bytes()
    assert b"CPU(s):" in guest("lscpu").out


def test_what_is_written_anywhere_stays_in_the_guest(guest: Guest) -> None:
    name = "kernloop-was-here"
    for place in ("/etc", "/usr/bin", "/root", "/tmp", "/var/lib"):
        assert guest.sh(f"echo guest > {place}/{name} && cat {place}/{name}").out == b"guest\n"
        assert not Path(place, name).exists()
    before = Path("/etc/passwd").read_bytes()
    assert guest.sh("echo more >> /etc/passwd && rm /etc/hostname; tail -1 /etc/passwd").out == b"more\n"
    assert Path("/etc/passwd").read_bytes() == before


def test_the_folder_is_seen_as_it_is_at_this_moment(guest: Guest, folder: Path) -> None:
    file, staged = folder / "source.c", folder / "staged"
    for number in range(4):
        file.write_text("x" * 100 * number + "in place\n")
        assert guest("cat", "source.c", cwd=str(folder)).out == file.read_bytes()
        staged.write_text("y" * 100 * number + "replaced\n")
        staged.replace(file)
        assert guest("cat", "source.c", cwd=str(folder)).out == file.read_bytes()
        file.unlink()
        assert guest("cat", "source.c", cwd=str(folder)).status == 1


def test_the_folder_cannot_be_written_to_unless_asked_for(guest: Guest, folder: Path) -> None:
    ran = guest.sh("echo x > new", cwd=str(folder))
    assert ran.status != 0
    assert b"Read-only file system" in ran.err
    assert not (folder / "new").exists()


def test_a_writable_folder_is_the_hosts_own_and_no_other_is(writing_guest: Guest, tmp_path: Path) -> None:
    folder = tmp_path / "project"
    assert writing_guest.sh("echo from-guest > made; mkdir d; mv made d/moved", cwd=str(folder)).status == 0
    assert (folder / "d/moved").read_text() == "from-guest\n"
    assert writing_guest("touch", str(tmp_path / "beside")).status == 0
    assert not (tmp_path / "beside").exists()
    nodes = writing_guest.sh("cd /sys/devices/system/node; cat node*/cpulist node0/distance; nproc")
    assert nodes.out.split() == [b"0-1", b"2-3", b"10", b"33", b"4"]


def test_exit_codes_signals_and_any_bytes_come_through(guest: Guest) -> None:
    assert guest.sh("exit 7").status == 7
    assert guest.sh("kill -9 $$").status == -9
    assert guest("printf", r"\377\0\200").out == b"\xff\0\x80"
    assert "No such file" in str(guest("no-such-program").status)
    ran = guest.sh("echo out; echo err >&2")
    assert (ran.out, ran.err) == (b"out\n", b"err\n")


def test_modules_of_the_kernel_are_found_by_its_release(guest: Guest) -> None:
    listing = guest.sh("ls /lib/modules/$(uname -r)/modules.dep /lib/modules/$(uname -r)/kernel")
    assert listing.status == 0
    assert b"fs" in listing.out.split()


OWNER = """
import asyncio, os, sys
from pathlib import Path
from guests import host_root
from kernloop.vm.topology import numa, parse_cpus
from kernloop.vm.share import Share

async def main():
    async with host_root(Path(sys.argv[1]), Share(Path(sys.argv[1]))) as guest:
        children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text()
        print(guest.machine.pid, *children.split(), flush=True)
        await asyncio.sleep(600)

sys.path.insert(0, sys.argv[2])
asyncio.run(main())
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_owner_leaves_neither_qemu_nor_virtiofsd_nor_files(number: signal.Signals, tmp_path: Path) -> None:
    owner = child("import sys; sys.path.insert(0, sys.argv[2])\n" + OWNER, tmp_path, Path(__file__).parents[1])
    qemu, *children = map(int, said(owner).split())
    daemons = [pid for pid in children if b"virtiofsd" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    staged = set(Path(tempfile.gettempdir()).glob("kernloop-vng-*"))
    assert len(daemons) == 2
    assert staged
    owner.send_signal(number)
    owner.wait(10)
    until(lambda: not any(alive(pid) for pid in (qemu, *daemons)), 20, "QEMU and virtiofsd gone")
    until(lambda: not all(path.exists() for path in staged), 20, "the owner's temporary folder gone")
