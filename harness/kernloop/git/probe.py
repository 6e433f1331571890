# SPDX-License-Identifier: Apache-2.0
"""One run of one commit: a command on this machine, or a kernel built, booted and given the command."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path

from kernloop import runs
from kernloop.errors import HarnessError, SubjectError, UsageError
from kernloop.git.repository import OWN_GIT
from kernloop.git.signature import Seen, Signature
from kernloop.git.vote import Shot, Sign
from kernloop.host import owned, process
from kernloop.kernel import refs
from kernloop.kernel.build import Built
from kernloop.present import conclude, failure_json, outcome_json
from kernloop.verdict import Verdict, guest_exit_code
from kernloop.vm import run as vm

__all__ = ["GuestProbe", "HostProbe"]


class HostProbe:
    """Runs `argv` in the folder `tree`, which `checkout` brings to a commit first, as `git bisect run` would.

    Exit 0 is good, 125 a skip, 1 to 127 bad; what is more ends the bisect, for it is a signal or a mistake in the
    command. Each run's output goes to a file in `logs`.
    """

    def __init__(
        self, checkout: Callable[[str], None], tree: Path, argv: tuple[str, ...], seconds: float, signature: Signature,
        logs: Path,
    ) -> None:  # fmt: skip
        self._checkout = checkout
        self._tree = tree
        self._argv = argv
        self._seconds = seconds
        self._signature = signature
        self._logs = logs

    def __call__(self, commit: str) -> Shot:
        self._checkout(commit)
        self._logs.mkdir(exist_ok=True)
        number = len(list(self._logs.iterdir())) + 1
        log = self._logs / f"{number:03}-{commit[:12]}.log"
        status = self._run(log)
        if status is None:
            verdict, summary = Verdict.HANG, f"the deadline of {self._seconds:g} s passed"
        elif 0 <= status <= 127:
            verdict, summary = Verdict.COMMAND_FAILED if status else Verdict.PASS, f"exit {status}"
        else:
            how = f"was ended by signal {-status}" if status < 0 else f"exits {status}"
            raise HarnessError(
                f"the command {how} at {commit[:12]}: that says neither good nor bad",
                hint="make it exit 1 for bad, 125 for a commit that cannot be judged: sh -c 'CMD || exit 1'",
                evidence=log,
            )
        return self._signature.judge(Seen(verdict, summary, status, (log,), str(log), host=True))

    # The exit status, or None when the time is over. Whatever the command leaves running ends with it: the next commit
    # starts afresh.
    def _run(self, log: Path) -> int | None:
        with log.open("wb") as out:
            child = process.spawn(
                [*OWN_GIT, *self._argv],
                cwd=self._tree,
                stdin=subprocess.DEVNULL,
                stdout=out.fileno(),
                stderr=subprocess.STDOUT,
            )
            with owned.group(child.pid):
                try:
                    return child.wait(timeout=self._seconds)
                except subprocess.TimeoutExpired:
                    return None
                finally:
                    process.end_group(child)


class GuestProbe:
    """Builds a subject with `build` and runs `request` in a guest of it.

    `built` knows kernels by their digest from before; what a build says that fails is copied to `logs`.
    """

    def __init__(
        self,
        build: Callable[[str], Built],
        request: vm.Request,
        signature: Signature,
        logs: Path,
        *,
        built: Mapping[str, str],
        title: Callable[[str], str],
        say: Callable[[str], None],
    ) -> None:
        self._build = build
        self._request = request
        self._signature = signature
        self._logs = logs
        self._built = dict(built)
        self._title = title
        self._say = say

    def __call__(self, subject: str) -> Shot:
        try:
            digest = self._kernel(subject)
        except UsageError:
            raise
        except HarnessError as error:
            ours = not isinstance(error, SubjectError)
            sign = Sign.UNJUDGED if ours else Sign.UNTESTABLE
            return Shot(sign, error.message, self._log(subject, error.evidence), fault=ours)
        return self._run(subject, digest)

    def _kernel(self, subject: str) -> str:
        if subject in self._built:
            try:
                return refs.resolve(f"sha256:{self._built[subject]}").digest
            except HarnessError:
                pass  # the cache was emptied since
        self._say(f"building {self._title(subject)}")
        kernel = self._build(subject).kernel
        assert kernel is not None  # of this machine's architecture
        self._built[subject] = kernel.digest
        return kernel.digest

    # The build folder goes in the end, the run directory stays.
    def _log(self, subject: str, log: Path | None) -> str:
        if log is None or not log.exists():
            return ""
        self._logs.mkdir(exist_ok=True)
        return str(shutil.copyfile(log, self._logs / f"{subject[:12]}.log"))

    def _run(self, subject: str, digest: str) -> Shot:
        request = replace(self._request, kernel=f"sha256:{digest}")
        self._say(f"running {self._title(subject)}")
        with runs.create("run", vm.SCHEMA, {"subject": self._title(subject), **asdict(request)}) as record:
            try:
                outcome = vm.execute(
                    request, record, on_stdout=lambda data: None, on_stderr=lambda data: None, say=lambda text: None
                )
            except UsageError:
                raise
            except HarnessError as error:
                conclude(record, failure_json(vm.SCHEMA, error, record.path))
                ours = not isinstance(error, SubjectError)
                sign = Sign.UNJUDGED if ours else Sign.UNTESTABLE
                return Shot(sign, error.message, str(record.path), ours, digest)
            code = guest_exit_code(outcome.verdict, outcome.exit_status)
            conclude(record, outcome_json(vm.SCHEMA, record.path, outcome, exit_code=code, seed=request.seed))
        texts = tuple(record.path / name for name in ("console.log", "stdout", "stderr"))
        return self._signature.judge(
            Seen(outcome.verdict, outcome.summary, outcome.exit_status, texts, str(record.path), digest)
        )
