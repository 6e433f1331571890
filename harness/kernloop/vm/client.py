# SPDX-License-Identifier: Apache-2.0
"""VMs that live on between calls, for everyone who uses one: the command line, MCP servers, tests, scripts.

>>> vm = client.start(VmRequest(name="a"))            # doctest: +SKIP
>>> vm.exec(["uname", "-r"]).stdout                    # doctest: +SKIP
b'7.3.4+deb13-cloud-amd64\\n'

Nothing here holds a VM: its supervisor does. Any process of this user finds it again by its name.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import IO, Any

from kernloop import runs
from kernloop.errors import HarnessError, UsageError
from kernloop.host import bytecode, process
from kernloop.host.cache import exclusive
from kernloop.host.paths import runs_dir
from kernloop.vm import copy, ssh, wire
from kernloop.vm.answers import ExecResult, GuestMemory, Matched, VmInfo, exec_result
from kernloop.vm.frames import run_request
from kernloop.vm.pieces import ConsolePiece, compiled, piece, read_console
from kernloop.vm.ram import Ram
from kernloop.vm.request import VERB, VmRequest, live

__all__ = [
    "VM",
    "find",
    "last",
    "listing",
    "said",
    "start",
]

_ANSWER_SECONDS = 15.0
# Of each VM of a list, which one that is stopped is not to hold up.
_LISTED_SECONDS = 3.0
_STOP_SECONDS = 20.0
_DUMP_SECONDS = 600.0
_MEMORY_SECONDS = 60.0
_POLL_SECONDS = 0.05
# GDB reads the kernel's DWARF, and KGDB answers by a serial port.
_KGDB_SECONDS = 240.0
# What the supervisor may take on top of a deadline: SysRq to a guest that does not answer.
_GRACE_SECONDS = 60.0
# Collecting garbage while modules are loaded would take a tenth of its start.
_SUPERVISOR = "import gc; gc.disable(); from kernloop.vm.supervisor import main; gc.enable(); main()"
_SSH_SECONDS = str(7 * 86400)
# A kernel is fetched meanwhile, perhaps by another process: so long nothing may be heard of a VM that starts.
_START_SECONDS = 1800.0
_KILLED_SECONDS = 5.0
# One that ends looks up first what its kernel reported, in debug information that may be gigabytes.
_JUDGE_SECONDS = 120.0
_STREAMS = ("stdout", "stderr")


def _ignore(told: object) -> None:
    pass


class VM:
    """A live VM, by its run directory. Each method may raise HarnessError, also when the VM has gone meanwhile."""

    def __init__(self, name: str, run: Path) -> None:
        self.name = name
        self.run = run

    def info(self, *, timeout: float = _ANSWER_SECONDS) -> VmInfo:
        """Its state, kernel, size, jobs and what the kernel reported."""
        facts = self._ask("info", seconds=timeout)
        return VmInfo(self.name, self.run, facts["state"], facts)

    def ended(self) -> bool:
        """Whether it has ended, asked by who got no answer: the last thing that a process drops is not its socket."""
        with contextlib.suppress(HarnessError):
            runs.wait_until_over(self.run, _KILLED_SECONDS)
        return not runs.is_live(self.run)

    def wait_up(self, *, timeout: float = 50.0) -> bool:
        """Whether it takes commands within `timeout` seconds. Raises HarnessError when it ended before it did."""
        deadline = time.monotonic() + timeout
        while not (self.run / wire.SOCKET).exists():
            if not runs.is_live(self.run):
                verdict = runs.read_json(self.run / "verdict.json")
                raise HarnessError(
                    f"the VM {self.name} did not start: {verdict.get('summary', 'its supervisor was killed')}",
                    hint=str(verdict.get("next", "")),
                    evidence=self.run,
                )
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_SECONDS)
        return True

    def exec(
        self,
        argv: Sequence[str],
        *,
        timeout: float | None = 60.0,
        stdin: Iterable[bytes] | None = None,
        on_stdout: Callable[[bytes], object] = _ignore,
        on_stderr: Callable[[bytes], object] = _ignore,
        on_still: Callable[[str], object] = _ignore,
        cwd: str = "",
        env: Mapping[str, str] | None = None,
        keep: int = 1 << 20,
    ) -> ExecResult:
        """Run `argv` to its end; after `timeout` seconds it is killed. The last `keep` bytes of a stream come back.

        Time in which a debugger keeps the guest still does not count: `on_still` is told the VM's state then.
        """
        request = self._exec_request(argv, timeout, cwd, env, stdin=stdin is not None)
        kept = {"out": bytearray(), "err": bytearray()}
        takers = {"out": on_stdout, "err": on_stderr}
        # Stalled by what takes its output, a command takes longer than it may: it says nothing after its deadline.
        quiet = None if timeout is None else timeout + _GRACE_SECONDS
        with self.connect() as connection:
            connection.send(request)
            feeder = _Feeder(connection, stdin) if stdin is not None else None
            try:
                for message in connection.messages(quiet):
                    if "state" in message:
                        on_still(str(message["state"]))
                    for stream, take in takers.items():
                        if stream in message:
                            data = wire.unpack(message[stream])
                            take(data)
                            kept[stream] += data
                            del kept[stream][: max(len(kept[stream]) - keep, 0)]
                    if "result" in message or "error" in message:
                        break
            except HarnessError:
                if feeder and feeder.failed:
                    raise HarnessError(f"the command's input cannot be read: {feeder.failed}") from None
                raise
        return exec_result(_answer(message), self.run, bytes(kept["out"]), bytes(kept["err"]))

    def exec_background(
        self,
        argv: Sequence[str],
        *,
        timeout: float | None = None,
        cwd: str = "",
        env: Mapping[str, str] | None = None,
    ) -> int:
        """Start `argv`; the number of the job."""
        request = self._exec_request(argv, timeout, cwd, env, stdin=False)
        return int(self._ask(**{**request, "background": True})["job"])

    def job(self, number: int, *, timeout: float = 0.0, keep: int = 1 << 20) -> ExecResult | None:
        """How job `number` ended; None when it has not after `timeout` seconds. Raises UsageError for no such job."""
        result = self._ask("job", seconds=timeout + _ANSWER_SECONDS, job=number, timeout=timeout)
        if result.pop("running"):
            return None
        return exec_result(
            result, self.run, *(self.output(number, name, since=-keep, limit=keep).data for name in _STREAMS)
        )

    def kill(self, number: int) -> None:
        """Kill job `number`."""
        self._ask("kill", job=number)

    def output(self, number: int, stream: str, *, since: int = 0, limit: int = 16384) -> ConsolePiece:
        """What job `number` wrote to `stream` (stdout, stderr), from byte `since` on."""
        if stream not in _STREAMS:
            raise UsageError(f"a job has no {stream!r}", hint=" or ".join(_STREAMS))
        return piece(self.run / "jobs" / str(number) / stream, since, limit)

    def console(self, *, since: int = 0, limit: int = 16384, grep: str = "") -> ConsolePiece:
        """`limit` bytes of the console from byte `since` on (negative: from the end); `grep` keeps lines that fit."""
        return read_console(self.run, since=since, limit=limit, grep=grep)

    def wait_for(self, pattern: str, *, since: int = 0, timeout: float = 50.0) -> Matched:
        """The first console line after byte `since` that fits the regular expression `pattern`."""
        compiled(pattern)
        return self._wait("pattern", pattern, since, timeout)

    def wait_report(self, *, timeout: float = 50.0, new: bool = False) -> Matched:
        """A report of the kernel (oops, warning, stall); with `new` one that is not known yet."""
        return self._wait("report", "", -1 if new else 0, timeout)

    def wait_exit(self, *, timeout: float = 50.0) -> Matched:
        """The end of the guest: a panic, power off, or `vm stop` by another."""
        deadline = time.monotonic() + timeout
        try:
            return self._wait("exit", "", 0, timeout)
        except HarnessError:
            # The last thing that a process drops is not its connection.
            runs.wait_until_over(self.run, max(deadline - time.monotonic(), _KILLED_SECONDS))
            return Matched(True, "", self.console(since=-1, limit=1).cursor, "stopped")

    def push(self, source: Path, target: str) -> None:
        """Copy a file or a folder into the guest: to `target`, or into it when it ends with a slash or is a folder."""
        memory = int(runs.read_json(self.run / "spec.json").get("memory", 0)) << 20
        archive, name = copy.archived(source, memory)
        into = target.endswith("/") or self.exec(["test", "-d", target], timeout=20).status == 0
        folder, name = (target, name) if into else (str(PurePosixPath(target).parent), PurePosixPath(target).name)
        if name in ("", ".", ".."):
            raise UsageError(f"{str(source) if into else target!r} does not name a file", hint="name one")
        data = archive(name)
        script = 'mkdir -p -- "$1" && tar -x -f - -C "$1"'
        done = self.exec(["sh", "-c", script, "sh", folder], timeout=600, stdin=copy.pieces(data))
        self._must(done, f"{source} cannot be copied to {target}")

    def pull(self, source: str, target: Path) -> None:
        """Copy a file or a folder out of the guest, to `target`, or into it when it is a folder."""
        path = PurePosixPath(source)
        if path.name in ("", ".."):
            raise UsageError(f"{source!r} does not name a file", hint="name a file or a folder of the guest")
        where = target if target.is_dir() else target.parent
        if not where.is_dir():
            raise UsageError(f"there is no folder {where}", hint="make it first")
        try:
            with tempfile.TemporaryFile(dir=where) as archive:
                done = self.exec(
                    ["tar", "-c", "-f", "-", "-C", str(path.parent), "--", path.name],
                    timeout=600,
                    on_stdout=archive.write,
                )
                self._must(done, f"{source} cannot be copied from the guest")
                archive.seek(0)
                copy.extract(archive, path.name, target)
        except OSError as error:
            raise HarnessError(
                f"cannot write to {where}: {error.strerror}", hint="is it writable, is there room?"
            ) from None

    def sysrq(self, keys: str) -> int:
        """SysRq by the serial console; the console's cursor from where on its answer stands."""
        return int(self._ask("sysrq", seconds=_ANSWER_SECONDS * (len(keys) + 1), keys=keys)["cursor"])

    def nmi(self) -> int:
        """An NMI, which makes the kernel panic with a backtrace (unknown_nmi_panic); the console's cursor before."""
        return int(self._ask("nmi")["cursor"])

    def pause(self) -> None:
        """Stop all vCPUs."""
        self._ask("pause")

    def resume(self) -> None:
        self._ask("resume")

    def dump(self, path: Path | None = None, *, elf: bool = False) -> dict[str, Any]:
        """A vmcore of the guest as it is now, in its run directory by default: `path`, `format` and `bytes`.

        It is compressed (kdump's format), or with `elf` an ELF file of all memory.
        """
        where = path or self.run / f"vmcore-{time.strftime('%H%M%S')}"
        return self._ask("dump", seconds=_DUMP_SECONDS, path=str(where.absolute()), elf=elf)

    @contextlib.contextmanager
    def memory(self, *, hold: bool = False) -> Iterator[GuestMemory]:
        """The guest's memory for the block, to be read past the guest; with `hold` the guest stands still meanwhile,
        and goes on when the block is left."""
        with self.connect() as connection:
            connection.send({"op": "memory", "hold": hold})
            message, file = connection.message_with_file(_MEMORY_SECONDS)
            if file is None:
                _answer(message)
                raise HarnessError("the VM's supervisor gave no memory", hint="is it of another version of kernloop?")
            try:
                about = _answer(message)
                regions = tuple(Ram(*one) for one in about["ram"])
                told = str(about.get("registers", ""))
                note = wire.unpack(about["vmcoreinfo"])
                yield GuestMemory(file, regions, note, str(about["state"]), bool(about["held"]), told)
            finally:
                os.close(file)
                connection.finish(_ANSWER_SECONDS)

    def kgdb(self, do: str, *, timeout: float = 30.0, **words: Any) -> dict[str, Any]:
        """One command to the kernel's own debugger, as kernloop.debug.kgdb has them."""
        seconds = _ANSWER_SECONDS if do == "state" else timeout + _KGDB_SECONDS
        return self._ask("kgdb", seconds=seconds, do=do, words=words, timeout=timeout)

    def snapshot(self, tag: str) -> dict[str, Any]:
        """Save the VM under `tag`, to start others from it; it goes on. `tag` and `bytes`."""
        return self._ask("snapshot", seconds=_DUMP_SECONDS, tag=tag)

    def ssh_config(self) -> Path:
        """A configuration for `ssh -F PATH NAME`, scp and rsync; the first call puts the server into the guest.

        Nothing listens anywhere: each connection is a command of this VM (kernloop.vm.ssh).
        """
        with exclusive(f"ssh-{self.run.name}", what="preparing ssh", seconds=120):
            path = self.run / ssh.CONFIG
            if not path.exists():
                proxy = (
                    sys.executable,
                    "-m",
                    "kernloop",
                    "vm",
                    "exec",
                    "--stdin",
                    "--timeout",
                    _SSH_SECONDS,
                    self.name,
                )
                made = ssh.write(self.run, self.name, (*proxy, "--", *ssh.BRIDGE))
                try:
                    done = self.exec(ssh.UNPACK, timeout=120, stdin=copy.pieces(ssh.archive(self.run)))
                    self._must(done, "the ssh server cannot be put into the guest")
                except BaseException:
                    made.unlink()
                    raise
        return path

    def stop(self) -> dict[str, Any]:
        """End the VM; its run's verdict."""
        patience = _STOP_SECONDS
        try:
            self._ask("stop", seconds=_KILLED_SECONDS)
        except HarnessError:
            patience = _KILLED_SECONDS
        try:
            with contextlib.suppress(HarnessError):
                runs.wait_until_over(self.run, patience)
            runs.wait_until_over(self.run, _JUDGE_SECONDS if _ends(self.run) else 0)
        except HarnessError:
            # It hangs, or somebody has stopped it: its keeper ends what it owns.
            runs.kill_owner(self.run)
            runs.wait_until_over(self.run, _KILLED_SECONDS)
        return runs.wait_for_verdict(self.run, _KILLED_SECONDS)

    def _must(self, done: ExecResult, what: str) -> None:
        if done.status != 0:
            said = done.stderr.decode(errors="replace").strip().splitlines()
            raise HarnessError(f"{what}: {said[-1] if said else done.summary}", hint=done.next or "is there room?")

    def _exec_request(
        self, argv: Sequence[str], timeout: float | None, cwd: str, env: Mapping[str, str] | None, *, stdin: bool
    ) -> dict[str, Any]:
        if timeout is not None and timeout <= 0:
            raise UsageError(f"a time-out of {timeout:g} s leaves no time", hint="give seconds")
        run_request(argv, cwd=cwd, env=env or {})
        return {
            "op": "exec",
            "argv": list(argv),
            "timeout": timeout,
            "cwd": cwd,
            "env": dict(env or {}),
            "stdin": stdin,
            "background": False,
        }

    def _wait(self, what: str, pattern: str, since: int, timeout: float) -> Matched:
        seconds = timeout + _ANSWER_SECONDS
        found = self._ask("wait", seconds=seconds, what=what, pattern=pattern, since=since, timeout=timeout)
        return Matched(found["matched"], found["line"], found["cursor"], found["state"])

    def _ask(self, op: str, *, seconds: float = _ANSWER_SECONDS, **words: Any) -> dict[str, Any]:
        with self.connect() as connection:
            connection.send({"op": op, **words})
            return _answer(next(connection.messages(seconds)))

    def connect(self) -> wire.Connection:
        """A connection to its supervisor, for one request."""
        try:
            return wire.connect(self.run)
        except OSError:
            state = "does not answer" if runs.is_live(self.run) else "has ended"
            raise HarnessError(
                f"the VM {self.name} {state}", hint=f"kernloop runs show {self.run.name}", evidence=self.run
            ) from None


