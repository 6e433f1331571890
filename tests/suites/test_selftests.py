# SPDX-License-Identifier: Apache-2.0
"""Which selftests a tree has, which programs that gives, and what is refused before anything is built."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from kernloop.errors import UsageError
from kernloop.suites import kselftest, selftests
from kernloop.suites.selftests import Selftests
from verdicts import KERNEL

PLACE = "tools/testing/selftests"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The form of a kernel tree, no more."""
    for target in ("timers", "sched_ext", "net/lib"):
        (tmp_path / PLACE / target).mkdir(parents=True)
        (tmp_path / PLACE / target / "Makefile").touch()
    (tmp_path / PLACE / "Makefile").touch()
    return tmp_path


def test_targets_are_the_folders_with_a_makefile_also_those_within_others(tree: Path) -> None:
    assert selftests.targets(tree) == ["net/lib", "sched_ext", "timers"]


@pytest.mark.parametrize("target", ["timer", "../..", "", "timers/../timers"])
def test_a_target_that_is_not_there_is_refused_with_those_that_are(tree: Path, target: str) -> None:
    with pytest.raises(UsageError) as caught:
        selftests.build(tree, target, KERNEL, changes=True, jobs=1)
    assert "timers" in caught.value.hint
    with pytest.raises(UsageError) as caught:
        selftests.build(tree, "net", KERNEL, changes=True, jobs=1)
    assert "net/lib" in caught.value.hint


def test_a_folder_that_is_no_kernel_tree_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        selftests.build(tmp_path, "timers", KERNEL, changes=True, jobs=1)
    assert PLACE in caught.value.message


def test_sched_exts_tests_are_known_by_name_in_the_order_of_its_makefile(tree: Path) -> None:
    sources = tree / PLACE / "sched_ext"
    (sources / "Makefile").write_text("auto-test-targets := \\\n\tb \\\n\ta\\\n\tgone \\\n\ntestcase-targets := x\n")
    for name in "ab":
        (sources / f"{name}.c").write_text(f'struct scx_test {name} = {{\n\t.name = "test_{name}",\n}};\n')
    (sources / "unused.c").write_text('\t.name = "unused",\n')
    installed = tree / "installed"
    (installed / "sched_ext").mkdir(parents=True)
    (installed / "kselftest-list.txt").write_text("sched_ext:runner\n")
    found = selftests.installed(installed, "sched_ext", sources)
    assert (found.programs, found.names, found.seconds) == (("runner",), ("test_b", "test_a"), 45.0)


def test_a_targets_own_time_out_holds(tree: Path) -> None:
    installed = tree / "installed"
    (installed / "timers").mkdir(parents=True)
    (installed / "kselftest-list.txt").write_text("timers:posix_timers\ntimers:x.sh\nother:y\n")
    (installed / "timers/settings").write_text("# a comment\ntimeout=300\n")
    found = selftests.installed(installed, "timers", tree / PLACE / "timers")
    assert (found.programs, found.names, found.seconds) == (("posix_timers", "x.sh"), (), 300.0)


def test_symbols_that_a_target_asks_for_and_the_kernel_lacks_are_known(tree: Path) -> None:
    installed = tree / "installed"
    (installed / "timers").mkdir(parents=True)
    (installed / "timers/config").write_text("CONFIG_NET=y\nCONFIG_RTC=m\n# CONFIG_X is not set\nCONFIG_HZ=100\n")
    config = tree / "config"
    config.write_text("CONFIG_NET=m\n")
    built = Selftests(installed, "timers", (), 45.0)
    assert built.lacks(replace(KERNEL, config_path=config)) == ("RTC",)
    assert built.lacks(KERNEL) == ()


BUILT = Selftests(Path("/x"), "timers", ("posix_timers", "nanosleep"), 45.0)
SCHED_EXT = Selftests(Path("/x"), "sched_ext", ("runner",), 45.0, ("minimal", "exit"))


def test_all_programs_of_a_target_run_or_those_that_were_chosen() -> None:
    everything = kselftest.programs(BUILT, (), Path("/h"), None, 8.0)
    assert [(one.title, one.argv, one.cwd, one.seconds) for one in everything] == [
        ("selftests: timers: posix_timers", ("./posix_timers",), "/h/timers", 360.0),
        ("selftests: timers: nanosleep", ("./nanosleep",), "/h/timers", 360.0),
    ]
    [one] = kselftest.programs(BUILT, ("nanosleep",), Path("/h"), 7.0, 8.0)
    assert (one.title, one.seconds) == ("selftests: timers: nanosleep", 7.0)


def test_a_runners_own_tests_are_chosen_by_its_own_option() -> None:
    [one] = kselftest.programs(SCHED_EXT, ("exit",), Path("/h"), None, 1.0)
    assert (one.chosen, one.one, one.names) == (("exit",), ("-t",), ("minimal", "exit"))
    [whole] = kselftest.programs(SCHED_EXT, (), Path("/h"), None, 1.0)
    assert whole.chosen == ()


@pytest.mark.parametrize(("built", "known"), [(BUILT, "nanosleep"), (SCHED_EXT, "minimal")])
def test_a_test_that_is_not_there_is_refused_with_those_that_are(built: Selftests, known: str) -> None:
    with pytest.raises(UsageError) as caught:
        kselftest.programs(built, ("nonesuch",), Path("/h"), None, 1.0)
    assert known in caught.value.hint
