# SPDX-License-Identifier: Apache-2.0
"""A bisect's probe with a kernel that is there already: what its guests do becomes shown, clean or not to be judged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from kernloop.errors import HarnessError
from kernloop.git.probe import GuestProbe
from kernloop.git.signature import Signature
from kernloop.git.target import Target
from kernloop.git.vote import Shot, Sign
from kernloop.kernel import refs
from kernloop.kernel.build import BuildFailed, Built
from support import verdict_of

pytestmark = pytest.mark.vm

CRASH = ("sh", "-c", "echo c > /proc/sysrq-trigger")


class Builds:
    """Builds by hand: the default kernel, or the error that is given."""

    def __init__(self, error: HarnessError | None = None) -> None:
        self.count = 0
        self.error = error

    def __call__(self, subject: str) -> Built:
        self.count += 1
        if self.error is not None:
            raise self.error
        kernel = refs.resolve(refs.DEFAULT)
        nothing = Path()
        return Built(kernel, kernel.image, nothing, nothing, (), None, (), (), False)


def probe(
    folder: Path,
    *command: str,
    signature: str | None = None,
    build: Builds | None = None,
    built: dict[str, str] | None = None,
) -> GuestProbe:
    return GuestProbe(
        build or Builds(),
        Target().run(command, 60),
        Signature(signature),
        folder / "logs",
        built=built or {},
        title=lambda subject: f"commit {subject}",
        say=lambda text: None,
    )


def shot(folder: Path, *command: str, signature: str | None = None) -> Shot:
    return probe(folder, *command, signature=signature)("abc")


def test_a_command_that_ends_well_fails_or_is_not_there(tmp_path: Path) -> None:
    well = shot(tmp_path, "true")
    assert (well.sign, well.why) == (Sign.CLEAN, "exit 0")
    assert verdict_of(Path(well.evidence))["verdict"] == "pass"
    assert well.kernel == refs.resolve(refs.DEFAULT).digest
    assert shot(tmp_path, "false").sign is Sign.SHOWN
    gone = shot(tmp_path, "nosuch")
    assert (gone.sign, gone.fault) == (Sign.UNTESTABLE, False)


def test_a_panic_is_the_symptom_or_another_one(tmp_path: Path) -> None:
    crashed = shot(tmp_path, *CRASH, signature="verdict:panic")
    assert crashed.sign is Sign.SHOWN
    assert crashed.why.startswith("kernel panic: sysrq triggered crash in sysrq_handle_crash")
    assert shot(tmp_path, *CRASH, signature="kernel-panic@sysrq_handle_crash").sign is Sign.SHOWN
    other = shot(tmp_path, *CRASH, signature="null-deref@sysrq_handle_crash")
    assert (other.sign, other.fault) == (Sign.UNJUDGED, False)


def test_each_run_is_a_boot_of_its_own_and_a_kernel_is_built_once(tmp_path: Path) -> None:
    build = Builds()
    probed = probe(tmp_path, "true", build=build)
    first, second = probed("abc"), probed("abc")
    assert build.count == 1
    for one in (first, second):
        assert "boot" in verdict_of(Path(one.evidence))["times"]
    again = probe(tmp_path, "true", build=build, built={"abc": first.kernel})
    assert again("abc").sign is Sign.CLEAN
    assert build.count == 1


def test_a_build_that_fails_is_a_skip_and_the_machines_failure_is_its_own(tmp_path: Path) -> None:
    log = tmp_path / "build.log"
    log.write_text("fs/x.c:1: error: no\n")
    failed = probe(tmp_path, "true", build=Builds(BuildFailed("building", (), (), log)))("abc")
    assert (failed.sign, failed.fault) == (Sign.UNTESTABLE, False)
    log.unlink()
    assert Path(failed.evidence).read_text() == "fs/x.c:1: error: no\n"
    full = probe(tmp_path, "true", build=Builds(HarnessError("the disk is full")))("abc")
    assert replace(full, evidence="") == Shot(Sign.UNJUDGED, "the disk is full", fault=True)
