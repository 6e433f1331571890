# SPDX-License-Identifier: Apache-2.0
"""`kernloop verify` on what is no .bpf.c: folders with a build system, programs that load their own scheduler."""

from __future__ import annotations

import json
import os
import shutil
import sysconfig
from pathlib import Path

import pytest

from support import SCHEDULERS, Done, kernloop, start

pytestmark = pytest.mark.vm
LONG = pytest.mark.skipif("KERNLOOP_LONG_TESTS" not in os.environ, reason="builds for minutes: set KERNLOOP_LONG_TESTS")

PROJECTS = Path(__file__).parent.parent / "fixtures/projects"
# meson comes with the development tools of kernloop.
SCRIPTS = sysconfig.get_path("scripts")
PATH = f"{os.environ['PATH']}:{SCRIPTS}"


def verify(*words: str | Path) -> Done:
    return kernloop("verify", "--json", "--tests", "idle", *words, seconds=300, PATH=PATH)


@pytest.fixture
def queue(tmp_path: Path) -> Path:
    """A C scheduler with its own loader and a Makefile."""
    folder = tmp_path / "queue"
    folder.mkdir()
    for name in ("Makefile", "scx_queue.c", "scx_queue.bpf.c"):
        shutil.copyfile(PROJECTS / "queue" / name, folder / name)
    return folder