def start(request: VmRequest, *, bound: bool = False, say: Callable[[str], None] = lambda what: None) -> VM:
    """Start a VM and return when it takes commands; with `bound` it ends when this process does, even by SIGKILL.

    Raises HarnessError when it does not get there. A supervisor whose caller goes away before that, by an exception for
    instance, ends.
    """
    request = replace(request, owner=os.getpid() if bound else None)
    with open(os.memfd_create("kernloop-supervisor"), "w+b") as log:  # noqa: PTH123 it has no path
        argv = [sys.executable, "-c", _SUPERVISOR]
        child = process.detach(argv, stderr=log.fileno(), env=bytecode.environment())
        # Once it has told what there is to tell it is init's child, not a zombie of ours.
        reaper = threading.Thread(target=child.wait, daemon=True)
        reaper.start()
        assert child.stdin is not None
        assert child.stdout is not None
        with contextlib.suppress(BrokenPipeError), child.stdin as stdin:
            stdin.write(json.dumps(request.as_json()).encode())
        with child.stdout as stdout:
            for message in said(stdout):
                if "say" in message:
                    say(message["say"])
                elif "error" in message:
                    reaper.join(_STOP_SECONDS)
                    raise wire.raised(message["error"])
                elif "up" in message:
                    return VM(message["up"]["name"], Path(message["up"]["run"]))
        reaper.join(_STOP_SECONDS)
        log.seek(0)
        last_words = log.read().decode(errors="replace").strip().splitlines()
    raise HarnessError(
        f"the VM's supervisor ended: {last_words[-1] if last_words else f'status {child.returncode}'}",
        hint="kernloop runs list says how its run ended",
    )


