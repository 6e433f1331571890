# SPDX-License-Identifier: Apache-2.0
"""One test of a verify done again, from what its run directory holds: the scheduler as it was then.

First alone, which is the shorter reproducer. What a test sees may come from those before it: if it does not come out as
it did, the whole run is repeated as far as that test, which in virtual time is the same to the last bit.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kernloop import runs
from kernloop.errors import UsageError
from kernloop.kernel.kernel import Kernel
from kernloop.runs import Run
from kernloop.sched.events import SuiteReader, TestResult
from kernloop.sched.replay import machine_of
from kernloop.verdict import KernelSeen, Outcome, Verdict
from kernloop.vm import handover, recipe
from kernloop.vm.argv import ERST
from kernloop.vm.frames import with_option
from kernloop.vm.guest import Guest
from kernloop.vm.watch import Command, attend, watch

__all__ = ["TestReplay", "Told", "again"]

_JOB = "kl/job"


@dataclass(frozen=True)
class Told:
    """What a run said of a test: its result, None when it did not come to that; how the scheduler ended if by error."""

    result: TestResult | None
    exit_kind: int | None = None
    exit_message: str = ""

    @property
    def word(self) -> str:
        return self.result.result if self.result else "did not end"

    def __str__(self) -> str:
        if self.exit_kind is not None:
            return f"ejected: {self.exit_message}"
        if self.result is None:
            return "did not end"
        one = self.result
        return f"{one.result}: {one.figure:.6g} {one.unit} (limit {one.limit:.6g})"


@dataclass(frozen=True)
class TestReplay:
    """`alone`: whether the result came without the tests before it. `same`: whether all that was told is the same."""

    outcome: Outcome
    original: Path
    test: str
    was: Told
    now: Told
    alone: bool
    same: bool


def again(original: Path, name: str, run: Run, *, say: Callable[[str], None]) -> TestReplay:
    """Repeat the test `name` of the run at `original`. Raises UsageError for one that cannot be repeated."""
    made_of = recipe.read(original)
    spec = runs.read_json(original / "spec.json")
    if spec.get("verb") != "verify":
        raise UsageError(f"{original.name} is no verify, it has no tests", hint=f"kernloop replay {original.name}")
    seen = SuiteReader()
    with contextlib.suppress(OSError):
        seen.feed((original / "events.jsonl").read_bytes())
    was = _told(seen, name)
    if was.result is None and seen.running != name and name not in seen.planned:
        raise UsageError(f"{original.name} has no test {name!r}", hint="it has: " + " ".join(seen.planned))
    say("finding the kernel")
    kernel, guest = machine_of(made_of, "verify")
    payload = (original / recipe.PAYLOAD).read_bytes()
    seconds = float(spec["timeout"])
    say(f"repeating {name} alone")
    now = asyncio.run(_until(guest, _with_tests(payload, name), run, name, seconds, "alone"))
    alone = _alike(was, now)
    if not alone:
        say(f"alone it is another ({now}); repeating all up to {name}")
        now = asyncio.run(_until(guest, payload, run, name, seconds, "all"))
    return TestReplay(
        _outcome(original, name, was, now, alone, kernel, run), original, name, was, now, alone, now == was
    )


def _outcome(original: Path, name: str, was: Told, now: Told, alone: bool, kernel: Kernel, run: Run) -> Outcome:
    base = Outcome(
        Verdict.PASS,
        "",
        kernel=KernelSeen(kernel.ref, kernel.release, kernel.build_id),
        times={"total": round(run.elapsed, 3)},
    )
    if _alike(was, now):
        how = "alone" if alone else "behind the tests before it"
        figures = f"as it was: {now}" if now == was else f"{now}; it was {was}"
        return replace(base, summary=f"{name} {how}, {figures}")
    return replace(
        base,
        verdict=Verdict.TEST_FAILED,
        summary=f"{name} comes out otherwise: {now}; it was {was}",
        next=f"kernloop replay {original.name}: is the whole run the same?",
    )


# The same result; figures may be others where the tests before it are left out.
def _alike(was: Told, now: Told) -> bool:
    return (was.word, was.exit_kind) == (now.word, now.exit_kind)


def _told(seen: SuiteReader, name: str) -> Told:
    result = next((test for test in seen.tests if test.name == name), None)
    ended = seen.exit
    # Of one that ended later this test says nothing.
    if ended is not None and ended.is_error and (result is None or "ejected" in result.why):
        return Told(result, ended.kind, ended.message)
    return Told(result)


def _with_tests(payload: bytes, names: str) -> bytes:
    return handover.changed(payload, _JOB, lambda request: with_option(request, "--tests", names))


# Run it until the test has been told of and the scheduler's own words with it, or to the end if that is earlier.
async def _until(guest: Guest, payload: bytes, run: Run, name: str, seconds: float, part: str) -> Told:
    over = asyncio.Event()

    def on_event(event: dict[str, Any]) -> None:
        # The next test begins, the loader has said its last words, or there is none.
        if event.get("event") in ("test-start", "done") and any(test.name == name for test in seen.tests):
            over.set()

    seen = SuiteReader(on_event)
    # What the part before this one left would be another beginning.
    for file in ("console.log", ERST):
        (run.path / file).unlink(missing_ok=True)
    with (run.path / "events.jsonl").open("wb") as events, (run.path / "stderr").open("wb") as errors:

        def stdout(data: bytes) -> None:
            events.write(data)
            seen.feed(data)

        def stderr(data: bytes) -> None:
            errors.write(data)

        run.note("repeat", part=part, test=name)
        command = Command((), seconds, stdout, stderr)
        watching = asyncio.create_task(watch(attend(guest, payload, run), run, command, real_time=False))
        ended = asyncio.create_task(over.wait())
        await asyncio.wait({watching, ended}, return_when=asyncio.FIRST_COMPLETED)
        for task in (ended, watching):
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching
    return _told(seen, name)
