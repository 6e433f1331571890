# SPDX-License-Identifier: Apache-2.0
"""What a guest's kernel kept of its log (pstore), taken from ERST's file and from ramoops in the guest's memory.

Each micro-VM and each vng guest has ERST (argv.attachments). ramoops is read where the kernel's arguments ask for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kernloop.errors import HarnessError
from kernloop.kernel.kernel import Kernel
from kernloop.report import pstore
from kernloop.report.crash import Crash
from kernloop.report.pstore import Layout, Record
from kernloop.verdict import Evidence
from kernloop.vm.argv import ERST
from kernloop.vm.machine import Machine

__all__ = ["Kept", "Stored", "collect", "console_of", "let_write", "records", "save_ramoops", "words"]

FOLDER = "pstore"
_RAMOOPS = "ramoops"
_RAMOOPS_BYTES = 256 << 10
_RESERVED_BELOW_TOP = 16 << 20
# pstore's writing takes some tens of milliseconds under TCG; a kernel that cannot write is not waited for longer.
_WRITE_SECONDS = 2.0
_POLL_SECONDS = 0.015


@dataclass(frozen=True)
class Stored:
    """A record and its text in the run directory, at `path` in it."""

    path: str
    record: Record

    @property
    def evidence(self) -> Evidence:
        what = f"pstore ({self.record.store}): " + {
            "dmesg": f"the kernel's log at its {self.record.why.lower() or 'crash'}",
            "console": "what the kernel sent to its consoles last",
            "pmsg": "what programs wrote to /dev/pmsg0",
        }.get(self.record.kind, self.record.kind)
        return Evidence(self.path, what)


@dataclass(frozen=True)
class Kept:
    """All records of a run; `lost` are the crashes in them that the console does not have, with the path of each."""

    stored: tuple[Stored, ...] = ()
    lost: tuple[tuple[str, Crash], ...] = ()


def words(kernel: Kernel, memory: int, append: Sequence[str]) -> tuple[str, ...]:
    """Kernel arguments for ramoops, for a kernel that has it built in and cannot use ERST, unless the user's own
    arguments `append` ask for it; `memory` in MiB.

    Memory lies in one piece up to 2 GiB at least (pc_q35_init in QEMU's hw/i386/pc_q35.c); its last pages are the
    firmware's.
    """
    if kernel.config is None or kernel.config.get("PSTORE_RAM") != "y" or kernel.has("ACPI_APEI"):
        return ()
    if any(word.startswith("ramoops.") for word in append):
        return ()
    address = (min(memory, 2048) << 20) - _RESERVED_BELOW_TOP
    return (
        f"memmap={_RAMOOPS_BYTES:#x}${address:#x}",
        f"ramoops.mem_address={address:#x}",
        f"ramoops.mem_size={_RAMOOPS_BYTES:#x}",
        *(f"ramoops.{zone}_size=0x8000" for zone in ("record", "console")),
    )


def records(run: Path) -> list[Record]:
    """All records in the stores of the run directory `run` as they are now, the logs of a crash put together."""
    found = pstore.read_erst(_bytes(run / ERST))
    area = _bytes(run / _RAMOOPS)
    if area and (layout := _layout(run)):
        found += pstore.read_ramoops(area, layout)
    return pstore.dumps(found)


def collect(run: Path, *, over: bool = False) -> Kept:
    """Write the records of the run directory `run` to files in it. With `over`, when the machine is gone, stores that
    have none are removed."""
    found = records(run)
    if not found:
        for store in (ERST, _RAMOOPS) if over else ():
            (run / store).unlink(missing_ok=True)
        return Kept()
    folder = run / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    stored = []
    for number, record in enumerate(found, 1):
        path = f"{FOLDER}/{record.name}-{number}"
        (run / path).write_text(pstore.plain(record.text))
        stored.append(Stored(path, record))
    # Programs write to pmsg what they like.
    texts = {one.path: pstore.plain(one.record.text) for one in stored if one.record.kind != "pmsg"}
    return Kept(tuple(stored), tuple(pstore.lost(console_of(run), texts)))


def console_of(run: Path) -> list[str]:
    """The lines of the console of the run directory `run`."""
    return _text(run / "console.log")


async def let_write(machine: Machine, run: Path, kernel: Kernel, words: Sequence[str]) -> None:
    """Let a guest that pvpanic has stopped go on until its kernel has kept its log, for a moment at most.

    panic() calls its notifiers, pvpanic first, and only then kmsg_dump (kernel/panic.c). What it does after that is to
    wait for ever, where the kernel's argument panic=0 holds.
    """
    if kernel.has("PSTORE") is False or [word for word in words if word.startswith("panic=")][-1:] != ["panic=0"]:
        return
    if kernel.has("ACPI_APEI") is False and _layout(run) is None:
        return
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _WRITE_SECONDS
    seen = 0
    with contextlib.suppress(HarnessError):
        await machine.qmp("cont")
        try:
            while loop.time() < deadline and not machine.ended.done():
                await asyncio.sleep(_POLL_SECONDS)
                await save_ramoops(machine, run)
                panics = sum(record.why == "Panic" for record in _pieces(run))
                if panics and panics == seen:
                    break
                seen = panics
        finally:
            await machine.qmp("stop")


async def save_ramoops(machine: Machine, run: Path) -> None:
    """Copy the guest's ramoops area into the run directory, if it has one. Raises HarnessError."""
    if layout := _layout(run):
        path = run / _RAMOOPS
        await machine.qmp("pmemsave", {"val": layout.address, "size": layout.size, "filename": str(path)})


# Every piece by itself: a log grows by older pieces.
def _pieces(run: Path) -> list[Record]:
    found = pstore.read_erst(_bytes(run / ERST))
    layout = _layout(run)
    return [*found, *(pstore.read_ramoops(_bytes(run / _RAMOOPS), layout) if layout else [])]


def _layout(run: Path) -> Layout | None:
    argv = _text(run / "argv")
    if "-append" not in argv:
        return None
    words = argv[argv.index("-append") + 1].split()
    if not any(word.startswith("ramoops.") for word in words):
        return None
    return pstore.layout_of(words, console_of(run))


def _text(path: Path) -> list[str]:
    return _bytes(path).decode(errors="replace").split("\n")


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