def said(stdout: IO[bytes], whose: str = "the VM's supervisor") -> Iterator[dict[str, Any]]:
    """What a process that was started says until it is up, or has ended. Raises HarnessError when it says nothing."""
    os.set_blocking(stdout.fileno(), False)
    rest = b""
    while select.select([stdout], [], [], _START_SECONDS)[0]:
        data = os.read(stdout.fileno(), 1 << 16)
        if not data:
            return
        *lines, rest = (rest + data).split(b"\n")
        yield from map(json.loads, lines)
    raise HarnessError(f"{whose} has said nothing for {_START_SECONDS:g} s", hint="kernloop vm list")


def find(name: str) -> VM:
    """The live VM called `name`. Raises UsageError when there is none."""
    running = {str(spec.get("subject")): path for path, spec in live()}
    if name not in running:
        known = " ".join(running) or "none"
        raise UsageError(f"no VM called {name!r} runs; there are: {known}", hint="kernloop vm start --name NAME")
    return VM(name, running[name])


def last(name: str) -> VM:
    """The VM called `name`, or whose run has that id, even if it has ended: its console and its jobs' output stay.

    Raises UsageError when there never was one.
    """
    folder = runs_dir()
    for path in sorted(folder.glob(f"*-{VERB}-*"), reverse=True) if folder.exists() else []:
        if (subject := str(runs.read_json(path / "spec.json").get("subject"))) == name or path.name == name:
            return VM(subject, path)
    raise UsageError(f"there never was a VM called {name!r}", hint="kernloop vm start --name NAME")


