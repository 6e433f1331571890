# SPDX-License-Identifier: Apache-2.0
"""From what is to be verified to what a guest gets: the words for scxsuite, the files, the object that is loaded."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from kernloop.errors import UsageError
from kernloop.kernel.kernel import Kernel
from kernloop.kernel.source import BpfKit
from kernloop.runs import Run
from kernloop.sched import compile as compiling
from kernloop.sched import embedded, judge, programs, project
from kernloop.sched.judge import Judgement
from kernloop.sched.project import OBJECT
from kernloop.sched.subject import OF_KERNEL, Kind, Subject
from kernloop.vm.initramfs import Payload

__all__ = ["OBJECT", "Prepared", "prepare"]


@dataclass(frozen=True)
class Prepared:
    """`words` are scxsuite's, on the loader that it starts; `object` is None where a program's cannot be seen."""

    words: tuple[str, ...]
    files: tuple[Payload, ...]
    object: Path | None


def prepare(subject: Subject, kernel: Kernel, kit: BpfKit, run: Run) -> Prepared | Judgement:
    """Compile or build `subject` for `kernel` as far as it needs that; a Judgement when its own code stops it.

    Raises UsageError, HarnessError.
    """
    match subject.kind:
        case Kind.PROGRAM:
            assert subject.path is not None
            return _program(subject.path, subject, run)
        case Kind.KERNEL:
            return _program(compiling.own_loader(subject.name.removeprefix(OF_KERNEL), kit, run.path), subject, run)
        case Kind.BUILD:
            assert subject.path is not None
            built = project.build(subject.path, subject.target, kit, run.path)
            if isinstance(built, project.NotBuilt):
                return judge.project_failed(built, kernel, run)
            if built.program is not None:
                return _program(built.program, subject, run)
            if subject.args:
                raise UsageError(
                    f"{subject.name} builds an object and no loader, so nothing takes {' '.join(subject.args)}",
                    hint=f"kernloop verify {subject.name}",
                )
            return _object(built.name, run)
    assert subject.path is not None
    if subject.kind is Kind.OBJECT:
        shutil.copyfile(subject.path, run.path / OBJECT)
    else:
        compiled = compiling.compile_scheduler(subject.path, kit, run.path / OBJECT)
        if compiled.object is None:
            return judge.build_failed(subject.path, kernel, run, compiled)
    return _object(subject.path.name, run)


def _program(program: Path, subject: Subject, run: Run) -> Prepared:
    inside = embedded.schedulers(program)
    if inside:
        (run.path / OBJECT).write_bytes(inside[-1])
    guest = f"/root/{program.name}"
    return Prepared(("--", guest, *subject.args), (Payload(program, guest),), run.path / OBJECT if inside else None)


# The object keeps its own name in the guest: messages then say what the user calls it.
def _object(name: str, run: Run) -> Prepared:
    guest = f"{programs.FOLDER}/{name.removesuffix('.c').removesuffix('.o').removesuffix('.bpf')}.bpf.o"
    words = ("--nest", "--", f"{programs.FOLDER}/scxload", guest)
    return Prepared(words, (Payload(run.path / OBJECT, guest),), run.path / OBJECT)
