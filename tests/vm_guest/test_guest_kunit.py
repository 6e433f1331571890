# SPDX-License-Identifier: Apache-2.0
"""KUnit in a guest: suites of modules by pattern, what each case came to, and a panic that names suite and case."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import trees
from kernloop import runs
from kernloop.errors import SubjectError
from kernloop.host import process
from kernloop.kernel import build, refs
from kernloop.kernel.kernel import Kernel
from kernloop.suites import kunit
from kernloop.suites.judge import Judgement
from kernloop.verdict import Verdict

pytestmark = pytest.mark.vm

FIXTURES = Path(__file__).parent.parent / "fixtures/kunit"


def examined(kernel: Kernel, glob: str) -> Judgement:
    with runs.create("kunit", kunit.SCHEMA, {"subject": glob}) as record:
        return kunit.examine(kernel, kunit.Request(glob), record, say=lambda text: None)


def test_a_kernel_without_kunit_is_refused_with_how_to_get_one() -> None:
    with pytest.raises(SubjectError) as caught:
        examined(refs.resolve(refs.DEFAULT), "")
    assert "KUNIT" in caught.value.message
    assert "--tree" in caught.value.hint


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Kernel:
    """The tests' own kernel, and a module with suites built for it."""
    folder, modules = tmp_path_factory.mktemp("module"), tmp_path_factory.mktemp("modules")
    shutil.copy(FIXTURES / "own_test.c", folder)
    (folder / "Kbuild").write_text("obj-m := own_test.o\n")
    built = trees.built()
    with build.opened(trees.request()) as objects:
        process.run([*objects.make, f"M={folder}", "modules"], seconds=300, what="building a module")
    (modules / "kernel").mkdir()
    shutil.copy(folder / "own_test.ko", modules / "kernel")
    assert built.kernel is not None
    return replace(built.kernel, modules=modules)


@pytest.mark.slow
def test_a_suite_of_a_module_is_chosen_by_pattern_and_each_case_counts(kernel: Kernel) -> None:
    judgement = examined(kernel, "own")
    assert [(one.name, one.status.value) for one in judgement.results] == [
        ("own.adds", "pass"),
        ("own.errs", "fail"),
        ("own.waits", "skip"),
        ("own.fits.param-1", "pass"),
        ("own.fits.param-2", "pass"),
        ("own.fits.param-3", "fail"),
    ]
    assert judgement.outcome.verdict is Verdict.TEST_FAILED
    assert judgement.results[2].reason == "no such device"
    assert any("own_test.c" in line for line in judgement.results[1].diagnostics)
    assert judgement.problems == ()


@pytest.mark.slow
def test_a_panic_in_a_case_names_suite_and_case(kernel: Kernel) -> None:
    judgement = examined(kernel, "evil")
    assert judgement.outcome.verdict is Verdict.PANIC
    assert judgement.outcome.summary.startswith("while evil.burns ran: ")
    assert judgement.running == "evil.burns"
    assert [(one.name, one.status.value) for one in judgement.results] == [
        ("evil.adds", "pass"),
        ("evil.burns", "crashed"),
        ("evil test 3", "missing"),
    ]


@pytest.mark.slow
def test_a_pattern_that_fits_nothing_is_no_pass(kernel: Kernel) -> None:
    assert examined(kernel, "nonesuch*").outcome.verdict is Verdict.INCONCLUSIVE
