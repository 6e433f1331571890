# SPDX-License-Identifier: Apache-2.0
"""The shape of an answer, and who gives it: GDB or KGDB where it keeps the guest still, else drgn, which need not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from kernloop.errors import UsageError
from kernloop.kernel import debugfiles
from kernloop.vm import client
from kernloop.vm.client import VM

__all__ = ["By", "Of", "Told", "asked_of", "chosen", "tree_of"]


class By(StrEnum):
    """Who answers. drgn reads memory, live or of a dump; the others ask a guest that they have stopped."""

    GDB = "gdb"
    KGDB = "kgdb"
    DRGN = "drgn"


@dataclass(frozen=True)
class Told:
    """An answer: `still` is whether the guest stood still for it, `rows` its long part, called `name`, `head` the rest.
    `more`: there are more rows than these."""

    by: By
    still: bool
    name: str
    rows: tuple[Any, ...]
    head: Mapping[str, Any] = field(default_factory=dict)
    more: bool = False


@dataclass(frozen=True)
class Of:
    """Whose calls or variables: a `cpu`, a task by its `pid`, all CPUs (`every`), or nothing: what is at hand."""

    cpu: int | None = None
    pid: int | None = None
    every: bool = False


def asked_of(text: str) -> Of:
    """`text` is "", cpus, cpu N or a pid. Raises UsageError."""
    words = text.lower().replace("cpu", "cpu ").split()
    match words:
        case []:
            return Of()
        case ["cpu", "s"]:
            return Of(every=True)
        case ["cpu", number] if number.isdecimal():
            return Of(cpu=int(number))
        case [number] if number.isdecimal():
            return Of(pid=int(number))
    raise UsageError(f"{text!r} is neither a CPU nor a task", hint="cpus, cpu 1, or a pid")


def chosen(subject: str, by: str) -> tuple[By, VM | Path]:
    """Who answers about `subject`, a VM's name or a vmcore, and what it is. Raises HarnessError, UsageError."""
    if Path(subject).is_file():
        if by not in ("", By.DRGN):
            raise UsageError(f"{by} needs a VM that lives: this is a file", hint="drgn reads it; or crash")
        return By.DRGN, Path(subject).absolute()
    vm = client.find(subject)
    if by:
        return By(by), vm
    state = vm.info().state
    if state == "in-gdb":
        return By.GDB, vm
    if state == "in-kgdb":
        from kernloop.debug import kgdb

        # One that has come there by itself has no GDB yet.
        return (By.KGDB if kgdb.state(vm).stop else By.DRGN), vm
    return By.DRGN, vm


def tree_of(run: Path) -> str:
    """How the names of the files of the kernel of a run begin; "" where its source is not known."""
    images = debugfiles.noted(run)
    return f"{images.source}/" if images and images.source else ""
