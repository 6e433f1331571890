# SPDX-License-Identifier: Apache-2.0
"""A VM that lives: commands and their exit codes, streams, jobs, console, SysRq, pause, dump; one VM for all tests."""

from __future__ import annotations

import hashlib
import io
import os
import random
import signal
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernloop import runs
from kernloop.errors import HarnessError, UsageError
from kernloop.vm import client, wire
from kernloop.vm.answers import ExecResult
from kernloop.vm.client import VM
from kernloop.vm.request import VmRequest
from support import child, said, until
from vms import check_time_of_day, pids_of, running, sh

pytestmark = pytest.mark.vm
WARNING = "WARNING: CPU: 1 PID: 42 at kernel/fork.c:12 copy_process+0x1/0x2"
ALL_BYTES = bytes(range(256)) * 64


@pytest.fixture(scope="module")
def vm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VM]:
    with running(VmRequest(name="life"), state=tmp_path_factory.mktemp("state")) as vm:
        yield vm


@pytest.mark.parametrize(
    ("script", "status", "exit_code", "verdict"),
    [
        ("exit 0", 0, 0, "pass"),
        ("exit 7", 7, 7, "command-failed"),
        ("exit 120", 120, 1, "command-failed"),
        ("exit 124", 124, 1, "command-failed"),
        ("exit 125", 125, 1, "command-failed"),
        ("exit 127", 127, 127, "command-failed"),
        ("exit 200", 200, 1, "command-failed"),
        ("kill -9 $$", -9, 1, "command-failed"),
        ("kill -SEGV $$", -11, 1, "command-failed"),
    ],
)
def test_exec_exits_as_the_command_did(vm: VM, script: str, status: int, exit_code: int, verdict: str) -> None:
    result = sh(vm, script)
    assert (result.status, result.exit_code, result.verdict) == (status, exit_code, verdict)


def test_a_command_that_is_not_there_exits_127_and_the_next_step_is_to_push_it(vm: VM) -> None:
    result = vm.exec(["no-such-thing"])
    assert (result.exit_code, result.verdict) == (127, "command-failed")
    assert "no-such-thing" in result.summary
    assert "push life" in result.next


def test_a_deadline_exits_124_kills_the_command_and_leaves_the_vm_well(vm: VM) -> None:
    # Within it the shell has to be up, in a guest that waits for CPUs of its host.
    result = sh(vm, "echo begun; sleep 1000 & sleep 1000", timeout=4)
    assert (result.exit_code, result.verdict, result.stdout) == (124, "hang", b"begun\n")
    assert "the guest answers" in result.summary
    assert sh(vm, "pidof sleep").stdout == b""


def test_stdout_and_stderr_are_apart_and_any_byte_comes_through(vm: VM) -> None:
    result = vm.exec(["sh", "-c", "tee /dev/stderr | tail -c +2"], stdin=[ALL_BYTES])
    assert (result.stdout, result.stderr) == (ALL_BYTES[1:], ALL_BYTES)


def test_arguments_environment_and_folder_reach_the_command_as_they_are(vm: VM) -> None:
    words = ["a b", "$HOME", "*", "ünï", "--", "'\"", "\udcff"]
    result = vm.exec(["sh", "-c", 'pwd; echo "$X"; printf "%s\\n" "$@"', "sh", *words], cwd="/tmp", env={"X": "y z"})
    expected = ["/tmp", "y z", *words]
    assert result.stdout == "".join(f"{word}\n" for word in expected).encode(errors="surrogateescape")
    with pytest.raises(UsageError):
        vm.exec(["true", "x" * (5 << 20)])
    with pytest.raises(UsageError):
        vm.exec(["true", "a\0b"])


def test_megabytes_of_stdin_arrive_whole(vm: VM) -> None:
    data = random.Random(1).randbytes(10_000_000)
    pieces = (data[at : at + 100_000] for at in range(0, len(data), 100_000))
    result = vm.exec(["sh", "-c", "cat | sha256sum"], stdin=pieces)
    assert result.stdout.split()[0].decode() == hashlib.sha256(data).hexdigest()


