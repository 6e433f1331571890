# SPDX-License-Identifier: Apache-2.0
"""Snapshots: damage is noticed and mended, two first runs make one, none is half-made; and VMs that a user saved."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kernloop import runs
from kernloop.errors import HarnessError, UsageError
from kernloop.host.paths import cache_dir, state_dir
from kernloop.vm import client, saved, snapshots
from kernloop.vm.client import VM
from kernloop.vm.request import VmRequest
from kernloop.vm.topology import numa, parse_cpus
from support import Done, events_of, kernloop, processes_naming, runs_dir, start, until, verdict_of
from vms import CLEANED, check_nothing_left, check_time_of_day, pids_of, sh, started, stop_all

pytestmark = pytest.mark.vm


@pytest.fixture(autouse=True)
def all_stopped(own_folders: None) -> Iterator[None]:
    yield
    stop_all()


@pytest.fixture(scope="module")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cache_at(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def own_snapshots(monkeypatch: pytest.MonkeyPatch, own_cache: Path) -> Path:
    """A cache that shares all with the machine's but the snapshots; gives the folder of these."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(own_cache))
    return own_cache / "kernloop/snapshots"


def cache_at(root: Path) -> Path:
    (root / "kernloop/snapshots").mkdir(parents=True)
    for entry in cache_dir().iterdir():
        if entry.name != "snapshots":
            (root / "kernloop" / entry.name).symlink_to(entry)
    return root


def the_snapshot(folder: Path) -> Path:
    [path] = [path for path in folder.iterdir() if not path.name.startswith(".")]
    return path


def check_echo(done: Done) -> None:
    assert (done.status, done.out, b"Traceback" in done.err) == (0, b"fine\n", False), done


def echo() -> Done:
    return kernloop("run", "--", "echo", "fine")


def newest() -> list[str]:
    """What happened in the last run."""
    return [entry["event"] for entry in events_of(max(runs_dir().iterdir(), key=lambda run: run.stat().st_mtime_ns))]


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def spoil(file: Path) -> None:
    with file.open("r+b") as out:
        out.seek(file.stat().st_size // 2)
        out.write(b"spoilt")


# A state that QEMU refuses although the sums are right: as if another QEMU had written it.
def refuse(file: Path) -> None:
    spoil(file)
    file.write_bytes(b"QEVM\0\0\0\3" + bytes(1000))
    snapshots._seal(file.parent)


def test_two_first_runs_at_once_make_one_snapshot_and_a_killed_one_leaves_its_place_to_another(
    own_snapshots: Path,
) -> None:
    processes = [start("run", "--", "echo", "fine") for _ in range(3)]
    until(lambda: list(own_snapshots.glob(".*.staging")), 40, "one makes it")
    [staging] = own_snapshots.glob(".*.staging")
    maker = int(staging.name.split(".")[-2])
    os.kill(maker, signal.SIGKILL)
    ends = {process.pid: process.communicate(timeout=100) for process in processes}
    assert [ends[process.pid][0] for process in processes if process.pid != maker] == [b"fine\n"] * 2
    assert the_snapshot(own_snapshots)
    until(lambda: [path.name for path in own_snapshots.iterdir()] == [the_snapshot(own_snapshots).name], CLEANED, "one")
    assert sorted(verdict_of(run)["verdict"] for run in runs_dir().iterdir()) == ["infra", "pass", "pass"]
    passed = [run for run in runs_dir().iterdir() if verdict_of(run)["verdict"] == "pass"]
    assert sorted("boot" in [entry["event"] for entry in events_of(run)] for run in passed) == [False, True]


def test_damage_of_any_kind_is_noticed_the_snapshot_is_made_anew_and_the_command_runs(own_snapshots: Path) -> None:
    check_echo(echo())
    check_echo(echo())
    assert "boot" not in newest()
    harm: list[tuple[str, Callable[[Path], None]]] = [("ram", cut), ("state", refuse)]
    for name, damage in harm:
        damage(the_snapshot(own_snapshots) / name)
        check_echo(echo())
        assert "boot" in newest(), (name, damage)
    assert "snapshot-damaged" in newest()
    assert sorted(path.name for path in the_snapshot(own_snapshots).iterdir()) == [
        "about.json",
        "console",
        "ram",
        "state",
    ]


def test_a_cold_run_makes_no_snapshot_and_needs_none(own_snapshots: Path) -> None:
    before = list(own_snapshots.iterdir())
    check_echo(kernloop("run", "--cold", "--append", "quiet", "--", "echo", "fine"))
    assert list(own_snapshots.iterdir()) == before
    assert "boot" in newest()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small tmpfs needs root")
@pytest.mark.parametrize("size", ["100m", "310m"])
def test_a_disk_that_is_full_while_a_snapshot_is_made_is_one_clear_error(
    size: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk], check=True)
    try:
        monkeypatch.setenv("XDG_CACHE_HOME", str(cache_at(disk / "cache")))
        folder = disk / "cache/kernloop/snapshots"
        process = start("run", "--", "echo", "fine")
        if size == "310m":
            until(lambda: list(folder.glob(".*.staging/ram")), 40, "it is being made")
            with (folder.parent / "filler").open("wb") as filler:
                while filler.write(bytes(1 << 20)) == 1 << 20:
                    pass
    except OSError:
        pass  # full
    out, err = process.communicate(timeout=100)
    done = Done(process.returncode, out, err)
    until(lambda: not list(folder.iterdir()), CLEANED, "nothing is left")
    subprocess.run(["umount", "-l", disk], check=True)
    assert done.status == 125, done
    assert "the disk is full" in done.text
    assert "next:" in done.text
    assert "Traceback" not in done.text


