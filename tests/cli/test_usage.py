# SPDX-License-Identifier: Apache-2.0
"""A user's mistakes at the command line: exit 2, one clear line, the next step, no traceback, and nothing fetched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from images import elf
from kernloop import __version__
from kernloop.cli.main import app
from kernloop.cli.run import mebibytes
from kernloop.errors import HarnessError, UsageError
from support import kernloop

FIFO = Path(__file__).parents[2] / "examples/schedulers/fifo.bpf.c"


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever fetches something for a call that cannot be right fails the test."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something was to be fetched")

    monkeypatch.setattr("kernloop.host.toolset.get", refuse)
    monkeypatch.setattr("kernloop.host.apt.refresh", refuse)


def call(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def mistakes(folder: Path) -> dict[str, tuple[list[str | Path], str]]:
    """By name: the call, and what its answer says."""
    return {
        "no kernel reference": (["run", "--kernel", "7.3", "--", "true"], "'7.3' is no kernel reference"),
        "a kernel image that is not there": (["run", "--kernel", f"path:{folder}/no", "--", "true"], "No such file"),
        "a vmlinux for a bzImage": (
            ["run", "--kernel", f"path:{write(folder / 'vmlinux', elf({}))}", "--", "true"],
            "an ELF file",
        ),
        "a text file for a kernel": (["run", "--kernel", f"path:{FIFO}", "--", "true"], "no x86 bzImage"),
        "too little memory": (["run", "--memory", "3", "--", "true"], "3 of memory cannot be given to a guest"),
        "no size": (["run", "--memory", "much", "--", "true"], "'much' is no memory size"),
        "a file that is not there": (["run", "--with", folder / "no", "--", "true"], "cannot read"),
        "a folder to take along": (["run", "--with", folder, "--", "true"], "is a folder"),
        "a command line too long for a guest": (
            ["run", "--", "echo", *["x"] * 5000],
            "too long for a guest: 5001 words",
        ),
        "a tree to measure that is none": (["bench", "build", folder], "is no kernel source tree"),
        "a scheduler that is not there": (["verify", folder / "no.bpf.c"], "no.bpf.c is not there"),
        "a folder for a scheduler": (["verify", folder], "is a folder"),
        "no scheduler": (["verify"], "give either a scheduler"),
        "an unknown test": (["verify", FIFO, "--tests", "idle,nosuch"], "there is no test called 'nosuch'"),
        "arguments without a loader": (["verify", FIFO, "--", "-t", "1"], "only a scheduler's own loader"),
        "a loader that is not there": (["verify", "--loader", folder / "no"], "is not there"),
        "plain C": (["verify", write(folder / "main.c", b"int main(void) { return 0; }\n")], "is no BPF program in C"),
        "binary rubbish": (["verify", write(folder / "x.bpf.c", b"\0\1\2" * 99)], "NUL bytes"),
        "an x86 object": (["verify", write(folder / "x86.bpf.o", elf({}, kind=1))], "for X86_64, not BPF"),
        "a text for an object": (["verify", write(folder / "text.bpf.o", b"hello\n")], "is no ELF object"),
        "a kernel for verify": (["verify", FIFO, "--kernel", "linus"], "'linus' is no kernel reference"),
        "an unknown run": (["runs", "show", "nosuch"], "there is no run called 'nosuch'"),
        "an unknown kernel": (["kernel", "path", "nosuch:1"], "is no kernel reference"),
    }


NAMES = [
    "no kernel reference",
    "a kernel image that is not there",
    "a vmlinux for a bzImage",
    "a text file for a kernel",
    "too little memory",
    "no size",
    "a file that is not there",
    "a folder to take along",
    "a command line too long for a guest",
    "a tree to measure that is none",
    "a scheduler that is not there",
    "a folder for a scheduler",
    "no scheduler",
    "an unknown test",
    "arguments without a loader",
    "a loader that is not there",
    "plain C",
    "binary rubbish",
    "an x86 object",
    "a text for an object",
    "a kernel for verify",
    "an unknown run",
    "an unknown kernel",
]


def test_every_mistake_has_a_test(tmp_path: Path) -> None:
    assert list(mistakes(tmp_path)) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_mistake_is_answered_with_one_line_and_the_next_step(name: str, tmp_path: Path) -> None:
    words, says = mistakes(tmp_path)[name]
    done = call(*words)
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if not line.startswith("kernloop: finding")]
    assert says in lines[0]
    assert lines[0].startswith("kernloop: ")
    assert lines[1].startswith("  next: ")
    assert len(lines) == 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_a_mistake_with_json_is_one_object(name: str, tmp_path: Path) -> None:
    words, says = mistakes(tmp_path)[name]
    done = call(*[*words[:1], *words[1:2], "--json", *words[2:]] if words[0] in ("runs", "kernel", "bench") else
                [words[0], "--json", *words[1:]])  # fmt: skip
    value: dict[str, Any] = json.loads(done.stdout)
    assert (done.exit_code, value["exit_code"], value["verdict"]) == (2, 2, None)
    assert says in value["summary"]
    assert value["next"]
    assert value["schema"].startswith("kernloop.")


@pytest.mark.parametrize("name", NAMES)
def test_a_mistake_leaves_no_run_to_look_at(name: str, tmp_path: Path) -> None:
    call(*mistakes(tmp_path)[name][0])
    assert list((tmp_path / "state").glob("kernloop/runs/*")) == []


@pytest.mark.parametrize(
    "words",
    [["nosuch"], ["run"], ["run", "--seed", "-1", "--", "true"], ["run", "--shift", "99", "--", "true"],
     ["verify", "--seed", "-1", "x.bpf.c"], ["run", "--timeout", "0", "--", "true"], ["runs", "gc", "--keep", "-1"]],
)  # fmt: skip
def test_options_that_make_no_sense_exit_2_with_usage_on_stderr(words: list[str]) -> None:
    done = call(*words)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "Usage:" in done.stderr


@pytest.mark.parametrize(
    ("text", "value"),
    [("512M", 512), ("512", 512), ("2G", 2048), ("2g", 2048), ("256MiB", 256), ("1GB", 1024), ("64G", 65536)],
)
def test_memory_sizes_as_people_write_them(text: str, value: int) -> None:
    assert mebibytes(text) == value


@pytest.mark.parametrize("text", ["", "M", "-512M", "1.5G", "512K", "1T", "127M", "65G", "0x200", "512 M", "M512"])
def test_memory_sizes_that_are_none(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        mebibytes(text)
    assert caught.value.hint


def test_the_version_is_one_line() -> None:
    done = call("--version")
    assert (done.exit_code, done.stdout) == (0, f"kernloop {__version__}\n")


def test_a_failure_of_the_machine_exits_125_with_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(*_: object, **__: object) -> None:
        raise HarnessError("fetching tools: the disk is full", hint="free some space", evidence=tmp_path)

    monkeypatch.setattr("kernloop.kernel.refs.resolve", full)
    done = call("run", "--", "true")
    assert (done.exit_code, done.stdout) == (125, "")
    assert "kernloop: fetching tools: the disk is full\n  next: free some space\n" in done.stderr
    as_json = json.loads(call("run", "--json", "--", "true").stdout)
    assert (as_json["exit_code"], as_json["verdict"], as_json["evidence"]) == (125, "infra", [str(tmp_path)])


def test_a_mistake_in_a_process_of_its_own_looks_the_same() -> None:
    done = kernloop("run", "--kernel", "7.3", "--", "true", seconds=30)
    assert (done.status, done.out) == (2, b"")
    assert "kernloop: '7.3' is no kernel reference" in done.text
    assert "  next: debian:7.2" in done.text
    assert "Traceback" not in done.text