def test_input_that_cannot_be_read_is_said_and_ends_the_command(vm: VM) -> None:
    def broken() -> Iterator[bytes]:
        yield b"some"
        raise OSError("the pipe burst")

    with pytest.raises(HarnessError, match="the pipe burst"):
        vm.exec(["cat"], stdin=broken())
    until(lambda: "running" not in vm.info().facts["jobs"].values(), 60, "the command is killed")


def test_a_client_that_stalls_makes_its_command_wait_and_loses_nothing(vm: VM) -> None:
    pid = pids_of(vm.run)["supervisor"]
    before = resident(pid)
    request = {"argv": ["dd", "if=/dev/zero", "bs=64k", "count=400"], "timeout": 100, "cwd": "", "env": {}}
    with wire.connect(vm.run) as connection:
        connection.send({"op": "exec", **request, "stdin": False, "background": False})
        messages = connection.messages(100)
        job = next(messages)["job"]
        until(lambda: grown(vm, job) > 2 << 20, 30, "output for nobody")
        until(lambda: stands_still(vm, job), 30, "the command waits")
        assert vm.job(job) is None
        assert sh(vm, "echo others go on").stdout == b"others go on\n"
        assert resident(pid) - before < 40 << 20
        total = 0
        for message in messages:
            total += len(wire.unpack(message["out"])) if "out" in message else 0
            if "result" in message:
                assert message["result"]["verdict"] == "pass"
                break
    assert total == 400 << 16


def grown(vm: VM, job: int) -> int:
    return (vm.run / "jobs" / str(job) / "stdout").stat().st_size


def stands_still(vm: VM, job: int) -> bool:
    size = grown(vm, job)
    time.sleep(0.7)
    return grown(vm, job) == size


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("stdin", ["None", "itertools.repeat(bytes(100000))"])
def test_a_client_that_is_killed_takes_its_command_with_it_and_the_vm_lives(vm: VM, stdin: str) -> None:
    script = (
        "import itertools, sys; from pathlib import Path; from kernloop.vm.client import VM\n"
        f"VM('life', Path(sys.argv[1])).exec(['sleep', '600'], stdin={stdin})"
    )
    before = len(vm.info().facts["jobs"])
    process = child(script, vm.run)
    job = until(lambda: [n for n in vm.info().facts["jobs"] if int(n) > before], 60, "the command runs")[0]
    if stdin != "None":
        time.sleep(1)  # until the window is full and nobody reads from the client any more
    process.kill()
    process.communicate()
    result = vm.job(int(job), timeout=60)
    assert result is not None
    assert result.status == -signal.SIGKILL
    assert sh(vm, "pidof sleep").stdout == b""


def test_a_background_job_goes_on_and_its_output_can_be_read_piece_by_piece(vm: VM) -> None:
    number = vm.exec_background(["sh", "-c", "for i in $(seq 300); do echo line $i; done; echo oh >&2; exit 5"])
    result = vm.job(number, timeout=60)
    assert result is not None
    assert (result.status, result.stderr) == (5, b"oh\n")
    pieces, cursor, more = [], 0, True
    while more:
        piece = vm.output(number, "stdout", since=cursor, limit=7)
        assert piece.start == cursor
        pieces.append(piece.data)
        cursor, more = piece.cursor, piece.more
    assert b"".join(pieces) == result.stdout == b"".join(b"line %d\n" % i for i in range(1, 301))
    assert vm.output(number, "stdout", since=-4).data == b"300\n"
    assert vm.output(number, "stdout", since=1 << 40).data == b""


def test_a_background_job_can_be_killed_and_one_that_is_not_there_is_a_usage_error(vm: VM) -> None:
    number = vm.exec_background(["sleep", "600"])
    assert vm.job(number) is None
    vm.kill(number)
    result = vm.job(number)
    assert result is not None
    assert result.status == -signal.SIGKILL
    for wrong in (lambda: vm.job(99999), lambda: vm.kill(99999), lambda: vm.output(1, "../../verdict.json")):
        with pytest.raises(UsageError):
            wrong()