def test_no_snapshot_that_a_vm_runs_from_is_trimmed_and_there_are_not_too_many(own_snapshots: Path) -> None:
    vm = started()
    used = the_snapshot(own_snapshots)
    (own_snapshots / ".old.1.doomed").mkdir()
    assert snapshots.trim(keep=0) == []
    assert used.exists()
    assert sh(vm, "echo here").stdout == b"here\n"
    vm.stop()
    assert [snapshot.path for snapshot in snapshots.trim(keep=0)] == [used]
    assert list(own_snapshots.iterdir()) == []


def test_time_and_randomness_are_a_guests_own_after_a_restore() -> None:
    words = []
    for name in ("a", "b"):
        vm = started(name)
        check_time_of_day(vm)
        words.append(sh(vm, "cat /proc/sys/kernel/random/uuid; head -c 32 /dev/random | sha256sum").stdout.split())
    assert not set(words[0][:2]) & set(words[1][:2])


def test_a_guest_has_the_topology_it_was_asked_for() -> None:
    shape = numa(parse_cpus("4,sockets=2,cores=1,threads=2"), 512, ("0-1:256M", "2-3:256M"), ("0-1:21",))
    vm = started(topology=shape)
    node = "/sys/devices/system/node"
    cpu = "/sys/devices/system/cpu/cpu{}/topology"
    words = f"""
        cat {node}/node0/cpulist {node}/node1/cpulist {node}/node1/distance
        cat {cpu.format(1)}/thread_siblings_list {cpu.format(3)}/physical_package_id"""
    assert sh(vm, words).stdout.decode().splitlines() == ["0-1", "2-3", "21 10", "0-1", "1"]
    vm.snapshot("t")
    vm.stop()
    copy = client.start(VmRequest(tag="t", memory=99999, idle=77))
    assert sh(copy, words).stdout.decode().splitlines() == ["0-1", "2-3", "21 10", "0-1", "1"]
    assert copy.info().facts["memory"] == 512
    spec = runs.read_json(copy.run / "spec.json")
    assert (spec["idle"], spec["topology"]["cpus"]) == (77, 4)


