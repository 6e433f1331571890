# SPDX-License-Identifier: Apache-2.0
"""The pitfalls of the skill git-bisect: each is made with git itself, its symptom seen, and its cure tried."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from pitfalls import Pitfalls
from repos import Repo

PITFALLS = Pitfalls("git-bisect")
shown = PITFALLS.shown


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    """Eight commits; the file `code` has a bug since c6, and does not build in c3 and c4."""
    repo = Repo(tmp_path / "tree")
    for number in range(1, 9):
        lines = [f"version {number}"] + ["bug"] * (number >= 6) + ["syntax error"] * (number in (3, 4))
        repo.commit(f"c{number}", code="\n".join(lines) + "\n", config="debug on\n")
    return repo


def start(repo: Repo, bad: str = "main", good: str = "main~7") -> None:
    repo.run("bisect", "reset")
    repo.git("bisect", "start", bad, good)


def bisect(repo: Repo, script: str, bad: str = "main", good: str = "main~7") -> tuple[int, str, str]:
    """`git bisect run sh -c SCRIPT`: its status, what it said, and the subject of what it found."""
    start(repo, bad, good)
    done = repo.run("bisect", "run", "sh", "-c", script)
    said = done.stdout + done.stderr
    found = next((line.split()[0] for line in said.splitlines() if line.endswith("is the first bad commit")), "")
    return done.returncode, said, repo.git("log", "-1", "--format=%s", found) if found else ""


def test_every_pitfall_of_the_skill_is_shown_here() -> None:
    PITFALLS.check()


@shown("exit code 255 from")
@pytest.mark.parametrize(
    ("script", "code"), [("! grep -q bug code || exit 255", 255), ("! grep -q bug code || kill -9 $$", 137)]
)
def test_a_code_of_128_or_more_ends_the_run_and_is_cured_by_exit_1(repo: Repo, script: str, code: int) -> None:
    status, said, found = bisect(repo, script)
    assert (status != 0, found) == (True, "")
    assert f"exit code {code} from" in said and "is < 0 or >= 128" in said
    assert bisect(repo, f"sh -c '{script}' || exit 1")[::2] == (0, "c6")


@shown("a commit is blamed that cannot be it")
def test_a_failed_build_counted_as_bad_blames_another_commit(repo: Repo) -> None:
    build, test = "! grep -q syntax code", "! grep -q bug code"
    assert bisect(repo, f"{build} && {test}")[2] == "c3"
    assert bisect(repo, f"{build} || exit 125; {test}")[2] == "c6"


@shown("only 'skip'ped commits left")
def test_skips_beside_the_first_bad_commit_leave_several(repo: Repo) -> None:
    """Here c3 and c4 stand before the first bad one, c5."""
    build, test = "! grep -q syntax code", "! grep -q 'version [5-8]' code"
    status, said, found = bisect(repo, f"{build} || exit 125; {test}")
    assert (status, found) == (2, "")
    assert "The first bad commit could be any of:" in said
    # What cures the build is put in for the test only, and taken out again.
    cured = "sed -i '/syntax/d' code; " + test + "; s=$?; git checkout -q code; exit $s"
    assert bisect(repo, cured)[2] == "c5"


@shown("bogus exit code 127")
def test_a_command_that_is_not_there_is_noticed_at_the_first_step_only(repo: Repo) -> None:
    status, said, _ = bisect(repo, "no-such-command-here")
    assert (status, "bogus exit code 127 for good revision" in said) == (1, True)
    # Later it is bad: the tool goes missing in c5.
    status, _, found = bisect(repo, "grep -q 'version [1-4]' code || no-such-command-here")
    assert (status, found) == (0, "c5")
    cured = "command -v no-such-command-here > /dev/null || exit 125; no-such-command-here"
    assert bisect(repo, cured)[2] == ""


@shown("first commit after the good one")
def test_a_test_that_fails_everywhere_blames_the_commit_after_the_good_one(repo: Repo) -> None:
    """The deadline of the wrapper, 124, is a code like any other."""
    assert bisect(repo, "timeout 0.05 sleep 9")[2] == "c2"
    # The good one first: it fails too, so it is the test.
    assert subprocess.run(["timeout", "0.05", "sleep", "9"]).returncode == 124
    assert bisect(repo, "timeout 0.05 sleep 9; [ $? = 124 ] && exit 125")[0] == 2


@shown("Your local changes")
def test_a_dirty_tree_stops_the_first_checkout(repo: Repo) -> None:
    repo.write("code", "mine\n")
    done = repo.run("bisect", "start", "main", "main~7")
    assert done.returncode != 0 and "Your local changes" in done.stderr
    repo.run("bisect", "reset")
    # A worktree of its own needs no clean one here.
    repo.git("worktree", "add", "-q", "--detach", "../bisecting")
    other = Repo(repo.path.parent / "bisecting")
    assert bisect(other, "! grep -q bug code")[2] == "c6"
    assert repo.read("code") == "mine\n"


@shown("an edit of mine is in every step")
def test_a_change_in_a_file_that_no_step_touches_goes_along(repo: Repo) -> None:
    repo.replace("config", "on", "off")
    test = "grep -q off config && exit 0; ! grep -q bug code"
    assert bisect(repo, test)[2] == "c8"
    repo.run("bisect", "reset")
    repo.git("stash", "-q")
    assert bisect(repo, test)[2] == "c6"


@shown("the test is another one at each step")
def test_a_script_inside_the_tree_changes_with_each_checkout(repo: Repo) -> None:
    """It was made right in the last commit; before that it tested nothing."""
    repo.git("checkout", "-q", "-b", "with-script", "main~7")
    for number in range(2, 9):
        test = "! grep -q bug code\n" if number == 8 else "true\n"
        repo.commit(f"s{number}", code=f"version {number}\n" + "bug\n" * (number >= 4), **{"test.sh": test})
    assert bisect(repo, "sh ./test.sh", "with-script", "main~7")[2] == "s8"
    (repo.path.parent / "test.sh").write_text(repo.git("show", "with-script:test.sh"))
    assert bisect(repo, "sh ../test.sh", "with-script", "main~7")[2] == "s4"


MAKEFILE = "prog: $(wildcard *.part)\n\tcat $^ > $@\n"


@shown("the result is that of another commit")
def test_what_an_earlier_step_left_is_built_into_a_later_one(repo: Repo) -> None:
    """git removes what it knows; what a build made stays, and so does an object that looks newer than its source."""
    repo.git("checkout", "-q", "-b", "build", "main~7")
    for number in range(1, 10):
        # From b4 on a step of the build makes gen.part, which has the bug.
        rule = MAKEFILE + ("\ngen.part: ; echo bug > $@\nprog: gen.part\n" if number >= 4 else "")
        repo.commit(f"b{number}", Makefile=rule, **{"a.part": f"{number}\n"})
    make = "make -s prog && ! grep -q bug prog"
    assert bisect(repo, make, "build", "build~8")[2] == "b2"
    assert bisect(repo, f"git clean -fdxq; {make}", "build", "build~8")[2] == "b4"


def test_an_object_newer_than_its_source_is_kept_though_the_source_is_another(repo: Repo) -> None:
    repo.write("Makefile", "prog: code\n\tcp code prog\n")
    make = ["make", "-C", str(repo.path), "-s", "prog"]
    subprocess.run(make, check=True)
    repo.git("checkout", "-q", "main~7")
    # As cp -a, rsync -t and git-restore-mtime leave it.
    os.utime(repo.path / "code", (2, 2))
    subprocess.run(make, check=True)
    assert "bug" in repo.read("prog") and "bug" not in repo.read("code")
    repo.git("clean", "-fdxq", "prog")
    subprocess.run(make, check=True)
    assert "bug" not in repo.read("prog")


@shown("another commit each time")
def test_a_flaky_symptom_loses_its_way_with_one_good_run(repo: Repo, tmp_path: Path) -> None:
    """The bug shows in every second run."""
    count = tmp_path / "count"
    once = f"echo >> {count}; ! grep -q bug code || [ $(($(wc -l < {count}) % 2)) = 0 ]"
    assert bisect(repo, once)[2] != "c6"
    count.unlink()
    assert bisect(repo, f"for i in 1 2 3; do sh -c '{once}' || exit 1; done")[2] == "c6"


@shown("a commit is found that breaks something else")
def test_another_failure_is_not_this_one(repo: Repo) -> None:
    test = "grep syntax code && exit 1; grep bug code && exit 1; exit 0"
    assert bisect(repo, test)[2] == "c3"
    signature = f"sh -c '{test}' > ../log && exit 0; grep -q bug ../log && exit 1; exit 125"
    assert bisect(repo, signature)[2] == "c6"


@shown("merge base")
def test_a_merge_base_that_is_bad_or_does_not_build(repo: Repo) -> None:
    repo.git("checkout", "-q", "-b", "release", "main~5")
    repo.commit("r1", release="x\n")
    # The good one is no ancestor: git tests where they parted, c3, which does not build.
    status, said, _ = bisect(repo, "! grep -q syntax code || exit 125; ! grep -q bug code", "main", "release")
    assert "must be skipped" in said and "We continue anyway" in said
    status, said, _ = bisect(repo, "false", "main", "release")
    assert (status, "is bad.\nThis means the bug has been fixed between" in said) == (3, True)
    # An ancestor of the bad one as the good one needs none.
    assert bisect(repo, "! grep -q syntax code || exit 125; ! grep -q bug code", "main", "main~7")[2] == "c6"


@shown("Some good revs are not ancestors")
def test_looking_for_the_cure_needs_other_terms(repo: Repo) -> None:
    done = repo.run("bisect", "start", "main~7", "main")
    assert done.returncode != 0 and "Some good revs are not ancestors" in done.stdout + done.stderr
    repo.run("bisect", "reset")
    repo.git("bisect", "start", "--term-old=broken", "--term-new=fixed")
    repo.git("bisect", "fixed", "main~4")
    repo.git("bisect", "broken", "main~5")
    assert "is the first fixed commit" in repo.git("bisect", "log").replace(
        "# first fixed commit", "is the first fixed commit"
    )


@shown("a commit I made is gone")
def test_a_commit_made_during_a_bisection_is_on_no_branch(repo: Repo) -> None:
    start(repo)
    made = repo.commit("a try", extra="x\n")
    assert repo.run("symbolic-ref", "HEAD").returncode != 0
    repo.git("bisect", "reset")
    assert repo.git("branch", "--contains", made) == ""
    assert made in repo.git("reflog", "--format=%H").splitlines()
    repo.git("branch", "kept", made)
    assert repo.git("log", "-1", "--format=%s", "kept") == "a try"


@shown("HEAD detached")
def test_a_bisection_that_was_not_ended_leaves_the_tree_at_its_last_step(repo: Repo) -> None:
    bisect(repo, "! grep -q bug code")
    assert repo.run("symbolic-ref", "HEAD").returncode != 0
    log = repo.git("bisect", "log")
    repo.git("bisect", "reset")
    assert repo.git("symbolic-ref", "--short", "HEAD") == "main"
    # The log brings it back.
    repo.write("../log", log)
    repo.git("bisect", "replay", "../log")
    assert repo.git("bisect", "log") == log
