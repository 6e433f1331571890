# SPDX-License-Identifier: Apache-2.0
"""`kernloop sched check` on schedulers with one mistake each, and on the same ones without it.

The sources are tests/fixtures/sched_check and examples/schedulers. A line with `BUG: RULE` is where that rule must
find something; compiled with -DGOOD nothing may be found. No guest is booted, but compiler and headers are the cache's.
"""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path

import pytest

from kernloop.host import process, toolset
from kernloop.kernel import refs, source
from kernloop.sched import compile as compiling
from kernloop.sched.check.files import check_object
from kernloop.sched.check.finding import Finding
from kernloop.sched.obj import load
from support import SCHEDULERS, kernloop

pytestmark = pytest.mark.vm

SOURCES = sorted((Path(__file__).parent.parent / "fixtures/sched_check").glob("*.bpf.c"))
NAMES = [path.name.removesuffix(".bpf.c") for path in SOURCES]
with (SCHEDULERS / "static.toml").open("rb") as _file:
    EXAMPLES = tomllib.load(_file)["scheduler"]


class Compiler:
    """The headers are the same for all: parsed once, and each source then takes half the time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.kernel = refs.resolve(refs.DEFAULT)
        self.kit = source.kit(self.kernel)
        self.run("-x", "c-header", self._written(), "-o", "all.h.pch")

    def _written(self) -> str:
        (self.folder / "all.h").write_text("#include <scx/common.bpf.h>\n")
        return "all.h"

    def run(self, *words: str | Path) -> None:
        includes = [f"-I{path}" for path in self.kit.includes]
        argv = [toolset.get().clang, *compiling.FLAGS, *includes, *words]
        process.run(argv, seconds=120, what="compiling", cwd=self.folder)

    def found(self, path: Path, *words: str) -> list[Finding]:
        target = self.folder / "x.bpf.o"
        # clang loses what kind of an extern it is that was declared in a header parsed before: LINUX_KERNEL_VERSION.
        parsed = [] if "is_migration_disabled" in path.read_text() else ["-include-pch", "all.h.pch"]
        self.run(*parsed, *words, "-c", path, "-o", target)
        return [one for one in check_object(load.load(target), path, self.kernel) if one.level != "unknown"]


@pytest.fixture(scope="module")
def compiler(tmp_path_factory: pytest.TempPathFactory) -> Compiler:
    return Compiler(tmp_path_factory.mktemp("check"))


def marked(path: Path) -> set[tuple[str, int]]:
    lines = path.read_text().splitlines()
    return {(rule, at) for at, text in enumerate(lines, 1) for rule in re.findall(r"BUG: ([a-z-]+)", text)}


@pytest.mark.parametrize("path", SOURCES, ids=NAMES)
def test_a_mistake_is_found_at_its_line_and_its_cure_is_silent(compiler: Compiler, path: Path) -> None:
    assert {(one.rule, one.line) for one in compiler.found(path)} == marked(path)
    assert compiler.found(path, "-DGOOD") == []


@pytest.mark.parametrize("entry", EXAMPLES, ids=[entry["path"].removesuffix(".bpf.c") for entry in EXAMPLES])
def test_an_example_has_the_findings_that_its_table_says(compiler: Compiler, entry: dict[str, str]) -> None:
    path = SCHEDULERS / entry["path"]
    found = compiler.found(path)
    if "rule" not in entry:
        assert found == []
        return
    assert [(one.rule, one.level) for one in found] == [(entry["rule"], entry["level"])]
    text = path.read_text().splitlines()[found[0].line - 1]
    assert entry["text"] in text


@pytest.mark.skipif("KERNLOOP_LONG_TESTS" not in os.environ, reason="takes long; KERNLOOP_LONG_TESTS=1")
def test_no_scheduler_of_the_kernels_own_must_be_cured(compiler: Compiler) -> None:
    for path in sorted((compiler.kit.tree / "tools/sched_ext").glob("*.bpf.c")):
        compiler.run("-c", path, "-o", compiler.folder / "own.bpf.o")
        levels = [one.level for one in check_object(load.load(compiler.folder / "own.bpf.o"), path, compiler.kernel)]
        assert "must" not in levels, path.name
        assert levels.count("may") <= 1, path.name


def test_the_command_says_where_why_and_how_to_cure() -> None:
    done = kernloop("sched", "check", "--json", SCHEDULERS / "broken/lost_task.bpf.c", seconds=60)
    value = done.json
    assert done.status == value["exit_code"] == 1
    assert (value["verdict"], value["summary"]) == ("rejected", "1 must, 0 may, 0 undecided")
    found = value["findings"][0]
    assert (found["rule"], found["mistake"], found["program"]) == ("lost-task", 1, "lost_task_enqueue")
    assert any("switch" in line["text"] for line in found["excerpt"])
    assert found["cure"] in value["next"]


def test_a_scheduler_that_does_not_compile_is_the_authors_fault() -> None:
    done = kernloop("sched", "check", "--json", SCHEDULERS / "broken/syntax_error.bpf.c", seconds=60)
    assert (done.status, done.json["verdict"]) == (1, "build-failed")


def test_undecided_is_no_pass() -> None:
    done = kernloop("sched", "check", "--json", SCHEDULERS / "percpu.bpf.c", seconds=60)
    assert done.status == 0
    assert done.json["verdict"] == "unknown"
    assert done.json["summary"].startswith("0 must, 0 may, ")