def test_ten_branches_go_on_from_one_prepared_vm_each_for_itself(tmp_path: Path) -> None:
    vm = started("prepared")
    (tmp_path / "data").write_bytes(os.urandom(1 << 20))
    vm.push(tmp_path / "data", "/root/data")
    assert vm.snapshot("ready")["bytes"] > 0
    assert sh(vm, "rm /root/data; echo goes on").stdout == b"goes on\n"
    check_time_of_day(vm)
    vm.stop()
    seen = []
    for number in range(10):
        branch = client.start(VmRequest(name=f"branch-{number}", tag="ready"))
        script = f"sha256sum < /root/data; ls /root; touch /root/{number}; cat /proc/sys/kernel/random/uuid"
        lines = sh(branch, script).stdout.decode().splitlines()
        seen.append(lines[:-1])
        check_time_of_day(branch)
        assert branch.console(since=-1).cursor > 1000
        assert branch.stop()["verdict"] == "pass"
        check_nothing_left(branch.run)
    assert all(lines == seen[0] for lines in seen)


def test_jobs_that_ran_when_a_vm_was_saved_go_on_in_its_copies_and_disturb_none(tmp_path: Path) -> None:
    vm = started("a")
    ticks = vm.exec_background(["sh", "-c", "while echo >> /tmp/ticks; do sleep 0.1; done"])
    chatty = vm.exec_background(["sh", "-c", "while :; do echo chatter chatter chatter; echo more >&2; done"])
    feeding = threading.Thread(target=lambda: vm.exec(["cat"], stdin=(bytes(100_000) for _ in range(200))))
    feeding.start()
    until(lambda: len(vm.info().facts["jobs"]) == 3, 60, "all run")
    for round_ in range(2):
        vm.snapshot("busy")
        copy = client.start(VmRequest(name="copy", tag="busy"))
        for number in range(8):
            result = sh(copy, f"echo {number}; exit {number}")
            assert (result.status, result.stdout) == (number, b"%d\n" % number)
            assert result.job == number + 1
        first = int(sh(copy, "wc -l < /tmp/ticks").stdout)
        assert int(sh(copy, "sleep 2; wc -l < /tmp/ticks").stdout) > first, round_
        assert copy.stop()["verdict"] == "pass"
    feeding.join(60)
    for number in (ticks, chatty):
        vm.kill(number)
    said = vm.job(chatty)
    assert said is not None
    assert set(said.stdout.splitlines()[1:-1]) == {b"chatter chatter chatter"}
    assert sh(vm, "echo fine").stdout == b"fine\n"


def test_a_saved_vm_may_be_saved_over_and_removed_under_the_vms_that_came_from_it() -> None:
    vm = started("a")
    for word in ("one", "two"):
        sh(vm, f"echo {word} > /root/which")
        vm.snapshot("t")
    assert [tag.tag for tag in saved.tags()] == ["t"]
    copy = client.start(VmRequest(tag="t"))
    assert sh(copy, "cat /root/which").stdout == b"two\n"
    saved.remove("t")
    assert saved.tags() == []
    assert sh(copy, "cat /root/which").stdout == b"two\n"
    assert list((state_dir() / "vms").iterdir()) == []
    with pytest.raises(UsageError, match="no VM is saved as 't'"):
        client.start(VmRequest(tag="t"))
    for wrong in ("../x", "", ".x", "a/b"):
        with pytest.raises(UsageError, match="cannot name"):
            vm.snapshot(wrong)


