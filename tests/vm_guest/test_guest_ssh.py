# SPDX-License-Identifier: Apache-2.0
"""The host's own ssh and scp, and rsync, into a guest that has no network."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from guests import Guest, host_root, in_thread, micro
from kernloop.vm import ssh
from kernloop.vm.share import Share
from support import until

pytestmark = pytest.mark.vm
DATA = random.Random(1).randbytes(1_000_001)
# Connects its stdin and stdout with a unix socket, as a client of the VM's owner does.
PROXY = """
import os, socket, sys, threading
end = socket.socket(socket.AF_UNIX)
end.connect(sys.argv[1])
def up():
    while data := os.read(0, 65536):
        end.sendall(data)
    end.shutdown(socket.SHUT_WR)
threading.Thread(target=up, daemon=True).start()
while data := end.recv(65536):
    os.write(1, data)
"""


async def bridge(guest: Guest, path: Path) -> asyncio.Server:
    """A socket whose every connection is a run of ssh.BRIDGE in the guest."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        job = await guest.start(*ssh.BRIDGE, on_stdout=writer.write)

        async def up() -> None:
            while data := await reader.read(65536):
                await guest.machine.send_stdin(job, data)
            guest.machine.close_stdin(job)

        feeder = asyncio.create_task(up())
        await job.done
        feeder.cancel()
        writer.close()

    return await asyncio.start_unix_server(serve, path)


@pytest.fixture(scope="module", params=["micro", "vng"])
def config(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """ssh_config of a guest; its folder's name needs care in shells and configurations."""
    run = tmp_path_factory.mktemp("run") / "100% mine"
    run.mkdir()
    (run / "proxy.py").write_text(PROXY)
    made = micro(run) if request.param == "micro" else host_root(run, Share(Path(__file__).parent))
    with in_thread(made) as guest:
        path = ssh.write(run, "box", [sys.executable, str(run / "proxy.py"), str(run / "socket")])
        done = guest(*ssh.UNPACK, stdin=ssh.archive(run))
        assert (done.status, done.err) == (0, b"")
        server = guest.do(bridge(guest, run / "socket"))
        yield path
        server.close()


def call(*words: str | Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([str(word) for word in words], input=stdin, capture_output=True, timeout=100, check=False)


def test_a_command_gives_its_output_and_exit_code(config: Path) -> None:
    done = call("ssh", "-F", config, "box", "cat; echo err >&2; exit 7", stdin=DATA)
    assert (done.returncode, done.stdout, done.stderr) == (7, DATA, b"err\n")


def test_a_person_gets_a_terminal_and_a_shell(config: Path) -> None:
    process = subprocess.Popen(
        ["ssh", "-F", str(config), "-tt", "box"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"tty\nexit 4\n")
    assert b"/dev/pts/0\r\n" in process.stdout.read()
    assert process.wait(60) == 4
    process.stdin.close()


def test_scp_copies_both_ways(config: Path, tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(DATA)
    assert call("scp", "-F", config, tmp_path / "there", "box:/tmp/copied").returncode == 0
    assert call("scp", "-F", config, "box:/tmp/copied", tmp_path / "back").returncode == 0
    assert (tmp_path / "back").read_bytes() == DATA


def test_rsync_copies_a_folder(config: Path, tmp_path: Path) -> None:
    (tmp_path / "tree/sub").mkdir(parents=True)
    (tmp_path / "tree/sub/file").write_bytes(DATA)
    made_for_guests = ssh.programs()
    loader = (made_for_guests / "ld-linux-x86-64.so.2", "--library-path", made_for_guests)
    done = call(*loader, made_for_guests / "rsync", "-a", "-e", f"ssh -F '{config}'", tmp_path / "tree", "box:/tmp/")
    assert (done.returncode, done.stderr) == (0, b"")
    assert call("ssh", "-F", config, "box", "cat /tmp/tree/sub/file").stdout == DATA


def test_another_key_is_refused(config: Path, tmp_path: Path) -> None:
    call("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key")
    other = tmp_path / "config"
    other.write_text(config.read_text().replace(str(config.parent / "ssh_key").replace("%", "%%"), f"{tmp_path}/key"))
    done = call("ssh", "-F", other, "box", "true")
    assert done.returncode == 255
    assert b"Permission denied (publickey)" in done.stderr


def test_another_guest_behind_the_name_is_noticed(config: Path, tmp_path: Path) -> None:
    call("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key")
    (tmp_path / "known").write_text("box " + (tmp_path / "key.pub").read_text())
    done = call("ssh", "-o", f"UserKnownHostsFile={tmp_path}/known", "-F", config, "box", "true")
    assert done.returncode == 255
    assert b"Host key verification failed" in done.stderr


def test_keys_can_be_read_by_nobody_else(config: Path) -> None:
    for name in ("ssh_key", "ssh_host_key", "ssh_host_key.dropbear"):
        assert (config.parent / name).stat().st_mode & 0o077 == 0


def test_nothing_of_a_connection_is_left_in_the_guest(config: Path) -> None:
    assert call("ssh", "-F", config, "box", "true").returncode == 0
    look = "ls -d /proc/[0-9]* | while read p; do cat $p/comm; done"

    # Those of this very connection, one a direction; the guest ends the others' a moment after their client.
    def alone() -> bool:
        return call("ssh", "-F", config, "box", look).stdout.split().count(b"socketed") == 2

    until(alone, 60, "the bridges of ended connections gone")
