# SPDX-License-Identifier: Apache-2.0
"""Modules under test: loaded into a restored guest in their order, used by a command or by their own KUnit tests,
unloaded again. A crash costs a guest that was restored in a fraction of a second, not a machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import shlex
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from kernloop.errors import SubjectError, UsageError
from kernloop.host import process, toolset
from kernloop.kernel import debugfiles
from kernloop.kernel.kernel import Kernel
from kernloop.kernel.modules import Module
from kernloop.report import ktap
from kernloop.report.crash import Crash
from kernloop.report.severity import Severity
from kernloop.runs import Run
from kernloop.suites.judge import Judgement, judge
from kernloop.suites.refusal import refusal
from kernloop.verdict import Evidence, Outcome, Verdict
from kernloop.vm import cpio, initramfs
from kernloop.vm.backends import backend
from kernloop.vm.handover import blob
from kernloop.vm.judge import crash_place, judge_machine, unjudged
from kernloop.vm.session import GUEST_ENV, End, Session, Watched
from kernloop.vm.topology import Topology

__all__ = ["SCHEMA", "Request", "execute"]

SCHEMA = "kernloop.module/1"
_FOLDER = "kl/module"
_KUNIT = b".kunit_test_suites"
_KUNIT_DEPTH = 64
# Without these a kernel that has KUnit may still run no test of a module (lib/kunit/executor.c, CONFIG_KUNIT_*).
_KUNIT_WORDS = ("enable=1", "autorun=1")
# Loading and unloading are short; a module that does not come back from them hangs.
_LOAD_SECONDS = 30.0
# kmemleak reports what is older than 5 s only (mm/kmemleak.c, MSECS_MIN_AGE).
_LEAKS = "sleep 6; echo scan > /sys/kernel/debug/kmemleak; cat /sys/kernel/debug/kmemleak"


@dataclass(frozen=True)
class Request:
    """`modules` in the order of loading; `wanted` (names) are those under test, which `parameters` are for.

    `argv` uses them; `files` go to /root with it. `timeout` in seconds is for `argv`, or for tests that run at load.
    """

    kernel: Kernel
    modules: tuple[Module, ...]
    wanted: tuple[str, ...]
    argv: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    parameters: tuple[str, ...] = ()
    topology: Topology = field(default_factory=Topology)
    memory: int = 512
    append: tuple[str, ...] = ()
    timeout: float = 120.0


def execute(
    request: Request,
    run: Run,
    *,
    say: Callable[[str], None],
    on_output: Callable[[bytes], None] = lambda data: None,
) -> Judgement:
    """Run it; `say` gets a word on what is being done. Raises HarnessError for what fails on the host."""
    if not request.modules:
        raise UsageError("there is no module to load", hint="name one that the build makes")
    kernel = request.kernel
    if kernel.has("MODULES") is False:
        raise SubjectError(
            f"{kernel.ref} takes no modules: CONFIG_MODULES is off", hint="build with --fragment modules"
        )
    say("packing the modules")
    # What is built into the kernel, or loaded by init already, is not loaded again.
    entries = [cpio.regular(f"{_FOLDER}/{module.name}.ko", _stripped(module.path)) for module in request.modules]
    files = [initramfs.Payload(file, f"/root/{file.name}") for file in request.files]
    payload = blob(initramfs.payload(files, extra=entries), seed=None)
    append = request.append
    if any(_KUNIT in module.path.read_bytes() for module in request.modules):
        append = (*append, *(f"kunit.{word}" for word in _KUNIT_WORDS))
    made = backend("micro", kernel, request.topology, request.memory, append=append)
    debugfiles.note(run.path, kernel, [module.path for module in request.modules])
    say(f"starting {kernel.release}")
    driver = _Driver(request, run, say, on_output)
    watched = asyncio.run(driver.watch(made.attend(payload, run)))
    return driver.judge(watched)


# Without DWARF, which the guest's kernel would only carry about.
def _stripped(module: Path) -> bytes:
    with tempfile.TemporaryDirectory(prefix="kernloop-") as folder:
        to = Path(folder) / module.name
        process.run(
            [toolset.get().strip, "--strip-debug", "-o", to, module], seconds=60, what=f"stripping {module.name}"
        )
        return to.read_bytes()


@dataclass
class _Failure:
    stage: str  # load, command, unload, leaks
    module: str
    status: int | str | None
    said: str


class _Driver:
    def __init__(
        self, request: Request, run: Run, say: Callable[[str], None], on_output: Callable[[bytes], None]
    ) -> None:
        self._request = request
        self._run = run
        self._say = say
        self._on_output = on_output
        self._failure: _Failure | None = None
        self._loaded: list[Module] = []
        self._before = 0  # lines of the console before the first module

    async def watch(self, started: contextlib.AbstractAsyncContextManager[Session]) -> Watched:
        answered = None
        status: int | str | None = None
        async with started as session:
            end = await session.up()
            if end is End.COMMAND:
                if session.restored:
                    session.machine.wake(real_time=True)
                await session.console_caught_up()
                self._before = (self._run.path / "console.log").read_bytes().count(b"\n")
                end, status = await self._all(session)
            self._run.note("end", why=end.value, status=status)
            if end in (End.DEADLINE, End.BOOT_DEADLINE):
                answered = await session.interrogate()
            elif end is End.PANIC:
                await session.hold()
            elif end is End.COMMAND:
                await session.console_caught_up()
        return session.watched(end, status, answered)

    # Load, use, unload; a crash ends it, for nothing can be asked of a module that died in the middle.
    async def _all(self, session: Session) -> tuple[End, int | str | None]:
        request, run = self._request, self._run
        status: int | str | None = None
        began = run.elapsed
        for module in request.modules:
            self._say(f"loading {module.name}")
            words = request.parameters if module.name in request.wanted else ()
            words = _KUNIT_WORDS if module.name == "kunit" else words
            seconds = request.timeout if _KUNIT in module.path.read_bytes() else _LOAD_SECONDS
            end, status, said = await self._one(session, ("insmod", f"/{_FOLDER}/{module.name}.ko", *words), seconds)
            run.note("insmod", module=module.name, status=status)
            if end is not End.COMMAND or self._crashed(session):
                return end, status
            if status != 0 and "File exists" not in said:
                self._failure = _Failure("load", module.name, status, said)
                return end, status
            if status == 0:
                self._loaded.append(module)
        session.times["load"] = run.elapsed - began
        if request.argv:
            self._say(f"running {request.argv[0]}")
            began = run.elapsed
            end, status, said = await self._one(session, request.argv, request.timeout, to_user=True)
            session.times["command"] = run.elapsed - began
            if end is not End.COMMAND or self._crashed(session):
                return end, status
            if status != 0:
                self._failure = _Failure("command", "", status, said)
        began = run.elapsed
        end, left = await self._unload(session)
        session.times["unload"] = run.elapsed - began
        if end is End.COMMAND and left == 0 and self._failure is None and request.kernel.has("DEBUG_KMEMLEAK"):
            self._say("looking for leaks")
            end, _, said = await self._one(session, ("sh", "-c", _LEAKS), _LOAD_SECONDS)
            if said.strip():
                self._failure = _Failure("leaks", "", 0, said)
        return end, status

    async def _unload(self, session: Session) -> tuple[End, int]:
        for module in reversed(self._loaded):
            # With an init and no exit a module is there for good (kernel/module/main.c, delete_module).
            data = module.path.read_bytes()
            if b"\0init_module\0" in data and b"\0cleanup_module\0" not in data:
                continue
            end, status, said = await self._one(session, ("rmmod", module.name), _LOAD_SECONDS)
            self._run.note("rmmod", module=module.name, status=status)
            if end is not End.COMMAND or self._crashed(session):
                return end, 1
            if status != 0:
                self._failure = self._failure or _Failure("unload", module.name, status, said)
                return end, 1
        return End.COMMAND, 0

    async def _one(
        self, session: Session, argv: Sequence[str], seconds: float, *, to_user: bool = False
    ) -> tuple[End, int | str | None, str]:
        said = bytearray()

        def take(data: bytes) -> None:
            if len(said) < 1 << 20:
                said.extend(data)
            if to_user:
                self._on_output(data)

        job = await session.machine.execute(argv, on_stdout=take, on_stderr=take, env=GUEST_ENV)
        end = await session.follow(job, seconds)
        await session.console_caught_up()
        if to_user:
            (self._run.path / "output").write_bytes(bytes(said))
        return end, job.done.result() if job.done.done() else None, said.decode(errors="replace")

    def _crashed(self, session: Session) -> bool:
        return any(crash.severity in (Severity.OOPS, Severity.PANIC) for crash in self._since(session.console.crashes))

    def _since(self, crashes: Sequence[Crash]) -> list[Crash]:
        return [crash for crash in crashes if crash.start_line > self._before]

    def judge(self, watched: Watched) -> Judgement:
        """The verdict; what the kernel reported before the first module was there is not held against it."""
        request, run = self._request, self._run
        watched = replace(watched, crashes=tuple(self._since(watched.crashes)))
        log = run.path / "console.log"
        lines = log.read_text(errors="replace").split("\n") if log.exists() else []
        # As many lines as before, so that line numbers are those of the file.
        report = ktap.parse(["" for _ in lines[: self._before]] + lines[self._before :])
        suites = [module.name for module in self._loaded if _KUNIT in module.path.read_bytes()]
        base = replace(unjudged(request.kernel, run, watched), exit_status=None)
        if suites and report.tests:
            tests = judge(
                request.kernel, run, watched, report, deadline=request.timeout, depth=_KUNIT_DEPTH, log="console.log"
            )
        elif suites:
            why = f"{', '.join(suites)} was loaded, and KUnit ran none of its tests"
            tests = Judgement(replace(base, verdict=Verdict.INCONCLUSIVE, summary=why, next="see console.log"))
        else:
            tests = Judgement(replace(base, verdict=Verdict.PASS, summary=self._done()))
        machine = judge_machine(request.kernel, run, watched, deadline=request.timeout)
        if machine is not None:
            return replace(tests, outcome=self._placed(machine))
        if self._failure is not None and self._failure.stage == "load":
            return replace(tests, outcome=self._rejected(tests.outcome, lines[self._before :], self._failure))
        if watched.crashes:
            return replace(tests, outcome=self._reported(tests.outcome, watched.crashes))
        if tests.outcome.verdict is Verdict.PASS and self._failure is not None:
            return replace(tests, outcome=self._failed(tests.outcome, self._failure))
        if tests.outcome.verdict is Verdict.PASS:
            return replace(tests, outcome=replace(tests.outcome, summary=self._done(tests.outcome.summary)))
        return tests

    def _done(self, tests: str = "") -> str:
        names = ", ".join(self._request.wanted)
        parts = [f"{names} loaded", *([tests] if tests and "loaded" not in tests else [])]
        if self._request.argv:
            parts.append(f"{self._request.argv[0]} ended with 0")
        return f"{', '.join(parts)}, unloaded"

    def _placed(self, machine: Outcome) -> Outcome:
        if machine.function and machine.verdict in (Verdict.OOPS, Verdict.PANIC):
            place = machine.place or machine.function
            step = f"look at {place}; {machine.next}" if machine.next else f"look at {place}"
            return replace(machine, next=step)
        return machine

    def _rejected(self, base: Outcome, lines: Sequence[str], failure: _Failure) -> Outcome:
        module = next(one for one in self._request.modules if one.name == failure.module)
        found = refusal(module.name, module.vermagic.partition(" ")[0], lines, self._before + 1, failure.said)
        evidence = tuple(Evidence("console.log", text, (number, number)) for number, text in found.said)
        return replace(
            base,
            verdict=Verdict.REJECTED,
            summary=f"insmod {module.name}: {found.why}",
            next=found.step,
            evidence=(*evidence, *base.evidence),
        )

    # A warning, a lockdep report, a stall: the kernel lives, and the module is not in order.
    def _reported(self, base: Outcome, crashes: Sequence[Crash]) -> Outcome:
        first = crashes[0]
        where = f" in {first.function}" if first.function and first.function not in first.title else ""
        more = f" (and {len(crashes) - 1} more)" if len(crashes) > 1 else ""
        return replace(
            base,
            verdict=Verdict.TEST_FAILED,
            summary=f"the kernel reported: {first.title}{where}{more}",
            function=first.function,
            place=crash_place(self._run, first),
            next=f"console.log, lines {first.start_line} to {first.end_line}",
        )

    def _failed(self, base: Outcome, failure: _Failure) -> Outcome:
        if failure.stage == "command":
            command = shlex.join(self._request.argv)
            status = failure.status
            how = f"cannot run {status}" if isinstance(status, str) else f"exit {status}"
            return replace(
                base,
                verdict=Verdict.COMMAND_FAILED,
                summary=f"{command}: {how}",
                exit_status=status if isinstance(status, int) else 127,
                next=f"its output is in {self._run.path}/output",
            )
        if failure.stage == "leaks":
            first = failure.said.splitlines()[0]
            (self._run.path / "kmemleak.txt").write_text(failure.said)
            return replace(
                base,
                verdict=Verdict.TEST_FAILED,
                summary=f"memory is left after the module: {first}",
                next="kmemleak.txt has who allocated it",
                evidence=(Evidence("kmemleak.txt", "what kmemleak found"), *base.evidence),
            )
        return replace(
            base,
            verdict=Verdict.TEST_FAILED,
            summary=f"rmmod {failure.module}: {failure.said.strip() or failure.status}",
            next="who still holds it: an open file, a reference that is not given back, a module that needs it",
        )
