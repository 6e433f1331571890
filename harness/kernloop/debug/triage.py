# SPDX-License-Identifier: Apache-2.0
"""A run that crashed or hung, in one go: what its console reports and what its memory shows, with the task to blame.

The memory is the run's vmcore, or its VM where that lives on; without either the console says what it can.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kernloop import vmcores
from kernloop.errors import HarnessError, UsageError
from kernloop.kernel import debugfiles, hangs
from kernloop.present.account import place
from kernloop.present.decoded import brief_lines
from kernloop.present.logs import Log, decode_crash, found_in, read, scx_of
from kernloop.report.advice import next_step
from kernloop.report.crash import Crash, most_severe
from kernloop.report.hang import Hang
from kernloop.report.scx_report import ScxReport
from kernloop.runs import find, read_json
from kernloop.vm import client
from kernloop.vm.client import VM
from kernloop.vm.judge import NMI
from kernloop.vm.request import live

if TYPE_CHECKING:
    from kernloop.debug.memory_facts import Memory
    from kernloop.report.symbols import Images

__all__ = ["Subject", "Triage", "subject_of", "triage"]

_HUNG = ("hang", "boot-hang")
_CRASHED = ("panic", "oops", *_HUNG)


@dataclass(frozen=True)
class Subject:
    """What is to be told of: a run directory, a VM that lives, a vmcore; as far as there are such."""

    name: str
    run: Path | None = None
    core: Path | None = None
    vm: VM | None = None


@dataclass(frozen=True)
class Triage:
    """`crash` is the worst that the console reports, `trace` its lines with places where it was decoded; `hang` what a
    hung machine's console says; `memory` is None where there is none to read, and `no_memory` says why and how to get
    it. `next` is what to do now."""

    subject: Subject
    verdict: str
    summary: str
    kernel: str
    crash: Crash | None
    trace: tuple[str, ...]
    reports: int
    scx: ScxReport | None
    hang: Hang | None
    memory: Memory | None
    no_memory: str
    next: str
    log_tail: tuple[str, ...] = field(default=())


def subject_of(name: str) -> Subject:
    """What `name` means: a run's id or `last`, a VM, or the file of a vmcore. Raises UsageError."""
    path = Path(name)
    if path.is_file():
        path = path.absolute()
        folder = next((one for one in (path.parent, path.parent.parent) if (one / "spec.json").is_file()), None)
        return Subject(name, folder, path)
    try:
        run = find(name)
    except UsageError as error:
        try:
            run = client.last(name).run
        except UsageError:
            raise UsageError(
                f"neither a run, a VM nor a vmcore: {name}", hint="kernloop runs list; kernloop vm list"
            ) from error
    for folder, spec in live():
        if folder == run:
            # What it left when it crashed is nearer to that than what it is now: it may have written its log since.
            core = run / vmcores.NAME
            return Subject(run.name, run, core if core.is_file() else None, VM(str(spec.get("subject")), run))
    return Subject(run.name, run, vmcores.newest(run))


def triage(subject: Subject) -> Triage:
    """All that is known. Raises UsageError for a file that is no vmcore."""
    run = subject.run
    # A repetition of verify --time real has its console beside its vmcore.
    folder = subject.core.parent if subject.core and run and run in subject.core.parents else run
    verdict = read_json(run / "verdict.json") if run else {}
    log = _log(run, folder)
    crashes = found_in(log) if log else []
    if verdict.get("verdict") in _HUNG:
        crashes = [one for one in crashes if NMI not in one.message]
    crash = most_severe(crashes)
    hung = hangs.seen(folder) if folder and verdict.get("verdict") in (*_HUNG, None, "unknown") else None
    images = debugfiles.noted(folder) if folder else None
    memory, no_memory = _memory(subject, folder, images, crash, log, verdict)
    decoded = decode_crash(crash, log, images) if crash and log else None
    found = Triage(
        subject,
        str(verdict.get("verdict") or ("unknown" if run else "")),
        str(verdict.get("summary") or ""),
        memory.release if memory else _kernel(verdict),
        crash,
        tuple(brief_lines(decoded)) if decoded and decoded.guilty else (),
        len(crashes),
        scx_of(log, crash) if log and crash else None,
        hung,
        memory,
        no_memory,
        "",
        tuple(_tail(log.data[: crash.start if crash else None])) if log and not memory else (),
    )
    return replace(found, next=_next(found, decoded=bool(decoded and decoded.guilty)))