def test_many_commands_at_once_do_not_mix(vm: VM) -> None:
    found: dict[int, ExecResult] = {}

    def run(number: int) -> None:
        found[number] = sh(vm, f"for i in $(seq 200); do echo {number}; done; exit {number}")

    threads = [threading.Thread(target=run, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert {number: result.status for number, result in found.items()} == {number: number for number in range(12)}
    assert all(result.stdout == b"%d\n" % number * 200 for number, result in found.items())


def test_console_bytes_come_as_they_are_and_cursors_are_exact(vm: VM) -> None:
    cursor = vm.console(since=-1).cursor
    sh(vm, "printf 'caf\\303\\251 \\377\\376 \\303\\n' > /dev/ttyS0")
    until(lambda: vm.console(since=cursor).data.endswith(b"\n"), 60, "the whole line")
    pieces, at = [], cursor
    while piece := vm.console(since=at, limit=1).data:
        pieces.append(piece)
        at += 1
    assert b"".join(pieces) == vm.console(since=cursor).data == (vm.run / "console.log").read_bytes()[cursor:]
    assert b"caf\xc3\xa9 \xff\xfe \xc3\r\n" in b"".join(pieces)
    assert vm.console(since=cursor).text.count("\ufffd") == 3


def test_grep_of_the_console_goes_on_behind_lines_longer_than_the_limit(vm: VM) -> None:
    cursor = vm.console(since=-1).cursor
    sh(vm, "for i in 1 2 3; do echo want-$i-xxxxxxxxxxxxxxxxxxxxxxxxxxxx; echo other; done > /dev/ttyS0")
    assert vm.wait_for("want-3-x{28}", since=cursor, timeout=60).matched
    found = []
    while True:
        piece = vm.console(since=cursor, limit=8, grep="want")
        found.append(piece.data)
        cursor = piece.cursor
        if not piece.more:
            break
    assert found == [b"want-1-x", b"want-2-x", b"want-3-x"]


def test_a_wait_sees_a_line_that_is_there_and_one_that_comes_also_without_its_end(vm: VM) -> None:
    assert vm.wait_for("Linux version", timeout=0).matched
    cursor = vm.console(since=-1).cursor
    assert not vm.wait_for("^prompt> $", since=cursor, timeout=0.2).matched
    vm.exec_background(["sh", "-c", "sleep 0.5; printf 'prompt> ' > /dev/ttyS0"])
    begun = time.monotonic()
    found = vm.wait_for("^prompt> $", since=cursor, timeout=60)
    assert found.matched
    assert time.monotonic() - begun < 10
    sh(vm, "echo > /dev/ttyS0")
    with pytest.raises(UsageError):
        vm.wait_for("(")


def test_each_of_many_that_wait_is_told(vm: VM) -> None:
    cursor = vm.console(since=-1).cursor
    found: list[bool] = []

    def wait(number: int) -> None:
        found.append(vm.wait_for(f"^for-{number}\\b", since=cursor, timeout=60).matched)

    threads = [threading.Thread(target=wait, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    sh(vm, "for i in 7 6 5 4 3 2 1 0; do echo for-$i > /dev/ttyS0; done")
    for thread in threads:
        thread.join(40)
    assert found == [True] * 8


def test_a_warning_of_the_kernel_is_found_by_a_wait_and_named_by_the_command_under_it(vm: VM) -> None:
    number = vm.exec_background(["sh", "-c", f"sleep 3; echo '{WARNING}' > /dev/kmsg"])
    # New is what comes after this has been asked.
    found = vm.wait_report(timeout=60, new=True)
    assert found.matched
    result = vm.job(number, timeout=60)
    assert result is not None
    assert (result.verdict, result.exit_code, result.reports) == ("pass", 0, (found.line,))
    assert result.summary == f"exit 0; the kernel reported: {found.line}"
    assert vm.info().facts["reports"] == [found.line]
    assert sh(vm, "true").reports == ()
    assert vm.wait_report(timeout=0).line == found.line
    assert not vm.wait_report(timeout=0, new=True).matched


def test_sysrq_answers_on_the_console_each_key_in_turn(vm: VM) -> None:
    cursor = vm.sysrq("lwm")
    for said_ in ("Show backtrace of all active CPUs", "Show Blocked State", "Show Memory"):
        found = vm.wait_for(f"sysrq: {said_}", since=cursor, timeout=15)
        assert found.matched
        cursor = found.cursor
    with pytest.raises(UsageError):
        vm.sysrq("l; rm")


def test_a_paused_vm_stands_still_and_refuses_commands_until_it_goes_on(vm: VM) -> None:
    vm.pause()
    try:
        assert vm.info().state == "paused"
        for refused in (lambda: vm.exec(["true"]), lambda: vm.sysrq("l"), lambda: vm.snapshot("paused"), vm.pause):
            with pytest.raises(UsageError, match="paused"):
                refused()
    finally:
        vm.resume()
    assert vm.info().state == "running"
    assert sh(vm, "echo on").stdout == b"on\n"


def test_a_deadline_that_passes_while_the_vm_is_paused_says_so(vm: VM) -> None:
    number = vm.exec_background(["sleep", "600"], timeout=3)
    vm.pause()
    result = vm.job(number, timeout=60)
    vm.resume()
    assert result is not None
    assert (result.verdict, "the VM is paused" in result.summary) == ("hang", True)


def test_a_dump_of_a_living_guest_is_a_vmcore_and_a_second_one_needs_a_name_of_its_own(vm: VM, tmp_path: Path) -> None:
    done = vm.dump(tmp_path / "core, one")
    assert (tmp_path / "core, one").read_bytes()[:8] == b"KDUMP   "
    assert done["bytes"] == (tmp_path / "core, one").stat().st_size
    assert sh(vm, "echo lives").stdout == b"lives\n"
    for path in (tmp_path / "core, one", tmp_path / "no" / "folder"):
        with pytest.raises(UsageError):
            vm.dump(path)
    assert [path.name for path in tmp_path.iterdir() if path.name[0] == "."] == []


def test_what_needs_the_whole_machine_is_done_by_one_at_a_time(vm: VM, tmp_path: Path) -> None:
    errors: list[str] = []

    def dump(number: int) -> None:
        try:
            vm.dump(tmp_path / f"core-{number}")
        except HarnessError as error:
            errors.append(error.message)

    threads = [threading.Thread(target=dump, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(list(tmp_path.glob("core-*"))) >= 1
    assert len(list(tmp_path.glob("core-*"))) + len(errors) == 3
    assert all("busy" in error for error in errors)
    assert vm.info().state == "running"


def test_a_folder_goes_in_and_comes_out_the_same(vm: VM, tmp_path: Path) -> None:
    source = tmp_path / "-odd name"
    (source / "sub").mkdir(parents=True)
    (source / "sub/run.sh").write_bytes(b"#!/bin/sh\necho ran\n")
    (source / "sub/run.sh").chmod(0o755)
    (source / "big").write_bytes(random.Random(2).randbytes(1_000_000))
    (source / "link").symlink_to("big")
    vm.push(source, "/root/in/")
    assert sh(vm, "cd '/root/in/-odd name' && sub/run.sh && cmp big link").stdout == b"ran\n"
    vm.pull("/root/in/-odd name", tmp_path / "out")
    assert (tmp_path / "out/big").read_bytes() == (source / "big").read_bytes()
    assert os.access(tmp_path / "out/sub/run.sh", os.X_OK)
    assert (tmp_path / "out/link").is_symlink()
    vm.pull("/root/in/-odd name/big", tmp_path)
    assert (tmp_path / "big").read_bytes() == (source / "big").read_bytes()


def test_pushing_to_a_name_a_folder_or_nothing_does_what_cp_does(vm: VM, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"data")
    vm.push(tmp_path / "file", "/tmp/named")
    vm.push(tmp_path / "file", "/tmp")
    vm.push(tmp_path / "file", "/tmp/deep/er/")
    assert sh(vm, "cat /tmp/named /tmp/file /tmp/deep/er/file").stdout == b"data" * 3
    for source, target in ((tmp_path / "none", "/tmp"), (Path("/"), "/tmp/"), (tmp_path / "file", "")):
        with pytest.raises(UsageError):
            vm.push(source, target)
    for wrong in ("/", "..", "/tmp/.."):
        with pytest.raises(UsageError):
            vm.pull(wrong, tmp_path)
    with pytest.raises(HarnessError, match="no-such"):
        vm.pull("/no-such", tmp_path / "x")
    with pytest.raises(UsageError, match="memory"):
        vm.push(huge(tmp_path), "/tmp/")


def huge(folder: Path) -> Path:
    with (folder / "huge").open("wb") as file:
        file.truncate(1 << 40)
    return folder / "huge"


@pytest.mark.parametrize("name", ["log/../.bashrc", "../.bashrc", "/{}/.bashrc", "log-else", "link/.bashrc"])
def test_a_guest_cannot_write_beside_what_was_pulled(vm: VM, tmp_path: Path, name: str) -> None:
    archive = io.BytesIO()
    home = tmp_path / "home"
    home.mkdir()
    (home / ".bashrc").write_text("mine")
    with tarfile.open(fileobj=archive, mode="w") as members:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, ".."
        members.addfile(link)
        for path, data in (("log", b"fine"), (name.format(str(home).strip("/")), b"evil")):
            member = tarfile.TarInfo(path)
            member.size = len(data)
            members.addfile(member, io.BytesIO(data))
    (tmp_path / "evil.tar").write_bytes(archive.getvalue())
    (tmp_path / "tar").write_bytes(b"#!/bin/sh\nexec cat /tmp/evil.tar\n")
    (tmp_path / "tar").chmod(0o755)
    vm.push(tmp_path / "evil.tar", "/tmp/")
    vm.push(tmp_path / "tar", "/root/")  # the first folder of PATH
    try:
        with pytest.raises(HarnessError):
            vm.pull("/tmp/log", home / "log")
            raise HarnessError("a file that is called otherwise goes nowhere")
    finally:
        assert sh(vm, "rm /root/tar").status == 0
    assert (home / ".bashrc").read_text() == "mine"
    assert {path.name for path in home.iterdir()} <= {".bashrc", "log"}


def test_a_client_that_talks_nonsense_harms_nobody(vm: VM) -> None:
    for text in (b"", b"\n", b"nonsense\n", b"[]\n", b"{}\n", b'{"op": "info", "x": 1}\n', b'{"op": "exec"}\n'):
        with wire.connect(vm.run) as connection:
            connection.socket.sendall(text)
            connection.socket.shutdown(1)
            while connection.socket.recv(1 << 16):
                pass
    assert vm.info().state == "running"
    assert (vm.run / "supervisor.log").read_text() == ""


def test_the_socket_is_for_its_user_alone(vm: VM) -> None:
    assert (vm.run / wire.SOCKET).stat().st_mode & 0o777 == 0o600
    assert vm.run.stat().st_mode & 0o777 == 0o700


def test_the_time_of_day_is_the_hosts(vm: VM) -> None:
    check_time_of_day(vm)


def test_other_processes_find_it_by_its_name(vm: VM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(vm.run.parents[2]))
    script = "from kernloop.vm import client; print(client.find('life').exec(['echo', 'found']).stdout)"
    assert said(child(script)) == "b'found\\n'"
    with pytest.raises(UsageError, match="there are: life"):
        client.find("death")


def test_its_run_says_at_the_end_how_it_was(tmp_path_factory: pytest.TempPathFactory) -> None:
    with running(state=tmp_path_factory.mktemp("state")) as vm:
        sh(vm, "true")
        verdict = vm.stop()
        assert (verdict["verdict"], verdict["summary"], verdict["exit_code"]) == ("pass", "stopped", 0)
        assert verdict["kernel"]["matches"] is True
        assert not runs.is_live(vm.run)
        for gone in (lambda: vm.exec(["true"]), vm.info, lambda: vm.wait_for("x")):
            with pytest.raises(HarnessError, match="has ended"):
                gone()
        assert vm.wait_exit().state == "stopped"
        assert b"Linux version" in vm.console().data
        assert vm.stop() == verdict