def listing() -> list[VmInfo]:
    """All live VMs, newest first, as they are now."""
    found = []
    for path, spec in live():
        vm = VM(str(spec.get("subject")), path)
        try:
            found.append(vm.info(timeout=_LISTED_SECONDS))
        except HarnessError:
            if not runs.is_live(path):
                continue
            state = "no answer" if (path / wire.SOCKET).exists() else "ending" if _ends(path) else "starting"
            found.append(VmInfo(vm.name, path, state, {"memory": spec.get("memory"), "kernel": spec.get("kernel")}))
    return found


# Whether a VM that lives has served and does no more.
def _ends(path: Path) -> bool:
    return not (path / wire.SOCKET).exists() and any(entry.get("event") == "serving" for entry in runs.timeline(path))


def _answer(message: dict[str, Any]) -> dict[str, Any]:
    if "error" in message:
        raise wire.raised(message["error"])
    result = message["result"]
    assert isinstance(result, dict)
    return result


# Sends `pieces` to the command while the other side is read: one that filters answers before it has all.
class _Feeder:
    def __init__(self, connection: wire.Connection, pieces: Iterable[bytes]) -> None:
        self.failed: OSError | None = None
        self._connection = connection
        self._pieces = iter(pieces)
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                piece = next(self._pieces, None)
            except OSError as error:
                self.failed = error
                self._connection.hang_up()
                return
            try:
                self._connection.send({"eof": True} if piece is None else {"in": wire.pack(piece)})
            except HarnessError:
                return  # its command has ended
            if piece is None:
                return
