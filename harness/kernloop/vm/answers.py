# SPDX-License-Identifier: Apache-2.0
"""What a VM answers its clients (kernloop.vm.client)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kernloop.vm.ram import Ram

__all__ = ["ExecResult", "GuestMemory", "Matched", "VmInfo", "exec_result"]


@dataclass(frozen=True)
class ExecResult:
    """How a command ended, and the last of what it wrote.

    `status` is its own exit code (negative: a signal), `exit_code` what `vm exec` exits with, `folder` has all output.
    """

    job: int
    verdict: str
    summary: str
    next: str
    status: int | None
    exit_code: int
    seconds: float
    reports: tuple[str, ...]
    stdout: bytes
    stderr: bytes
    folder: Path


@dataclass(frozen=True)
class Matched:
    """What a wait came to: the line, or `state` of the VM when there was none; go on at `cursor`."""

    matched: bool
    line: str
    cursor: int
    state: str


@dataclass(frozen=True)
class GuestMemory:
    """`file` is QEMU's memory, which has the guest's where `ram` says; `vmcoreinfo` b"" when the kernel told none.

    `state` is the VM's, `held` whether it stands still for us, `registers` what QEMU's monitor says of the CPUs'.
    """

    file: int
    ram: tuple[Ram, ...]
    vmcoreinfo: bytes
    state: str
    held: bool
    registers: str = ""


@dataclass(frozen=True)
class VmInfo:
    """A VM as `vm list` shows it. `state`: running, paused, in-gdb, in-kgdb, panicked, hung, starting, ending, or no
    answer (its supervisor or QEMU hangs, or was stopped by a signal)."""

    name: str
    run: Path
    state: str
    facts: Mapping[str, Any]


def exec_result(result: dict[str, Any], run: Path, stdout: bytes, stderr: bytes) -> ExecResult:
    """What the supervisor of the VM at `run` told of a job, with the output that the caller kept of it."""
    return ExecResult(
        result["job"],
        result["verdict"],
        result["summary"],
        result["next"],
        result["status"],
        result["exit_code"],
        result["seconds"],
        tuple(result["reports"]),
        stdout,
        stderr,
        run / "jobs" / str(result["job"]),
    )