def _log(run: Path | None, folder: Path | None) -> Log | None:
    if run is None or folder is None:
        return None
    try:
        return read(run.name) if folder == run else Log(str(folder), (folder / "console.log").read_bytes(), folder)
    except (UsageError, OSError):
        return None


def _kernel(verdict: dict[str, Any]) -> str:
    kernel = verdict.get("kernel") or {}
    return str(kernel.get("guest_release") or kernel.get("release") or "")


def _memory(
    subject: Subject,
    folder: Path | None,
    images: Images | None,
    crash: Crash | None,
    log: Log | None,
    verdict: dict[str, Any],
) -> tuple[Memory | None, str]:
    where = subject.core or subject.vm
    if where is None:
        return None, _how(subject, verdict)
    from kernloop.debug import memory_facts  # drgn takes 0.1 s

    text = log.data[crash.start : crash.end].decode(errors="replace") if crash and log else ""
    hung = crash is None or crash.family == "hang" or verdict.get("verdict") in _HUNG
    try:
        tree = images.source if images else None
        return memory_facts.look(where, crash, text, hung=hung, symbols=_symbols(folder, images), tree=tree), ""
    except UsageError:
        if folder is None:
            raise
        return None, f"{subject.core} is no dump that can be read"
    except HarnessError as error:
        return None, f"the memory cannot be read: {error.message}; {error.hint}"


# Modules whose files are known: those that the run took along, those of a kernel that was built here.
def _symbols(folder: Path | None, images: Images | None) -> list[Path]:
    if folder is None:
        return []
    named = [Path(str(file)) for file in read_json(folder / "spec.json").get("files") or ()]
    return [path for path in (*named, *(images.paths if images else ())) if path.suffix == ".ko" and path.is_file()]


def _how(subject: Subject, verdict: dict[str, Any]) -> str:
    spec = read_json(subject.run / "spec.json") if subject.run else {}
    kept = verdict.get("vmcore") or {}
    if kept.get("error"):
        return f"no vmcore: {kept['error']}"
    if str(verdict.get("verdict")) == "ejected":
        return f"no vmcore: an ejection is no crash, the kernel went on; sched_ext's own dump is {subject.run}/dump.txt"
    if str(verdict.get("verdict")) not in (*_CRASHED, "inconclusive"):
        return "no vmcore: the kernel neither crashed nor hung"
    if spec.get("verb") == "vm":
        return "no vmcore: the VM has ended; vm start --dump, or vm dump NAME before vm stop"
    if spec.get("verb") not in ("run", "verify"):
        return "no vmcore: what made it crash, once more under kernloop run --dump -- CMD, leaves one"
    return "no vmcore: the same once more with --dump leaves one"


# The last lines of a console, or those before a crash, where no log buffer can be read.
def _tail(console: bytes) -> Iterator[str]:
    lines = console[-16384:].decode(errors="replace").splitlines()[-200:]
    yield from (line.rstrip() for line in lines if line.strip())


def _next(found: Triage, *, decoded: bool) -> str:
    steps = []
    if found.scx and found.scx.cure:
        steps.append(found.scx.cure)
    elif found.crash:
        steps.append(next_step(found.crash, place(found.subject.run, found.subject.name), decoded=decoded))
    where = found.subject.core or (found.subject.vm.name if found.subject.vm else None)
    if found.memory and where:
        if found.verdict in _HUNG:
            steps.append(f"all who wait, with their stacks: kernloop debug why-hung {where}")
        steps.append(f"ask it anything: kernloop debug drgn {where} -e 'help()'")
    return "; ".join(steps)