@pytest.mark.parametrize("name", ["state", "console", "about.json"])
@pytest.mark.parametrize("damage", [spoil, cut, Path.unlink])
def test_a_saved_vm_that_was_damaged_is_a_clear_error(
    name: str, damage: Callable[[Path], None], saved_once: Path
) -> None:
    damage(saved_once / name)
    with pytest.raises(HarnessError, match=r"the saved VM t is damaged.*\((state|console|about.json)\)") as caught:
        client.start(VmRequest(tag="t"))
    assert str(saved_once) in caught.value.hint
    assert not client.listing()
    assert not runs_dir().exists()


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved VM to copy from."""
    state = tmp_path_factory.mktemp("state")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(state))
        vm = client.start(VmRequest())
        vm.snapshot("t")
        vm.stop()
    return state / "kernloop/vms/t"


@pytest.fixture
def saved_once(template: Path) -> Path:
    folder = state_dir() / "vms/t"
    folder.parent.mkdir(parents=True)
    subprocess.run(["cp", "-a", template, folder], check=True)
    return folder


def test_a_saved_vm_of_another_initramfs_or_qemu_is_refused(saved_once: Path) -> None:
    about = runs.read_json(saved_once / "about.json")
    runs.write_json(saved_once / "about.json", {**about, "key": "0" * 24})
    with pytest.raises(HarnessError, match="saved with another QEMU or initramfs") as caught:
        client.start(VmRequest(tag="t"))
    assert "kernloop vm snapshot" in caught.value.hint


def test_a_state_that_qemu_refuses_is_an_error_and_leaves_no_vm(saved_once: Path) -> None:
    (saved_once / "state").write_bytes(b"QEVM\0\0\0\3" + bytes(1000))
    about = runs.read_json(saved_once / "about.json")
    about["files"]["state"] = snapshots.checksum(saved_once / "state")
    runs.write_json(saved_once / "about.json", about)
    with pytest.raises(HarnessError, match="QEMU could not migrate-incoming"):
        client.start(VmRequest(tag="t"))
    assert not client.listing()
    [run] = runs_dir().iterdir()
    assert verdict_of(run)["verdict"] == "infra"
    check_nothing_left(run)


def test_a_vm_that_hangs_or_goes_while_it_is_saved_leaves_no_half_of_it() -> None:
    vm = started()
    sh(vm, "cd /tmp; head -c 4000000 /dev/urandom > some; for i in $(seq 40); do cat some; done > much")
    errors: list[str] = []

    def save() -> None:
        try:
            vm.snapshot("t")
        except HarnessError as error:
            errors.append(error.message)

    thread = threading.Thread(target=save)
    thread.start()
    until(lambda: list(state_dir().glob("vms/.t.*/state")), 60, "it is being saved")
    with pytest.raises(HarnessError, match="busy: saving it as t"):
        vm.snapshot("u")
    os.kill(pids_of(vm.run)["qemu"], signal.SIGKILL)
    thread.join(20)
    assert errors
    assert saved.tags() == []
    runs.wait_until_over(vm.run, CLEANED)
    assert verdict_of(vm.run)["verdict"] == "lost"
    check_nothing_left(vm.run)
    assert not processes_naming(runs_dir())
    assert VM("x", vm.run).stop()["verdict"] == "lost"


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small tmpfs needs root")
def test_a_disk_that_is_full_while_a_vm_is_saved_or_writes_ends_neither_the_vm_nor_its_other_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=262m", "tmpfs", disk], check=True)
    try:
        monkeypatch.setenv("XDG_STATE_HOME", str(disk))
        vm = started()
        sh(vm, "cd /tmp; head -c 4000000 /dev/urandom > some; for i in $(seq 55); do cat some; done > much")
        with pytest.raises(HarnessError, match="could not migrate"):
            vm.snapshot("t")
        assert saved.tags() == []
        assert sh(vm, "echo on").stdout == b"on\n"
        with (disk / "filler").open("wb") as filler, pytest.raises(OSError, match="No space"):
            while True:
                filler.write(bytes(1 << 20))
        result = sh(vm, "dd if=/dev/zero bs=1M count=8; sleep 60", timeout=30)
        assert (result.verdict, result.exit_code) == ("infra", 125)
        assert "No space left" in result.summary
        with pytest.raises(HarnessError, match="disk is full"):
            vm.snapshot("t")
        (disk / "filler").unlink()
        assert sh(vm, "echo on").stdout == b"on\n"
        assert vm.stop()["verdict"] == "pass"
    finally:
        stop_all()
        subprocess.run(["umount", "-l", disk], check=True)
