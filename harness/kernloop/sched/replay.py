# SPDX-License-Identifier: Apache-2.0
"""A run in virtual time done again from its recipe, and compared with what it was, byte by byte."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import BinaryIO

from kernloop import runs
from kernloop.errors import HarnessError, UsageError
from kernloop.host.paths import cache_dir
from kernloop.kernel import refs, source
from kernloop.kernel.kernel import Kernel
from kernloop.runs import Run
from kernloop.sched import programs
from kernloop.verdict import Outcome, Verdict
from kernloop.vm import guests, recipe
from kernloop.vm.guest import Guest
from kernloop.vm.judge import WHO_KILLS, unjudged
from kernloop.vm.recipe import Recipe
from kernloop.vm.session import End, Watched
from kernloop.vm.watch import Command, attend, watch

__all__ = ["SCHEMA", "Replay", "execute", "machine_of"]

SCHEMA = "kernloop.replay/1"
# The job's stdout has another name where it is read as events.
_STDOUT = {"verify": "events.jsonl"}
_COMPARED = ("console.log", "stdout", "stderr")


@dataclass(frozen=True)
class Replay:
    """`differs` names the first file that is not the same, `line` its first line (from 1), `was` and `now` its text."""

    outcome: Outcome
    original: Path
    differs: str = ""
    line: int = 0
    was: str = ""
    now: str = ""


def execute(original: Path, run: Run, *, say: Callable[[str], None]) -> Replay:
    """Repeat the run at `original`. Raises UsageError for one that cannot be repeated, HarnessError for what failed."""
    made_of = recipe.read(original)
    spec = runs.read_json(original / "spec.json")
    verb = str(spec["verb"])
    say("finding the kernel")
    kernel, guest = machine_of(made_of, verb)
    payload = (original / recipe.PAYLOAD).read_bytes()
    say(f"repeating {original.name}")
    with contextlib.ExitStack() as stack:
        out = stack.enter_context((run.path / _name("stdout", verb)).open("wb"))
        err = stack.enter_context((run.path / "stderr").open("wb"))
        command = Command((), float(spec["timeout"]), _to(out), _to(err))
        watched = asyncio.run(watch(attend(guest, payload, run), run, command, real_time=False))
    base = replace(
        unjudged(kernel, run, watched), times={**watched.times, "total": round(run.elapsed, 3)}, exit_status=None
    )
    for name in _COMPARED:
        found = _first_difference(original / _name(name, verb), run.path / _name(name, verb))
        if found is not None:
            line, was, now = found
            differs = f"{_name(name, verb)} is another from line {line} on"
            said = _other(base, watched, differs, command.seconds)
            return Replay(said, original, _name(name, verb), line, was, now)
    same = replace(base, verdict=Verdict.PASS, summary=f"the same, byte by byte, as {original.name}")
    return Replay(same, original)


# A deadline is the host's, and so is what its other work does to it: no word on the guest.
def _other(base: Outcome, watched: Watched, differs: str, seconds: float) -> Outcome:
    if watched.end in (End.DEADLINE, End.BOOT_DEADLINE):
        return replace(
            base,
            verdict=Verdict.INCONCLUSIVE,
            summary=f"the {seconds:g} s of real time were over before the guest was done: {differs}",
            next="if the first run got to its end: again, with less other work for the host",
        )
    if watched.end is End.GONE and watched.qemu and watched.qemu.status < 0:
        return replace(
            base,
            verdict=Verdict.LOST,
            summary=f"QEMU was killed before the guest was done: {differs}",
            next=WHO_KILLS,
        )
    return replace(
        base,
        verdict=Verdict.TEST_FAILED,
        summary=differs,
        next="was the first run stopped by its deadline? if not, this is a bug of kernloop",
    )


def machine_of(made_of: Recipe, verb: str) -> tuple[Kernel, Guest]:
    """The kernel and the guest of a run, as they were. Raises HarnessError where they cannot be had."""
    kernel = _kernel(made_of)
    return kernel, _guest(made_of, kernel, verb)


def _name(stream: str, verb: str) -> str:
    return _STDOUT.get(verb, stream) if stream == "stdout" else stream


def _to(file: BinaryIO) -> Callable[[bytes], None]:
    def write(data: bytes) -> None:
        file.write(data)
        file.flush()

    return write


# By its digest, or fetched anew by its name and compared.
def _kernel(made_of: Recipe) -> Kernel:
    with contextlib.suppress(UsageError):
        return refs.resolve(f"sha256:{made_of.kernel_digest}")
    kernel = refs.resolve(made_of.kernel)
    if kernel.digest != made_of.kernel_digest:
        raise HarnessError(
            f"{made_of.kernel} is another kernel now: {kernel.digest[:12]}, it was {made_of.kernel_digest[:12]}",
            hint="the same image is needed: --kernel path:BZIMAGE of the first machine",
        )
    return kernel


def _guest(made_of: Recipe, kernel: Kernel, verb: str) -> Guest:
    spec = made_of.spec
    files = []
    if verb == "verify" and not (cache_dir() / "initramfs" / made_of.initramfs).exists():
        files = programs.payloads(source.kit(kernel))
    guest = guests.micro(kernel, spec.topology, spec.memory, append=spec.append, virtual=spec.virtual_time, files=files)
    image = cache_dir() / "initramfs" / made_of.initramfs / "initramfs"
    guest = replace(guest, initramfs=image) if image.exists() else guest
    differ = {
        "QEMU": (made_of.qemu, guest.qemu_version),
        "the tools": (made_of.toolset, guest.toolset),
        "the initramfs": (made_of.initramfs, guest.initramfs.parent.name),
        "QEMU's options": (made_of.snapshot, guest.key()),
    }
    for what, (was, now) in differ.items():
        if was != now:
            raise HarnessError(
                f"{what} of that run cannot be had here: {was}, here it is {now}",
                hint="the same version of kernloop makes the same; what is different may run otherwise",
            )
    return guest


# The number of the first line that differs, what it was and is; None when all is the same.
def _first_difference(one: Path, other: Path) -> tuple[int, str, str] | None:
    old, new = (path.read_bytes() if path.exists() else b"" for path in (one, other))
    if old == new:
        return None
    pairs = zip_longest(old.split(b"\n"), new.split(b"\n"), fillvalue=b"")
    number, (was, now) = next((number, pair) for number, pair in enumerate(pairs, start=1) if pair[0] != pair[1])
    return number, was.decode(errors="replace"), now.decode(errors="replace")
