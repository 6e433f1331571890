# SPDX-License-Identifier: Apache-2.0
"""Debian's archive: what is read out of a package list, and what its failures are called."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kernloop.errors import HarnessError
from kernloop.host import apt

LIST = """\
Package: linux-binary-7.3.4+deb13-cloud-amd64
Source: linux-signed-amd64 (7.3.4+1~bpo13+1)
Version: 7.3.4-1~bpo13+1
Built-Using: linux (= 7.3.4-1~bpo13+1)
Size: 12345678
Description: Linux
 a line: that is no field

Package: linux-source-7.3
Source: linux
Version: 7.3.4-1
Size: 1000

Package: make
Version: 4.4.1-2
"""

# An apt whose answers the test decides: what ERR and OUT hold, and the exit code STATUS.
FAKE = '#!/bin/sh\necho "$0 $*" >> "$CALLS"\ncat "$OUT"\ncat "$ERR" >&2\nexit "$STATUS"\n'


@pytest.fixture
def answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Puts programs called apt-get and apt-cache first in PATH; returns the folder with their answers."""
    for name in ("apt-get", "apt-cache"):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(FAKE)
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.setenv("KERNLOOP_DEBIAN_MIRROR", "http://mirror.example/debian/")
    monkeypatch.setattr(apt, "available", lambda: None)
    for name in ("OUT", "ERR", "CALLS"):
        (tmp_path / name).touch()
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("STATUS", "0")
    return tmp_path


def test_packages_are_read_with_the_source_they_were_built_from(answer: Path) -> None:
    (answer / "OUT").write_text(LIST)
    binary, source, make = (apt._package(block) for block in LIST.split("\n\n"))
    assert (binary.name, binary.version, binary.source_version, binary.size) == (
        "linux-binary-7.3.4+deb13-cloud-amd64", "7.3.4-1~bpo13+1", "7.3.4-1~bpo13+1", 12345678,
    )  # fmt: skip
    assert (source.source, source.source_version) == ("linux", "7.3.4-1")
    assert (make.source, make.source_version, make.size) == ("make", "4.4.1-2", 0)


def test_lists_are_fetched_once_and_then_believed_for_a_day(answer: Path) -> None:
    apt.refresh()
    apt.refresh()
    calls = (answer / "CALLS").read_text().splitlines()
    assert len(calls) == 1
    assert calls[0].endswith("-q update")
    sources = (answer / "cache/kernloop/apt/sources.list").read_text()
    assert all(f" http://mirror.example/debian {suite} main\n" in sources for suite in apt.SUITES)
    assert sources.count("signed-by=/usr/share/keyrings/debian-archive-keyring.gpg") == len(apt.SUITES)


def test_apt_keeps_everything_in_our_cache_and_nothing_in_the_system(answer: Path) -> None:
    apt.refresh()
    ours = str(answer / "cache/kernloop/apt")
    lines = (answer / "cache/kernloop/apt/apt.conf").read_text().splitlines()
    for line in lines:
        key, value = line.removesuffix(";").split(" ", 1)
        if key.startswith("Dir::"):
            assert value.strip('"').startswith((ours, "/dev/null")), line


@pytest.mark.parametrize(
    ("said", "status", "message", "hint"),
    [
        ("E: Could not resolve 'mirror.example'", "100", "no network", "check the network"),
        ("W: Failed to fetch http://mirror.example/x  Could not connect", "0", "no network", "check the network"),
        ("E: Write error - write (28: No space left on device)", "100", "the disk is full", "free some space"),
        ("E: You don't have enough free space in /x", "100", "the disk is full", "free some space"),
        ("E: The repository is not signed.", "100", "is not signed", "doctor"),
        ("", "100", "exit 100", "doctor"),
    ],
)
def test_a_failure_of_apt_is_one_line_with_what_to_do(
    said: str, status: str, message: str, hint: str, answer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (answer / "ERR").write_text(said + "\n")
    monkeypatch.setenv("STATUS", status)
    with pytest.raises(HarnessError, match=message) as caught:
        apt.refresh()
    assert "\n" not in caught.value.message
    assert hint in caught.value.hint


def test_old_lists_serve_while_there_is_no_network(answer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    apt.refresh()
    (answer / "ERR").write_text("E: Could not resolve 'mirror.example'\n")
    monkeypatch.setenv("STATUS", "100")
    apt.refresh(max_age=0)


def test_a_machine_without_a_mirror_is_told_which_variable_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apt, "available", lambda: "no Debian mirror in apt's sources; set KERNLOOP_DEBIAN_MIRROR")
    monkeypatch.setattr(apt, "mirror", lambda: None)
    with pytest.raises(HarnessError, match="KERNLOOP_DEBIAN_MIRROR") as caught:
        apt.refresh()
    assert "doctor" in caught.value.hint
