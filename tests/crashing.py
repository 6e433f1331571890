# SPDX-License-Identifier: Apache-2.0
"""Crashes on purpose, in guests: what each is made by and what its report must say (fixtures/crashes.toml)."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kernloop import runs
from kernloop.kernel import modules
from kernloop.kernel.kernel import Kernel
from kernloop.report.crash import Crash
from kernloop.verdict import Outcome
from kernloop.vm import run as library
from support import ROOT

__all__ = ["LOGS", "Made", "Row", "harmless", "make", "module", "rows"]

LOGS = ROOT / "tests/fixtures/console"
_TABLE = ROOT / "tests/fixtures/crashes.toml"
_HARMLESS = ROOT / "tests/fixtures/harmless.txt"
_MODULE = ROOT / "tests/modules/kl_crash"
# Freed objects are poisoned and checked, so that what is done to them shows.
_WORDS = ("slub_debug=FPZU", "hardened_usercopy=on")
# Short deadlines, and a panic at the first report.
_KERNEL = "/proc/sys/kernel"
_PUT: dict[str, dict[str, int]] = {
    "": {},
    "hung": {
        f"{_KERNEL}/hung_task_check_interval_secs": 1,
        f"{_KERNEL}/hung_task_timeout_secs": 1,
        f"{_KERNEL}/hung_task_panic": 1,
    },
    "oom": {"/proc/sys/vm/panic_on_oom": 1},
    "rcu": {
        "/sys/module/rcupdate/parameters/rcu_cpu_stall_timeout": 3,
        f"{_KERNEL}/panic_on_rcu_stall": 1,
    },
    "soft": {
        f"{_KERNEL}/watchdog_thresh": 1,
        f"{_KERNEL}/softlockup_panic": 1,
        f"{_KERNEL}/hardlockup_panic": 1,
    },
    "work": {
        "/sys/module/workqueue/parameters/watchdog_thresh": 2,
        "/sys/module/workqueue/parameters/panic_on_stall": 1,
    },
}


@dataclass(frozen=True)
class Row:
    """One crash: made by `lkdtm`, by our module's `what`, by a `command` or by boot words alone.

    `put` names values for the guest's files before it. `line` are texts of which one is on the line at fault;
    `config` is what the kernel must have to notice it; `also` are functions that another compiler leaves in the trace.
    """

    name: str
    kind: tuple[str, ...] = ()
    function: str | None = None
    also: tuple[str, ...] = ()
    lkdtm: str = ""
    what: str = ""
    command: str = ""
    boot: tuple[str, ...] = ()
    put: str = ""
    line: tuple[str, ...] = ()
    config: str = ""
    modules: tuple[str, ...] = ()

    @property
    def script(self) -> str:
        said = [f"echo {value} > {path}" for path, value in _PUT[self.put].items()]
        if self.lkdtm:
            said += ["mount -t debugfs none /sys/kernel/debug 2>/dev/null", "[ ! -e lkdtm.ko ] || insmod lkdtm.ko"]
            said += [f"echo {name} > /sys/kernel/debug/provoke-crash/DIRECT" for name in self.lkdtm.split()]
        said += [f"insmod {name}.ko" for name in self.modules]
        if self.what:
            said += ["insmod kl_crash.ko", f"echo {self.what} > /sys/module/kl_crash/parameters/what"]
        return "\n".join([*said, self.command, ":"])

    def fits(self, crash: Crash) -> bool:
        """Whether a report says what this crash is; where no function is named none is asked for."""
        return crash.kind in self.kind and crash.function in ((self.function or crash.function), *self.also)


@dataclass(frozen=True)
class Made:
    """What came of it; `console` is all that the guest printed."""

    outcome: Outcome
    console: str
    run: Path


def _value(key: str, value: Any) -> Any:
    if key not in ("also", "boot", "kind", "line", "modules"):
        return value
    return (value,) if isinstance(value, str) else tuple(value)


def rows() -> list[Row]:
    """All crashes of the table."""
    return [
        Row(**{key: _value(key, value) for key, value in row.items()})
        for row in tomllib.loads(_TABLE.read_text())["crash"]
    ]


def harmless() -> list[str]:
    """What a console says while all is well."""
    return [line for line in _HARMLESS.read_text().splitlines() if not line.startswith("#")]


def module(kernel: Kernel) -> Path:
    """Our module for `kernel`, which was built here."""
    return modules.build_for(kernel, _MODULE).modules[0].path


def make(kernel: Kernel, row: Row, files: tuple[Path, ...], *, timeout: float = 20.0, cold: bool = False) -> Made:
    """Make this crash in a guest of its own."""
    request = library.Request(
        ("sh", "-c", row.script),
        kernel.ref if kernel.ref.startswith("debian:") else f"sha256:{kernel.digest}",
        timeout=timeout,
        files=files,
        append=(*_WORDS, *row.boot),
        cold=cold,
    )
    with runs.create("run", library.SCHEMA, {"subject": row.name}) as record:
        outcome = library.execute(
            request, record, on_stdout=lambda data: None, on_stderr=lambda data: None, say=lambda text: None
        )
        record.judge({"verdict": outcome.verdict.value, "summary": outcome.summary})
    return Made(outcome, (record.path / "console.log").read_text(errors="replace"), record.path)