def listing(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def replaced(path: Path, old: str, new: str) -> int:
    """The line, from 1, in which `old` became `new`."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    return text[: text.index(old)].count("\n") + 1


def test_a_folder_with_a_makefile_is_built_and_its_loaders_statistics_are_read(queue: Path) -> None:
    before = listing(queue)
    done = verify(queue, "--", "-s")
    assert (done.status, done.json["verdict"], done.json["scheduler"]) == (0, "pass", "queue"), done.json["summary"]
    [stats] = done.json["stats"]
    assert stats["after"] == "idle"
    assert stats["figures"]["queue.nr_queued"] > 0
    assert listing(queue) == before, "the build wrote into the folder"
    run = Path(done.json["run"])
    assert (run / "scheduler.bpf.o").read_bytes()[:4] == b"\x7fELF", "what the loader has inside is evidence"


def test_a_program_of_the_folder_is_taken_with_its_libraries_and_without_a_word_before_it(
    queue: Path, tmp_path: Path
) -> None:
    first = verify(queue)
    program = tmp_path / "scx_queue"
    shutil.copy2(Path(first.json["run"]) / "scx_queue", program)
    done = verify(program, "--", "-r")
    assert (done.status, done.json["verdict"]) == (1, "test-failed")
    assert done.json["summary"].startswith(
        "during idle: the scheduler gave up (unregistered from BPF: time for another), and its loader loaded it anew"
    )


def test_a_loader_that_leaves_is_told_from_a_scheduler_that_was_thrown_out(queue: Path) -> None:
    done = verify(queue, "--", "-x")
    assert (done.status, done.json["verdict"]) == (1, "test-failed")
    assert done.json["summary"] == (
        "during idle: the scheduler's loader ended by itself (exit 3), and the scheduler went with it"
    )


def test_an_edit_is_built_anew_and_an_error_has_its_place_in_the_users_file(queue: Path) -> None:
    line = replaced(queue / "scx_queue.bpf.c", "p, QUEUE, SCX_SLICE_DFL", "p, QUEUES, SCX_SLICE_DFL")
    done = verify(queue)
    assert (done.status, done.json["verdict"]) == (1, "build-failed")
    assert done.json["summary"].startswith(f"scx_queue.bpf.c:{line}:")
    assert "QUEUES" in done.json["summary"]
    assert f"scx_queue.bpf.c, line {line}" in done.json["next"]
    replaced(queue / "scx_queue.bpf.c", "QUEUES, SCX", "QUEUE, SCX")
    assert verify(queue, "--kernel", "debian:7.3.4").json["verdict"] == "pass"


def test_a_makefile_that_fails_otherwise_says_what_make_said(queue: Path) -> None:
    replaced(queue / "Makefile", "all: scx_queue", "all: scx_queue nothing")
    done = verify(queue)
    assert (done.status, done.json["verdict"]) == (1, "build-failed")
    assert "No rule to make target 'nothing'" in done.json["summary"]


def test_a_folder_that_builds_no_scheduler_is_the_callers_mistake(tmp_path: Path) -> None:
    folder = tmp_path / "tool"
    folder.mkdir()
    (folder / "main.c").write_text("int main(void) { return 0; }\n")
    (folder / "Makefile").write_text("tool: main.c\n\t$(CC) -o $@ $<\n")
    done = verify(folder)
    assert done.status == 2
    assert "no scheduler came out" in done.json["summary"]
    assert done.json["next"]


def test_of_several_schedulers_the_caller_must_say_which(tmp_path: Path) -> None:
    folder = tmp_path / "two"
    folder.mkdir()
    for name in ("fifo", "vtime"):
        shutil.copyfile(SCHEDULERS / f"{name}.bpf.c", folder / f"{name}.bpf.c")
    (folder / "Makefile").write_text(
        "all: fifo.bpf.o vtime.bpf.o\n%.bpf.o: %.bpf.c\n\t$(BPF_CLANG) $(BPF_CFLAGS) -c $< -o $@\n"
    )
    done = verify(folder)
    assert done.status == 2
    assert done.json["summary"].endswith("builds 2 schedulers: fifo, vtime")
    assert "--target fifo" in done.json["next"]
    assert verify(folder, "--target", "vtime").json["scheduler"] == "vtime"


def test_a_meson_project_is_built_outside_its_folder(queue: Path) -> None:
    if shutil.which("meson", path=PATH) is None or shutil.which("pkg-config") is None:
        pytest.skip("meson or pkg-config is not installed")
    (queue / "Makefile").unlink()
    shutil.copyfile(PROJECTS / "queue/meson.build", queue / "meson.build")
    before = listing(queue)
    done = verify(queue)
    assert (done.status, done.json["scheduler"]) == (0, "queue"), done.json["summary"]
    assert listing(queue) == before


@pytest.fixture
def crate(tmp_path: Path) -> Path:
    """A Rust scheduler without dependencies."""
    if shutil.which("cargo") is None:
        pytest.skip("cargo is not installed")
    return Path(shutil.copytree(PROJECTS / "crate", tmp_path / "crate"))


def test_a_cargo_project_is_built_and_its_program_gets_the_arguments(crate: Path) -> None:
    before = listing(crate)
    done = verify(crate, "--", "--slice-us", "5000")
    assert (done.status, done.json["verdict"], done.json["scheduler"]) == (0, "pass", "crate"), done.json["summary"]
    assert '["--slice-us", "5000"]' in (Path(done.json["run"]) / "events.jsonl").read_text().replace("\\", "")
    assert listing(crate) == before


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [("src/main.rs", "std::fs::write", "std::fs::writ"), ("src/crate.bpf.c", "timeout_ms = 5000", "timeout = 5000")],
)
def test_an_error_in_a_cargo_project_has_its_place(crate: Path, file: str, old: str, new: str) -> None:
    line = replaced(crate / file, old, new)
    done = verify(crate)
    assert (done.status, done.json["verdict"]) == (1, "build-failed"), done.json["summary"]
    assert done.json["summary"].startswith(f"{file}:{line}:"), done.json["summary"]


@LONG
def test_a_released_scheduler_is_built_once_by_two_at_once_and_verified_by_its_name() -> None:
    both = [start("sched", "get", "scx_cosmos", "--json") for _ in range(2)]
    told = [json.loads(process.communicate(timeout=3600)[0]) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert told[0] == told[1]
    assert Path(told[0]["object"]).read_bytes()[:4] == b"\x7fELF"
    done = kernloop("verify", "--json", "scx_cosmos", seconds=900)
    assert (done.status, done.json["verdict"]) == (0, "pass"), done.json["summary"]
    assert done.json["scheduler"].startswith("cosmos_")
    assert done.json["stats"], "each Rust scheduler has a statistics server"
    refused = kernloop("verify", "--json", "--tests", "idle", "scx_cosmos", "--", "--nosuch", seconds=300)
    assert (refused.status, refused.json["verdict"]) == (125, "inconclusive")
    assert "--nosuch" in refused.json["summary"]
