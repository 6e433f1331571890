# SPDX-License-Identifier: Apache-2.0
"""Objects of single files of a kernel tree, built with W=1 in a folder of their own, and what is new in gcc's words."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kernloop.errors import HarnessError
from kernloop.host import process
from kernloop.report import compiler
from kernloop.report.compiler import Diagnostic

__all__ = ["Builder", "Built", "MakeBuilder", "News", "enabling", "parse"]

_SECONDS = 3600.0
_STEP = re.compile(r"^ +(?:CC|AS|LD) +(?:\[M\] +)?(\S+\.o)$", re.M)
_FAILED = re.compile(r"^make[^\n]*\*\*\* \[(?:[^\]\n]*: )?([^\]\n:]+\.o)\] Error", re.M)


@dataclass(frozen=True)
class Built:
    """What make did: `compiled` again, `failed`, `unknown` to it; and what the compiler said, files as in the tree."""

    ok: bool
    compiled: tuple[str, ...]
    failed: tuple[str, ...]
    unknown: tuple[str, ...]
    diagnostics: tuple[Diagnostic, ...]
    tail: tuple[str, ...] = ()


# Builds targets of a tree (all of it, if there are none); `fresh`: the configuration may have changed.
Builder = Callable[[Path, Sequence[str], bool], Built]


class MakeBuilder:
    """make in `folder`; `prepare` makes .config there for a tree, and gives make's command line without targets."""

    def __init__(self, folder: Path, prepare: Callable[[Path, Path], tuple[str, ...]]) -> None:
        self._folder, self._prepare = folder, prepare
        self._make: tuple[str, ...] = ()

    def __call__(self, tree: Path, targets: Sequence[str], fresh: bool) -> Built:
        if not self._make or fresh:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._make = self._prepare(tree, self._folder)
        more = ("W=1", *targets) if targets else ("all",)
        jobs = f"-j{len(os.sched_getaffinity(0))}"
        # -k: one object that fails says nothing of the others.
        done = process.run(
            [*self._make, jobs, "-k", *more], seconds=_SECONDS, what="make", check=False, env={"LC_ALL": "C"}
        )
        said = done.stdout + done.stderr
        if process.disk_full(said):
            raise HarnessError("the disk is full: nothing was learnt of the series", hint="free some space")
        built = parse(tree, self._folder, done.status, said)
        if fault := next((one for one in built.diagnostics if one.fault == "machine"), None):
            raise HarnessError(f"make: {fault.message}", hint="nothing was learnt of the series: cure it, try again")
        return built


def parse(tree: Path, folder: Path, status: int, said: str) -> Built:
    """What make and the compiler printed, read."""
    found = [_placed(tree, folder, one) for one in compiler.parse(said.splitlines(), tree=str(tree))]
    unknown = tuple(one.symbol for one in found if one.kind == "no-rule" and one.symbol.endswith(".o"))
    return Built(
        status == 0,
        tuple(dict.fromkeys(_STEP.findall(said))),
        tuple(target for target in dict.fromkeys(_FAILED.findall(said)) if target not in unknown),
        unknown,
        tuple(one for one in found if one.kind != "no-rule" or one.symbol not in unknown),
        tuple(line for line in said.splitlines() if line.strip())[-5:],
    )


class News:
    """Which warnings are new since the last build of the same file; moved lines are no news."""

    def __init__(self) -> None:
        self._known: dict[str, Counter[str]] = {}

    def of(self, built: Built) -> list[Diagnostic]:
        now: dict[str, list[Diagnostic]] = {}
        # What a compiler warns of after an error is the error's.
        broken = {one.file for one in built.diagnostics if one.is_error}
        for one in built.diagnostics:
            if one.severity == "warning" and one.file not in broken:
                now.setdefault(one.file, []).append(one)
        found = []
        for file, warnings in now.items():
            before = self._known.get(file, Counter())
            seen: Counter[str] = Counter()
            for one in warnings:
                seen[one.message] += 1
                if seen[one.message] > before[one.message]:
                    found.append(one)
            self._known[file] = seen
        for target in built.compiled:
            source = str(Path(target).with_suffix(".c"))
            if source not in now and source not in broken:
                self._known.pop(source, None)
        return found


# A path as in the tree: make names sources from the build folder, or whole.
def _placed(tree: Path, folder: Path, one: Diagnostic) -> Diagnostic:
    path = os.path.normpath(folder / one.file) if one.file else ""
    inside = os.path.relpath(path, tree) if path.startswith(f"{tree}/") else one.file
    return replace(one, file=inside)


def enabling(tree: Path, target: str) -> str:
    """The configuration symbol that `target` needs, as its folder's Makefile has it, or ""."""
    makefile = tree / Path(target).parent / "Makefile"
    if not makefile.is_file():
        return ""
    name = re.escape(Path(target).name)
    lines: Iterable[str] = makefile.read_text(errors="replace").replace("\\\n", " ").splitlines()
    found = (re.match(rf"\s*[\w-]+-\$\((CONFIG_\w+)\)\s*[+:]?=.*(?<![\w-]){name}(?![\w-])", line) for line in lines)
    return next((match[1] for match in found if match), "")
