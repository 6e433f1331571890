# SPDX-License-Identifier: Apache-2.0
"""What is taken along into a guest: the file, its mode, and the libraries it needs, where it looks for them."""

from __future__ import annotations

import shutil
import stat
from pathlib import Path

import pytest

from archives import members
from kernloop.errors import UsageError
from kernloop.host import elf
from kernloop.vm import cpio, handover
from kernloop.vm.frames import run_request, with_option
from kernloop.vm.initramfs import Payload, payload


def test_a_program_brings_its_libraries_each_once() -> None:
    program = Path(shutil.which("ls") or "/bin/ls")
    data = payload([Payload(program, "/root/ls"), Payload(program, "/root/dir")])
    files = [member for member in members(data) if stat.S_ISREG(member.mode)]
    libraries = {str(library).strip("/"): library.read_bytes() for library in elf.closure(program)}
    ls = program.read_bytes()
    assert {member.name: member.data for member in files} == {"root/ls": ls, "root/dir": ls, **libraries}
    assert len(files) == 2 + len(libraries)


@pytest.mark.parametrize(("mode", "kept"), [(0o700, 0o755), (0o600, 0o644)])
def test_a_file_stays_runnable_or_not(mode: int, kept: int, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    (tmp_path / "file").chmod(mode)
    assert payload([Payload(tmp_path / "file", "/root/file")]) == cpio.archive(
        [cpio.regular("root/file", b"text", kept)]
    )


def test_entries_of_our_own_come_along() -> None:
    job = cpio.regular("kl/job", b"\0")
    assert payload([], extra=[job]) == cpio.archive([job])


def test_a_folder_or_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"{tmp_path} is a folder") as caught:
        payload([Payload(tmp_path, "/root/x")])
    assert "tar" in caught.value.hint
    with pytest.raises(UsageError, match=r"cannot read .*/nothing: No such file"):
        payload([Payload(tmp_path / "nothing", "/root/x")])


def test_a_job_that_was_handed_over_can_be_given_another_option_and_all_else_stays() -> None:
    def handed(tests: str) -> bytes:
        request = run_request(["/kl/suite", "--nest", "--tests", tests, "--", "--tests"], cwd="/", env={"A": "--tests"})
        files = [cpio.regular("kl/job", request), cpio.symlink("bin/sh", "x"), cpio.regular("root/a", b"12345", 0o755)]
        return handover.blob(cpio.archive(files), seed=7)

    once = handover.changed(handed("idle,reload"), "kl/job", lambda request: with_option(request, "--tests", "idle"))
    assert once == handed("idle")
    with pytest.raises(ValueError, match="no kl/nothing in the archive"):
        handover.changed(once, "kl/nothing", bytes)
