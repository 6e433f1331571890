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
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from kernloop import runs
from kernloop.errors import HarnessError, UsageError
from kernloop.host import bytecode, process
from kernloop.vm import copy, wire
from kernloop.vm.request import VmRequest, live

__all__ = ["VM", "ConsolePiece", "ExecResult", "Matched", "VmInfo", "find", "listing", "read_console", "start"]

_ANSWER_SECONDS = 15.0
_INFO_SECONDS = 3.0
_STOP_SECONDS = 20.0
_DUMP_SECONDS = 600.0
# What the supervisor may take on top of a deadline: SysRq to a guest that does not answer.
_GRACE_SECONDS = 60.0


def _ignore(data: bytes) -> None:
    pass


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
class ConsolePiece:
    """Bytes of a console from `start` on; go on at `cursor`. `more` when there is more already."""

    data: bytes
    start: int
    cursor: int
    more: bool

    @property
    def text(self) -> str:
        return self.data.decode(errors="replace")


@dataclass(frozen=True)
class Matched:
    """What a wait came to: the line, or `state` of the VM when there was none; go on at `cursor`."""

    matched: bool
    line: str
    cursor: int
    state: str


@dataclass(frozen=True)
class VmInfo:
    """A VM as `vm list` shows it. `state`: running, paused, panicked, starting, or no answer (its supervisor hangs)."""

    name: str
    run: Path
    state: str
    facts: Mapping[str, Any]


