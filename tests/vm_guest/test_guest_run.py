# SPDX-License-Identifier: Apache-2.0
"""`kernloop run` with real guests: what comes out of them is what the command said, byte for byte."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
from pathlib import Path

import pytest

from support import Done, kernloop, runs_dir, start, the_run, verdict_of

pytestmark = pytest.mark.vm


def run(*words: str | Path) -> Done:
    return kernloop("run", "--", *words)


def test_stdout_stderr_and_exit_code_come_apart() -> None:
    done = run("sh", "-c", "echo to-out; echo to-err >&2; exit 7")
    assert (done.status, done.out) == (7, b"to-out\n")
    assert b"to-err\n" in done.err
    assert b"to-out" not in done.err
    path = the_run()
    assert path is not None
    assert (path / "stdout").read_bytes() == b"to-out\n"
    assert (path / "stderr").read_bytes() == b"to-err\n"
    assert verdict_of(path)["verdict"] == "command-failed"


def test_a_command_finds_its_stdin_at_its_end() -> None:
    done = run("sh", "-c", "cat; echo read-all")
    assert (done.status, done.out) == (0, b"read-all\n")


def test_a_megabyte_of_any_bytes_comes_out_as_it_went_in(tmp_path: Path) -> None:
    data = b"".join(hashlib.sha256(bytes([i % 256, i >> 8])).digest() for i in range(1 << 15))
    (tmp_path / "blob").write_bytes(data)
    done = kernloop("run", "--with", tmp_path / "blob", "--", "cat", "/root/blob")
    assert done.status == 0
    assert done.out == data


@pytest.mark.parametrize("code", [0, 3, 127])
def test_an_ordinary_exit_code_is_the_commands(code: int) -> None:
    assert run("sh", "-c", f"exit {code}").status == code


@pytest.mark.parametrize("code", [120, 125, 200])
def test_an_exit_code_that_means_something_else_to_us_becomes_1_and_the_json_has_the_true_one(code: int) -> None:
    done = kernloop("run", "--json", "--", "sh", "-c", f"exit {code}")
    assert done.status == 1
    assert (done.json["exit_status"], done.json["exit_code"], done.json["verdict"]) == (code, 1, "command-failed")


def test_what_the_kernel_says_by_the_end_of_a_command_is_on_the_console_however_much_it_is() -> None:
    for end in ("true", "sleep 0.1"):
        script = f"{end}; echo t > /proc/sysrq-trigger; echo '<4>the last word' > /dev/kmsg"
        done = kernloop("run", "--json", "--", "sh", "-c", script)
        console = Path(done.json["evidence"][0]["path"]).read_text()
        assert console.rstrip().endswith("the last word"), console[-200:]


def test_a_command_killed_by_a_signal_exits_1_and_the_json_names_it() -> None:
    done = kernloop("run", "--json", "--", "sh", "-c", "kill -9 $$")
    assert done.status == 1
    assert (done.json["exit_status"], done.json["summary"]) == (-9, "signal 9")


def test_a_command_that_is_not_in_the_guest_exits_127_and_says_how_to_take_it_along() -> None:
    done = run("no-such-program", "an arg")
    assert (done.status, done.out) == (127, b"")
    assert "no-such-program: No such file or directory" in done.text
    assert "next:" in done.text
    assert "--with" in done.text


def test_a_dynamic_program_of_this_machine_runs_with_its_libraries() -> None:
    program = shutil.which("ls")
    assert program is not None
    done = kernloop("run", "--with", program, "--", "/root/ls", "-d", "/root/ls")
    assert (done.status, done.out) == (0, b"/root/ls\n"), done.text


def test_arguments_arrive_as_they_are_empty_ones_spaces_newlines_and_unicode() -> None:
    words = ["", "two words", "a\nb", "Grüße, 世界", "$HOME `x` \"'\\"]
    done = run("printf", "<%s>", *words)
    assert (done.status, done.out.decode()) == (0, "".join(f"<{word}>" for word in words))


def test_json_is_one_object_with_output_kernel_and_evidence() -> None:
    done = kernloop("run", "--json", "--", "sh", "-c", "uname -r; echo oh >&2")
    value = done.json
    assert (value["schema"], value["verdict"], value["exit_code"]) == ("kernloop.run/1", "pass", 0)
    assert value["stdout"]["text"].strip() == value["kernel"]["release"] == value["kernel"]["guest_release"]
    assert value["stderr"]["text"] == "oh\n"
    for evidence in value["evidence"]:
        assert Path(evidence["path"]).exists(), evidence
    assert json.loads((Path(value["run"]) / "verdict.json").read_text()) == value


def test_the_guest_runs_the_kernel_that_was_asked_for_by_its_build_id() -> None:
    info = kernloop("kernel", "info", "--json").json
    kernel = kernloop("run", "--json", "--", "true").json["kernel"]
    assert kernel["guest_build_id"] == kernel["build_id"] == info["build_id"]
    assert kernel["matches"] is True
    assert len(kernel["build_id"]) == 40


def test_an_image_file_boots_by_its_path(tmp_path: Path) -> None:
    info = kernloop("kernel", "info", "--json").json
    image = tmp_path / "bzImage"
    image.symlink_to(info["image"])
    value = kernloop("run", "--json", "--kernel", f"path:{image}", "--", "true").json
    assert (value["verdict"], value["kernel"]["guest_build_id"]) == ("pass", info["build_id"])


HOST_IMAGES = [Path(f"/boot/vmlinuz-{platform.release()}"), Path(f"/usr/lib/modules/{platform.release()}/vmlinuz")]


@pytest.mark.skipif(not any(map(Path.exists, HOST_IMAGES)), reason="this machine keeps no image of its kernel")
def test_this_machines_own_kernel_boots_as_host() -> None:
    done = kernloop("run", "--kernel", "host", "--", "uname", "-r")
    assert (done.status, done.out.decode().strip()) == (0, platform.release())


def test_what_a_command_leaves_behind_in_the_background_is_not_waited_for() -> None:
    done = run("sh", "-c", "sleep 600 & echo left")
    assert (done.status, done.out) == (0, b"left\n")


def test_the_longest_command_line_that_is_taken_arrives_whole() -> None:
    words = [f"word-{number}-{'x' * 200}" for number in range(3998)]
    done = run("printf", "%s\\n", *words)
    assert done.status == 0, done.text[-300:]
    assert done.out.decode().splitlines() == words


def test_cpus_and_memory_are_what_was_asked_for() -> None:
    done = kernloop("run", "--cpus", "3", "--memory", "1G", "--", "sh", "-c", "nproc; grep MemTotal /proc/meminfo")
    cpus, memory = done.out.decode().splitlines()
    assert cpus == "3"
    assert 0.8 * (1 << 20) < int(memory.split()[1]) <= 1 << 20


def test_the_smallest_memory_that_is_allowed_is_enough_to_boot() -> None:
    assert kernloop("run", "--memory", "128M", "--", "true").status == 0


def test_words_for_the_kernel_command_line_arrive() -> None:
    done = kernloop("run", "--append", "kernloop_test=1", "--", "cat", "/proc/cmdline")
    assert done.out.decode().split()[-1] == "kernloop_test=1"


def test_nothing_of_this_machine_is_visible_in_the_guest(tmp_path: Path) -> None:
    done = run("sh", "-c", f"ls {tmp_path} /home /usr/bin 2>&1; env | sort")
    assert str(tmp_path) in done.out.decode()
    assert b"No such file" in done.out
    names = {line.split("=")[0] for line in done.out.decode().splitlines() if "=" in line}
    assert names - {"SHLVL", "PWD"} == {"HOME", "PATH", "TERM"}


def test_two_runs_at_once_do_not_meet() -> None:
    both = [start("run", "--", "sh", "-c", f"echo guest-{i}; exit {i}") for i in (3, 4)]
    ended = [(process.communicate(timeout=120)[0], process.returncode) for process in both]
    assert ended == [(b"guest-3\n", 3), (b"guest-4\n", 4)]
    assert len(list(runs_dir().iterdir())) == 2


def test_a_finished_run_leaves_its_evidence_and_nothing_else() -> None:
    assert run("true").status == 0
    path = the_run()
    assert path is not None
    kept = {file.name for file in path.iterdir()}
    assert {"spec.json", "argv", "console.log", "timeline.jsonl", "stdout", "stderr", "verdict.json"} <= kept
    assert not [name for name in kept if name.startswith(".") or name == "initramfs"]
    assert "Linux version" in (path / "console.log").read_text()


def test_a_reader_that_has_seen_enough_ends_the_run_at_once() -> None:
    read, write = os.pipe()
    process = start("run", "--timeout", "60", "--", "sh", "-c", "yes; true", stdout=write)
    os.close(write)
    assert os.read(read, 2) == b"y\n"
    os.close(read)
    try:
        process.wait(timeout=20)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode != 124
    path = the_run()
    assert path is not None
    assert verdict_of(path)["verdict"] == "infra"
