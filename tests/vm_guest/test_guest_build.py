# SPDX-License-Identifier: Apache-2.0
"""`kernloop kernel build`: from a source tree to a kernel that boots; after an edit again, with the least building."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

import trees
from support import ROOT, SCHEDULERS, Done, kernloop, processes_naming, start, until

pytestmark = pytest.mark.vm

_LONG = 1500.0
# Where this release has the heart of sched_ext.
_EXT = ("kernel/sched/ext/ext.c", "kernel/sched/ext.c")


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    trees.built()


def words(*more: str) -> list[str]:
    fragments = [word for name in trees.FRAGMENTS for word in ("--fragment", name)]
    settings = [word for symbol, value in trees.SETTINGS for word in ("--config", f"{symbol}={value}")]
    return ["--profile", "tiny", *fragments, *settings, *more]


def build(*more: str) -> Done:
    return kernloop("kernel", "build", trees.linux(), *words(*more), "--json", seconds=_LONG)


def ext() -> str:
    return next(name for name in _EXT if (trees.linux() / name).exists())


def test_the_kernel_that_was_built_boots_runs_and_is_known_by_its_build_id() -> None:
    built = trees.kernel()
    done = kernloop("run", "--json", "--kernel", f"tree:{trees.linux()}", "--", "uname", "-r")
    assert done.status == 0, done
    assert done.json["stdout"]["text"].strip() == built.release
    assert done.json["kernel"]["build_id"] == built.build_id
    assert done.json["kernel"]["matches"] is True


def test_a_scheduler_passes_verify_in_it_compiled_with_the_trees_own_headers() -> None:
    done = kernloop("verify", SCHEDULERS / "vtime.bpf.c", "--kernel", f"tree:{trees.linux()}", "--json", seconds=_LONG)
    assert (done.status, done.json["verdict"]) == (0, "pass"), done


def test_what_the_command_that_uses_a_module_prints_is_shown() -> None:
    module = ROOT / "examples/drivers/kl_fifo"
    use = ("--", "sh", "-c", "printf hello > /dev/kl_fifo && head -c 5 /dev/kl_fifo")
    done = kernloop("kernel", "build", trees.linux(), *words("--module", str(module)), *use, seconds=_LONG)
    assert done.status == 0, done
    assert b"hello" in done.out
    again = kernloop("kernel", "build", trees.linux(), *words("--module", str(module), "--json"), *use, seconds=_LONG)
    assert (again.status, again.json["verdict"]) == (0, "pass")


def test_a_fragment_that_is_misspelt_is_refused_and_leaves_no_folder() -> None:
    before = sorted(trees.built().folder.parent.iterdir())
    done = kernloop("kernel", "build", trees.linux(), "--profile", "tiny", "--fragment", "kasn")
    assert (done.status, "no Kconfig fragment 'kasn'" in done.text) == (2, True)
    assert sorted(trees.built().folder.parent.iterdir()) == before


def test_a_second_build_finds_nothing_to_do_and_the_tree_is_as_it_was() -> None:
    for name in (".config", "vmlinux", "include/config", "include/generated"):
        assert not (trees.linux() / name).exists()
    done = build()
    assert (done.status, done.json["steps"]) == (0, 0)
    assert "nothing had changed" in done.json["summary"]


def test_an_edit_rebuilds_its_object_alone_and_says_why_and_undone_it_is_the_kernel_of_before() -> None:
    before = build().json["kernel"]["sha256"]
    file = ext()
    with trees.appended(file, "\nint kernloop_edit = 1;\n"):
        stale = kernloop("run", "--kernel", f"tree:{trees.linux()}", "--", "true")
        assert stale.status == 2
        assert f"{file} of" in stale.text
        assert "was edited since it was built" in stale.text
        done = build()
        assert done.status == 0, done
        assert "1 object: " + file in done.json["summary"]
        assert done.json["compiled"] < 15  # its object, and what links a kernel
        assert done.json["kernel"]["sha256"] != before
    assert build().json["kernel"]["sha256"] == before


def test_a_syntax_error_is_told_with_its_line_and_function_and_is_not_new_the_second_time() -> None:
    file = trees.linux() / ext()
    with trees.appended(ext(), "\nint kernloop_wrong(void)\n{\n\treturn nothing_of_that_name;\n}\n"):
        line = len(file.read_text().splitlines()) - 1
        done = build()
        assert (done.status, done.json["verdict"]) == (1, "build-failed")
        error = done.json["diagnostics"][0]
        assert error["severity"] == "error"
        assert (error["file"], error["line"], error["function"]) == (ext(), line, "kernloop_wrong")
        assert "nothing_of_that_name" in error["message"]
        assert [d["line"] for d in done.json["new"] if d["severity"] == "error"] == [line, line + 1]
        assert f"edit {ext()}, line {line}" == done.json["next"]
        assert not [d for d in build().json["new"] if d["severity"] == "error"]
    assert build().status == 0


def test_a_warning_stands_until_it_is_cured_and_is_new_once() -> None:
    with trees.appended("kernel/ksyms_common.c", "\nstatic int kernloop_unused(void)\n{\n\treturn 0;\n}\n"):
        first, again = build().json, build().json
        assert [d["option"] for d in first["new"]] == ["-Wunused-function"]
        assert (again["new"], again["diagnostics"]) == ([], first["diagnostics"])
    assert build().json["diagnostics"] == first["diagnostics"] - 1


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("DRM_VIRTIO_GPU=y", "DRM [=n]"),
        ("NO_SUCH_SYMBOL=y", "no such symbol"),
        ("ZLIB_DEFLATE=y", "cannot be set by hand"),
        ("PREEMPT_BUILD=n", "it is selected by"),
    ],
)
def test_a_symbol_that_cannot_be_set_is_named_with_what_it_needs(setting: str, reason: str) -> None:
    done = kernloop("kernel", "config", trees.linux(), "--profile", "tiny", "--config", setting, "--json")
    assert done.status == 1, done
    [dropped] = done.json["dropped"]
    assert dropped["symbol"] == setting.partition("=")[0]
    assert reason in dropped["why"], dropped
    assert setting.partition("=")[0] in done.json["summary"]


def test_why_a_symbol_is_off_is_told_to_the_root() -> None:
    done = kernloop(
        "kernel", "config", trees.linux(), *words(), "--why", "DRM_VIRTIO_GPU", "--why", "SCHED_CLASS_EXT", "--json"
    )
    assert done.status == 0, done
    gpu, scx = done.json["symbols"]
    assert (gpu["value"], gpu["why"]) == ("n", "DRM [=n]")
    assert gpu["place"].startswith("drivers/gpu/drm/virtio/Kconfig:")
    assert (scx["value"], scx["unmet"]) == ("y", [])


def test_compile_commands_and_gdb_scripts_lie_with_the_objects() -> None:
    folder = trees.built().folder
    commands = json.loads((folder / "compile_commands.json").read_text())
    assert str(trees.linux() / "kernel/fork.c") in {entry["file"] for entry in commands}
    assert (folder / "vmlinux-gdb.py").exists()


def test_a_build_that_is_killed_is_finished_by_the_next_to_the_same_kernel() -> None:
    before = build().json["kernel"]["sha256"]
    names = ["kernel/fork.c", "kernel/signal.c", "mm/memory.c", "fs/namei.c"]
    objects = [(trees.built().folder / name).with_suffix(".o") for name in names]
    for name, file in zip(names, objects, strict=True):
        os.utime(trees.linux() / name)
        file.unlink()
    killed = start("kernel", "build", trees.linux(), *words(), "--json", stdout=subprocess.DEVNULL)
    under_way = trees.built().folder / "kernloop/under-way"
    # Out of ccache a file is there in no time; the kernel is linked for seconds after that.
    until(lambda: any(file.exists() for file in objects), 120, "the first of them compiled")
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert under_way.exists()
    until(lambda: not _makes(), 60, "make gone with kernloop")
    done = build()
    assert done.status == 0, done
    assert not under_way.exists()
    assert done.json["kernel"]["sha256"] == before


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small tmpfs needs root")
def test_a_full_disk_is_ours_not_the_codes_and_with_room_the_build_goes_on(tmp_path: Path) -> None:
    folder, disk = trees.built().folder, tmp_path / "disk"
    disk.mkdir()
    # What the build writes goes to a small disk; without it the folder is as it was.
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=60M", "tmpfs", disk], check=True)
    try:
        for name in ("upper", "work"):
            (disk / name).mkdir()
        layers = f"lowerdir={folder},upperdir={disk}/upper,workdir={disk}/work"
        subprocess.run(["mount", "-t", "overlay", "-o", layers, "overlay", folder], check=True)
        try:
            with trees.appended(ext(), "\nint kernloop_edit = 2;\n"):
                full = build()
                assert (full.status, full.json["verdict"]) == (125, "infra"), full
                assert "No space left" in full.json["summary"] or "disk is full" in full.json["summary"], full
                assert "free some space" in full.json["next"]
                subprocess.run(["mount", "-o", "remount,size=3G", disk], check=True)
                assert build().status == 0
        finally:
            subprocess.check_call(["umount", "-l", folder])
    finally:
        subprocess.check_call(["umount", "-l", disk])
    assert build().json["kernel"]["sha256"] == trees.kernel().digest


def test_what_is_no_kernel_tree_or_was_built_in_place_is_refused_with_the_next_step(tmp_path: Path) -> None:
    done = kernloop("kernel", "build", tmp_path)
    assert (done.status, "is no kernel source tree" in done.text, "kernel source" in done.text) == (2, True, True)
    for name in ("Makefile", "Kconfig"):
        shutil.copy(trees.linux() / name, tmp_path)
    (tmp_path / ".config").touch()
    done = kernloop("kernel", "build", tmp_path)
    assert (done.status, "built or configured in place" in done.text, "mrproper" in done.text) == (2, True, True)
    done = kernloop("run", "--kernel", f"tree:{tmp_path}", "--", "true")
    assert (done.status, "has not been built" in done.text) == (2, True)


def _makes() -> list[int]:
    return processes_naming(f"O={trees.built().folder}")