class VM:
    """A live VM, by its run directory. Each method may raise HarnessError, also when the VM has gone meanwhile."""

    def __init__(self, name: str, run: Path) -> None:
        self.name = name
        self.run = run

    def info(self) -> VmInfo:
        """Its state, kernel, size, jobs and what the kernel reported."""
        facts = self._ask("info", seconds=_INFO_SECONDS)
        return VmInfo(self.name, self.run, facts["state"], facts)

    def exec(
        self,
        argv: Sequence[str],
        *,
        timeout: float | None = 60.0,
        stdin: Iterable[bytes] | None = None,
        on_stdout: Callable[[bytes], None] = _ignore,
        on_stderr: Callable[[bytes], None] = _ignore,
        cwd: str = "/root",
        env: Mapping[str, str] | None = None,
        keep: int = 1 << 20,
    ) -> ExecResult:
        """Run `argv` to its end; after `timeout` seconds it is killed. The last `keep` bytes of a stream come back."""
        request = self._exec_request(argv, timeout, cwd, env, stdin=stdin is not None)
        kept = {"out": bytearray(), "err": bytearray()}
        takers = {"out": on_stdout, "err": on_stderr}
        with self._connect() as connection:
            connection.send(request)
            if stdin is not None:
                threading.Thread(target=_send_stdin, args=(connection, stdin), daemon=True).start()
            quiet = None if timeout is None else timeout + _GRACE_SECONDS
            for message in connection.messages(quiet):
                for stream, take in takers.items():
                    if stream in message:
                        data = wire.unpack(message[stream])
                        take(data)
                        kept[stream] = (kept[stream] + data)[-keep:]
                if "result" in message or "error" in message:
                    result = _answer(message)
                    break
        return _exec_result(result, self.run, bytes(kept["out"]), bytes(kept["err"]))

    def exec_background(
        self,
        argv: Sequence[str],
        *,
        timeout: float | None = None,
        cwd: str = "/root",
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
        folder = Path(result.pop("folder"))
        return _exec_result(result, self.run, *(_tail(folder / name, keep) for name in ("stdout", "stderr")))

    def kill(self, number: int) -> None:
        """Kill job `number`."""
        self._ask("kill", job=number)

    def output(self, number: int, stream: str, *, since: int = 0, limit: int = 16384) -> ConsolePiece:
        """What job `number` wrote to `stream` (stdout, stderr), from byte `since` on."""
        return _piece(self.run / "jobs" / str(number) / stream, since, limit)

    def console(self, *, since: int = 0, limit: int = 16384, grep: str = "") -> ConsolePiece:
        """`limit` bytes of the console from byte `since` on (negative: from the end); `grep` keeps lines that fit."""
        return read_console(self.run, since=since, limit=limit, grep=grep)

    def wait_for(self, pattern: str, *, since: int = 0, timeout: float = 50.0) -> Matched:
        """The first console line after byte `since` that fits the regular expression `pattern`."""
        _compiled(pattern)
        return self._wait("pattern", pattern, since, timeout)

    def wait_report(self, *, timeout: float = 50.0, new: bool = False) -> Matched:
        """A report of the kernel (oops, warning, stall); with `new` one that is not known yet."""
        return self._wait("report", "", -1 if new else 0, timeout)

    def wait_exit(self, *, timeout: float = 50.0) -> Matched:
        """The end of the guest: a panic, power off, or `vm stop` by another."""
        try:
            return self._wait("exit", "", 0, timeout)
        except HarnessError:
            if runs.is_live(self.run):
                raise
            return Matched(True, "", 0, "stopped")

    def push(self, source: Path, target: str) -> None:
        """Copy a file or a folder into the guest: to `target`, or into it when it ends with a slash or is a folder."""
        archive, name = copy.archived(source)
        into = target.endswith("/") or self.exec(["test", "-d", target], timeout=20).status == 0
        folder, name = (target, name) if into else (str(PurePosixPath(target).parent), PurePosixPath(target).name)
        data = archive(name)
        done = self.exec(
            ["sh", "-c", 'mkdir -p "$1" && tar -x -f - -C "$1"', "sh", folder], timeout=600, stdin=copy.pieces(data)
        )
        self._must(done, f"{source} cannot be copied to {target}")

    def pull(self, source: str, target: Path) -> None:
        """Copy a file or a folder out of the guest, to `target`, or into it when it is a folder."""
        path = PurePosixPath(source.rstrip("/"))
        chunks: list[bytes] = []
        done = self.exec(
            ["tar", "-c", "-f", "-", "-C", str(path.parent), path.name], timeout=600, on_stdout=chunks.append
        )
        self._must(done, f"{source} cannot be copied from the guest")
        copy.extract(b"".join(chunks), path.name, target)

    def sysrq(self, keys: str) -> int:
        """SysRq by the serial console; the console's cursor from where on its answer stands."""
        return int(self._ask("sysrq", keys=keys)["cursor"])

    def nmi(self) -> int:
        """An NMI, which makes the kernel panic with a backtrace (unknown_nmi_panic); the console's cursor before."""
        return int(self._ask("nmi")["cursor"])

    def pause(self) -> None:
        """Stop all vCPUs."""
        self._ask("pause")

    def resume(self) -> None:
        self._ask("resume")

    def dump(self, path: Path | None = None) -> dict[str, Any]:
        """A vmcore of the guest as it is now, in its run directory by default: `path`, `format` and `bytes`."""
        where = path or self.run / f"vmcore-{time.strftime('%H%M%S')}"
        return self._ask("dump", seconds=_DUMP_SECONDS, path=str(where.absolute()))

    def snapshot(self, tag: str) -> dict[str, Any]:
        """Save the VM under `tag`, to start others from it; it goes on. `tag` and `bytes`."""
        return self._ask("snapshot", seconds=_DUMP_SECONDS, tag=tag)

    def stop(self) -> dict[str, Any]:
        """End the VM; its run's verdict."""
        with contextlib.suppress(HarnessError):
            self._ask("stop")
        runs.wait_until_over(self.run, _STOP_SECONDS)
        return runs.read_json(self.run / "verdict.json")

    def _must(self, done: ExecResult, what: str) -> None:
        if done.status != 0:
            said = done.stderr.decode(errors="replace").strip().splitlines()
            raise HarnessError(f"{what}: {said[-1] if said else done.summary}", hint=done.next or "is there room?")

    def _exec_request(
        self, argv: Sequence[str], timeout: float | None, cwd: str, env: Mapping[str, str] | None, *, stdin: bool
    ) -> dict[str, Any]:
        if timeout is not None and timeout <= 0:
            raise UsageError(f"a time-out of {timeout:g} s leaves no time", hint="give seconds")
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
        with self._connect() as connection:
            connection.send({"op": op, **words})
            return _answer(next(connection.messages(seconds)))

    def _connect(self) -> wire.Connection:
        try:
            return wire.connect(self.run)
        except OSError:
            state = "does not answer" if runs.is_live(self.run) else "has ended"
            raise HarnessError(
                f"the VM {self.name} {state}", hint=f"kernloop runs show {self.run.name}", evidence=self.run
            ) from None


def start(request: VmRequest, *, bound: bool = False, say: Callable[[str], None] = lambda what: None) -> VM:
    """Start a VM and return when it takes commands; with `bound` it ends when this process does, even by SIGKILL.

    Raises HarnessError when it does not get there.
    """
    request = replace(request, owner=os.getpid() if bound else None)
    env_log = os.memfd_create("kernloop-supervisor")
    argv = [sys.executable, "-m", "kernloop.vm.supervisor"]
    child = process.detach(argv, stderr=env_log, env=bytecode.environment())
    assert child.stdin is not None
    assert child.stdout is not None
    with child.stdin as stdin, contextlib.suppress(BrokenPipeError):
        stdin.write(json.dumps(request.as_json()).encode())
    with child.stdout as stdout:
        for text in stdout:
            message = json.loads(text)
            if "say" in message:
                say(message["say"])
            elif "error" in message:
                child.wait(timeout=_STOP_SECONDS)
                raise wire.raised(message["error"])
            elif "up" in message:
                os.close(env_log)
                # The supervisor is init's child from here on, not a zombie of ours.
                threading.Thread(target=child.wait, daemon=True).start()
                return VM(message["up"]["name"], Path(message["up"]["run"]))
    child.wait(timeout=_STOP_SECONDS)
    said = os.pread(env_log, 1 << 16, 0).decode(errors="replace").strip().splitlines()
    os.close(env_log)
    raise HarnessError(
        f"the VM's supervisor ended: {said[-1] if said else f'status {child.returncode}'}",
        hint="kernloop runs list says how its run ended",
    )


def find(name: str) -> VM:
    """The live VM called `name`. Raises UsageError when there is none."""
    running = {str(spec.get("subject")): path for path, spec in live()}
    if name not in running:
        known = " ".join(running) or "none"
        raise UsageError(f"no VM called {name!r} runs; there are: {known}", hint="kernloop vm start --name NAME")
    return VM(name, running[name])


def listing() -> list[VmInfo]:
    """All live VMs, newest first, as they are now."""
    found = []
    for path, spec in live():
        vm = VM(str(spec.get("subject")), path)
        try:
            found.append(vm.info())
        except HarnessError:
            if not runs.is_live(path):
                continue
            state = "no answer" if (path / wire.SOCKET).exists() else "starting"
            found.append(VmInfo(vm.name, path, state, {"memory": spec.get("memory"), "kernel": spec.get("kernel")}))
    return found


def read_console(run: Path, *, since: int = 0, limit: int = 16384, grep: str = "") -> ConsolePiece:
    """A piece of the console of the run at `run`, which may be over; see VM.console."""
    piece = _piece(run / "console.log", since, limit if not grep else sys.maxsize)
    if not grep:
        return piece
    wanted = _compiled(grep)
    kept = bytearray()
    at = piece.start
    for text in piece.data.splitlines(keepends=True):
        fits = wanted.search(text.rstrip(b"\r\n"))
        if fits and len(kept) + len(text) > limit:
            return ConsolePiece(bytes(kept), piece.start, at, True)
        kept += text if fits else b""
        at += len(text)
    return ConsolePiece(bytes(kept), piece.start, at, False)


def _compiled(pattern: str) -> re.Pattern[bytes]:
    try:
        return re.compile(pattern.encode())
    except re.error as error:
        raise UsageError(
            f"{pattern!r} is no regular expression: {error}", hint="escape ( [ * with a backslash"
        ) from None


def _piece(file: Path, since: int, limit: int) -> ConsolePiece:
    try:
        with file.open("rb") as source:
            size = source.seek(0, os.SEEK_END)
            begin = max(size + since, 0) if since < 0 else min(since, size)
            source.seek(begin)
            data = source.read(max(0, min(limit, size - begin)))
    except FileNotFoundError:
        raise UsageError(f"there is no {file}", hint="kernloop vm list") from None
    return ConsolePiece(data, begin, begin + len(data), begin + len(data) < size)


def _tail(file: Path, keep: int) -> bytes:
    return _piece(file, -keep, keep).data


def _answer(message: dict[str, Any]) -> dict[str, Any]:
    if "error" in message:
        raise wire.raised(message["error"])
    result = message["result"]
    assert isinstance(result, dict)
    return result


def _exec_result(result: dict[str, Any], run: Path, stdout: bytes, stderr: bytes) -> ExecResult:
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


# The other side reads on while we write: a command that filters answers before it has all.
def _send_stdin(connection: wire.Connection, pieces: Iterable[bytes]) -> None:
    with contextlib.suppress(OSError):
        for piece in pieces:
            connection.send({"in": wire.pack(piece)})
        connection.send({"eof": True})
