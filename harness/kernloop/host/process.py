# SPDX-License-Identifier: Apache-2.0
"""The one door to host processes: argv lists, a deadline, and a failure line that can be pasted into a shell."""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from kernloop.errors import HarnessError
from kernloop.host import owned

__all__ = ["DIE_WITH_PARENT", "Completed", "become", "detach", "disk_full", "end_group", "follow", "run", "spawn"]

# A child dies with its parent even if the keeper died first.
DIE_WITH_PARENT = ("setpriv", "--pdeathsig", "KILL", "--")
# One whose parent was dead before it asked for that signal gets none: it looks afterwards whether we are still its
# parent.
_NOT_LATE = (*DIE_WITH_PARENT, "sh", "-c", '[ "$PPID" = "$0" ] && exec "$@"')


@dataclass(frozen=True)
class Completed:
    argv: tuple[str, ...]
    status: int
    stdout: str
    stderr: str


def run(
    argv: Sequence[str | Path],
    *,
    seconds: float,
    what: str,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: Path | None = None,
    check: bool = True,
    hint: str = "",
) -> Completed:
    """Run `argv` to its end. `env` is added to ours; `stdin` is a file; `what` names the work in errors.

    Raises HarnessError when it cannot start, is not done after `seconds`, or (with `check`) exits non-zero.
    """
    words = tuple(str(word) for word in argv)
    with (stdin or Path(os.devnull)).open("rb") as source:
        process = spawn(words, cwd=cwd, env=env, stdin=source.fileno(), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with owned.group(process.pid):
        try:
            out, err = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            end_group(process)
            raise HarnessError(f"{what}: not done after {seconds:g} s", hint=f"it was: {shlex.join(words)}") from None
        except BaseException:
            end_group(process)
            raise
    done = Completed(words, process.returncode, out.decode(errors="replace"), err.decode(errors="replace"))
    if check and done.status != 0:
        if disk_full(done.stderr):
            raise HarnessError(f"{what}: the disk is full", hint="free some space, or: kernloop runs gc")
        last = [line for line in (done.stderr or done.stdout).strip().splitlines() if line.strip()][-5:]
        raise HarnessError(
            f"{what} failed (exit {done.status}): " + (" | ".join(last) or "it printed nothing"),
            hint=hint or f"it was: {shlex.join(words)}",
        )
    return done


def follow(
    argv: Sequence[str | Path],
    on_line: Callable[[str], None],
    *,
    seconds: float,
    what: str,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> int:
    """Run `argv` to its end; each line of stdout and stderr goes to `on_line` as it comes. The exit status.

    Raises HarnessError when it cannot start or is not done after `seconds`.
    """
    words = [str(word) for word in argv]
    child = spawn(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=cwd, env=env)
    late = threading.Event()

    def give_up() -> None:
        late.set()
        end_group(child, grace=5)

    timer = threading.Timer(seconds, give_up)
    with owned.group(child.pid):
        timer.start()
        try:
            assert child.stdout is not None
            for line in child.stdout:
                on_line(line.decode(errors="replace").rstrip("\n"))
            status = child.wait()
        except BaseException:
            end_group(child, grace=5)
            raise
        finally:
            timer.cancel()
    if late.is_set():
        raise HarnessError(f"{what}: not done after {seconds:g} s", hint="run it again: it goes on where it was")
    return status


def spawn(
    argv: Sequence[str],
    *,
    stdin: int | None = None,
    stdout: int | None = None,
    stderr: int | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start `argv` in a session of its own; it is killed when the calling thread dies. Raises HarnessError."""
    if cwd is None and "/" not in argv[0] and _which(argv[0]) is None:
        raise HarnessError(f"{argv[0]} is not installed", hint="kernloop doctor names the package")
    try:
        return subprocess.Popen(
            [*_NOT_LATE, str(os.getpid()), *argv],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            cwd=cwd,
            env={**os.environ, **env} if env else None,
            pass_fds=pass_fds,
            start_new_session=True,
        )
    except OSError as error:
        if error.errno == errno.ENOENT:
            raise HarnessError(f"{error.filename} is not there", hint="kernloop doctor names the package") from None
        raise HarnessError(f"cannot start {argv[0]}: {error.strerror}") from None


def detach(
    argv: Sequence[str],
    *,
    stdin: int = subprocess.PIPE,
    stdout: int = subprocess.PIPE,
    stderr: int | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start `argv` in a session of its own: it outlives us. `env` is added to ours. Raises HarnessError."""
    try:
        return subprocess.Popen(
            list(argv),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            cwd=cwd,
            env={**os.environ, **env} if env else None,
            start_new_session=True,
        )
    except OSError as error:
        raise HarnessError(f"cannot start {argv[0]}: {error.strerror}") from None


def become(argv: Sequence[str]) -> NoReturn:
    """Replace this process by `argv`, which takes over the terminal and whose status is ours. Raises HarnessError."""
    program = _which(argv[0])
    if program is None:
        raise HarnessError(f"{argv[0]} is not installed", hint="kernloop doctor names the package")
    os.execv(program, list(argv))


def end_group(process: subprocess.Popen[bytes], *, grace: float = 0) -> None:
    """End the group that `process` leads: SIGTERM, `grace` seconds to go, then SIGKILL; returns when it is reaped."""
    if grace:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=grace)
    # A group of root's, behind sudo, is not ours to kill: it ends by itself.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=10)


def disk_full(text: str) -> bool:
    return os.strerror(errno.ENOSPC) in text


def _which(name: str) -> str | None:
    for folder in os.environ.get("PATH", os.defpath).split(os.pathsep):
        candidate = Path(folder) / name
        if candidate.is_file() and os.access(candidate, os.X_OK):
            return str(candidate)
    return None
