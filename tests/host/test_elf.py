# SPDX-License-Identifier: Apache-2.0
"""The libraries that a program takes along, compared with what this machine's own loader says."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kernloop.errors import UsageError
from kernloop.host import elf

LS = Path(shutil.which("ls") or "/bin/ls")


@pytest.mark.parametrize("program", [LS, Path(sys.executable).resolve()])
def test_all_libraries_are_found_that_the_loader_would_load(program: Path) -> None:
    said = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    wanted = {Path(path).resolve() for path in re.findall(r"(?:=> )?(/\S+) \(0x", said)}
    found = elf.closure(program)
    assert {path.resolve() for path in found} == wanted
    assert all(path.is_absolute() for path in found)
    assert len(found) == len(set(found))


def test_the_loader_comes_first_by_the_name_the_program_calls_it() -> None:
    assert "ld-" in elf.closure(LS)[0].name


def test_a_script_needs_no_library(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\necho\n")
    assert elf.closure(script) == []


@pytest.mark.parametrize("content", [b"", b"\x7fELF", b"\x7fELF\x02\x01\x01" + bytes(60)])
def test_a_damaged_program_does_not_break_the_call(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "damaged").write_bytes(content)
    assert elf.closure(tmp_path / "damaged") == []


def test_a_library_that_is_not_on_this_machine_is_named(tmp_path: Path) -> None:
    data = LS.read_bytes()
    assert data.count(b"libc.so.6\0") == 1
    (tmp_path / "ls").write_bytes(data.replace(b"libc.so.6\0", b"libq.so.6\0"))
    with pytest.raises(UsageError, match=r"needs the library libq\.so\.6, which is not on this machine") as caught:
        elf.closure(tmp_path / "ls")
    assert "install it" in caught.value.hint
