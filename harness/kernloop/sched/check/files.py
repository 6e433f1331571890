# SPDX-License-Identifier: Apache-2.0
"""The check of a file: a scheduler's source, which is compiled first, or an object."""

from __future__ import annotations

import gc
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kernloop.errors import UsageError
from kernloop.sched.check.check import check
from kernloop.sched.check.drift import drift, unexplained
from kernloop.sched.check.finding import Finding
from kernloop.sched.check.table import rules
from kernloop.sched.obj import load
from kernloop.sched.obj.kernel import of_btf
from kernloop.sched.obj.model import SchedObject

# An object is checked in less time than it takes to import what compiles one and what chooses a kernel.
if TYPE_CHECKING:
    from kernloop.kernel.kernel import Kernel
    from kernloop.report.compiler import Diagnostic
    from kernloop.sched.subject import Subject

__all__ = ["Checked", "Excerpt", "cause_of", "check_file", "check_object", "check_prepared", "excerpt"]


@dataclass(frozen=True)
class Excerpt:
    """A line of the source and its number."""

    line: int
    text: str


@dataclass(frozen=True)
class Checked:
    """`diagnostics` are the compiler's; with errors among them nothing was checked, and the findings say which of them
    are about what the kernel lacks. `kernel` is "" for none.
    """

    subject: Path
    kernel: str
    findings: tuple[Finding, ...]
    diagnostics: tuple[Diagnostic, ...] = ()

    @property
    def errors(self) -> list[Diagnostic]:
        """Why it does not compile."""
        if not self.diagnostics:
            return []
        from kernloop.report.compiler import errors

        return errors(self.diagnostics)

    @property
    def unexplained(self) -> list[Diagnostic]:
        """Those of the errors that no finding is about."""
        return unexplained(self.errors, self.findings)


def check_file(path: Path, kernel: str | None, say: Callable[[str], None]) -> Checked:
    """Check `path`, a .bpf.c or an object, for `kernel` (for a source the default one; for an object, none).

    Raises UsageError when it is neither, HarnessError when the compiler cannot be had.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a folder", hint="give the scheduler's .bpf.c or .bpf.o")
    if not path.exists():
        raise UsageError(f"{path} is not there", hint="examples/schedulers has some to start from")
    if path.suffix == ".o":
        with _no_collecting():
            found = load.load(path)
            target = _kernel(kernel) if kernel else None
            findings = check_object(found, None, target, own_loader=_has_settings(found))
        return Checked(path, target.release if target else "", findings)
    return _check_source(path, kernel, say)


# A hundred thousand small things are made and none thrown away: looking for garbage takes a sixth of the time.
@contextmanager
def _no_collecting() -> Iterator[None]:
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


def _kernel(name: str) -> Kernel:
    from kernloop.kernel import refs

    return refs.resolve(name)


def _check_source(path: Path, kernel: str | None, say: Callable[[str], None]) -> Checked:
    from kernloop.kernel import refs, source
    from kernloop.sched import compile as compiling

    compiling.check_source(path)
    running = refs.resolve(kernel or refs.DEFAULT)
    say(f"compiling for {running.release}")
    with tempfile.TemporaryDirectory(prefix="kernloop-check-") as folder:
        built = compiling.compile_scheduler(path, source.kit(running), Path(folder) / "scheduler.bpf.o")
        if built.object is None:
            return Checked(path, running.release, _drift(built.diagnostics, running), built.diagnostics)
        with _no_collecting():
            findings = check_object(load.load(built.object), path, running)
        return Checked(path, running.release, findings, built.diagnostics)


def check_object(
    obj: SchedObject, source: Path | None, kernel: Kernel | None, *, own_loader: bool = False
) -> tuple[Finding, ...]:
    """What is wrong with `obj`, which was compiled from `source`, for `kernel` (None: any).

    A loader of its own (`own_loader`) may set flags and limits of the ops before the kernel sees them.
    """
    numbers = tuple(int(number) for number in re.findall(r"\d+", kernel.release)[:2]) if kernel else ()
    types = of_btf(kernel.btf) if kernel and kernel.btf else None
    return tuple(
        check(
            obj,
            source=source,
            kernel=types,
            config=kernel.config if kernel else None,
            release=numbers or None,
            own_loader=own_loader,
        )
    )


def _drift(diagnostics: tuple[Diagnostic, ...], kernel: Kernel) -> tuple[Finding, ...]:
    return drift(diagnostics, kernel.release, of_btf(kernel.btf) if kernel.btf else None)


# Not settings: what scx/common.bpf.h brings along, texts of scx_bpf_error() and the kernel's constants.
_NO_SETTING = re.compile(r"uei_dump_len|__SCX_\w+|.*\._+fmt(\.\d+)?")


# An object with settings (`const volatile` variables) is for a loader that sets them, and then, as scx_p2dq's does, the
# ops' flags as well.
def _has_settings(obj: SchedObject) -> bool:
    return any(one.constant and not _NO_SETTING.fullmatch(one.name) for one in obj.variables.values())


def check_prepared(subject: Subject, path: Path | None, kernel: Kernel, *, own_loader: bool) -> tuple[Finding, ...]:
    """What is wrong with the object that was made of `subject` for a guest; nothing where there is none, or no sound
    one: the kernel will say so."""
    from kernloop.sched.subject import Kind

    if path is None:
        return ()
    source = subject.path if subject.kind is Kind.SOURCE else None
    try:
        with _no_collecting():
            return check_object(load.load(path), source, kernel, own_loader=own_loader)
    except load.ObjectError:
        return ()


def excerpt(subject: Path, finding: Finding, around: int = 2) -> tuple[Excerpt, ...]:
    """The lines about a finding, where its file lies beside the subject."""
    if not finding.file:
        return ()
    name = Path(finding.file)
    path = subject if name.name == subject.name else subject.parent / name
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return (Excerpt(finding.line, finding.source),) if finding.source else ()
    first = max(finding.line - around, 1)
    return tuple(Excerpt(number, text) for number, text in enumerate(lines[first - 1 : finding.line + around], first))


def cause_of(message: str, findings: Iterable[Finding]) -> Finding | None:
    """The finding that explains the kernel's message with this id (report/data/scx_messages.json), the surest first."""
    fitting = [one for one in findings if one.level != "unknown" and message in rules()[one.rule].messages]
    return min(fitting, key=lambda one: one.level != "must", default=None)
