# SPDX-License-Identifier: Apache-2.0
"""`git series check`: every kind of fault in a series is found in the commit that has it, and a sound one passes."""

from __future__ import annotations

from pathlib import Path

import pytest

from kernloop.errors import HarnessError, SubjectError, UsageError
from kernloop.git import build_files, objects, series
from kernloop.git.objects import Built
from kernloop.git.series import SeriesReport, SeriesRequest
from repos import Repo

ANN = "Signed-off-by: Ann Author <ann@example.org>"
CARL = "Signed-off-by: Carl Committer <carl@example.org>"
BOTH = f"{ANN}\n{CARL}"
# As the kernel's: objects in O=, W=1, single objects, what no Makefile names is not built.
MAKEFILE = """\
ifndef sub
goals := $(filter-out defconfig olddefconfig,$(MAKECMDGOALS))
.PHONY: $(goals) all defconfig olddefconfig
$(or $(goals),all): ; @$(MAKE) --no-print-directory -C $(O) -f $(CURDIR)/Makefile sub=1 srctree=$(CURDIR) $@
defconfig olddefconfig: ; @mkdir -p $(O) && touch $(O)/.config
else
include $(srctree)/kernel/Makefile
objs := $(addprefix kernel/,$(obj-y))
all: $(objs)
$(objs): %.o: $(srctree)/%.c
\t@mkdir -p $(dir $@)
\t@echo "  CC      $@"
\t@gcc -Wall $(if $(W),-Wextra) -I$(srctree)/include -MMD -MF $@.d -c -o $@ $<
-include $(shell find . -name '*.o.d')
endif
"""


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    repo = Repo(tmp_path / "tree")
    repo.write("Makefile", MAKEFILE)
    repo.write("kernel/Makefile", "obj-y += a.o b.o\nobj-$(CONFIG_OFF) += off.o\n")
    repo.write("include/shared.h", "int shared(void);\n")
    repo.write("kernel/a.c", '#include "shared.h"\nint a(int unused)\n{\n\treturn shared();\n}\n')
    repo.write("kernel/b.c", "int b(void)\n{\n\treturn 1;\n}\n")
    repo.write("kernel/off.c", "int off(void)\n{\n\treturn 1;\n}\n")
    repo.commit("all: base")
    repo.git("tag", "base")
    return repo


def edit(repo: Repo, name: str, old: str, new: str, message: str) -> str:
    repo.replace(name, old, new)
    return repo.commit(message)


def check(repo: Repo, build: str = "none", before: str = "", range_: str = "base..HEAD") -> SeriesReport:
    state = repo.state
    report = series.check(
        SeriesRequest(repo.path, range_, before, build), build_files.builders(None), lambda text: None
    )
    assert repo.state == state
    return report


def told(report: SeriesReport) -> list[list[tuple[str, str]]]:
    return [[(one.level, one.check) for one in commit.problems] for commit in report.commits]


def test_a_sound_series_passes(repo: Repo) -> None:
    edit(repo, "kernel/a.c", "return shared()", "return shared() + 1", f"a: Add one\n\nWhy.\n\n{BOTH}")
    edit(repo, "kernel/b.c", "return 1", "return 2", f"b: Two\n\nWhy.\n\n{BOTH}")
    report = check(repo, "files")
    assert told(report) == [[], []]
    assert report.errors == []
    assert [commit.built for commit in report.commits] == [("kernel/a.o",), ("kernel/b.o",)]
    assert [commit.not_built for commit in report.commits] == [(), ()]


def test_a_commit_that_does_not_build_alone_is_found_though_the_next_cures_it(repo: Repo) -> None:
    edit(repo, "kernel/b.c", "return 1", "return later()", f"b: Use it\n\n{BOTH}")
    edit(
        repo, "kernel/b.c", "int b(void)", "static int later(void) { return 1; }\nint b(void)", f"b: Make it\n\n{BOTH}"
    )
    report = check(repo, "files")
    [[problem]] = [commit.problems for commit in report.commits[:1]]
    assert (problem.level, problem.check, problem.file, problem.line) == ("error", "new-warning", "kernel/b.c", 3)
    assert "later" in problem.message
    assert told(report)[1] == []
    edit(repo, "kernel/b.c", "return later()", "return nothing_such", f"b: Break\n\n{BOTH}")
    edit(repo, "kernel/b.c", "return nothing_such", "return 3", f"b: Cure\n\n{BOTH}")
    report = check(repo, "files")
    [build] = [one for one in report.commits[2].problems if one.check == "build"]
    assert (build.level, build.file, build.line) == ("error", "kernel/b.c", 4)
    assert "nothing_such" in build.message
    assert not any(check == "build" for _, check in told(report)[3])


def test_warnings_that_the_base_has_are_no_news(repo: Repo) -> None:
    """a.c has an unused parameter at the base; it moves by a line, and a second one comes."""
    edit(repo, "kernel/a.c", "int a(", "/* x */\nint a(", f"a: Move\n\n{BOTH}")
    edit(repo, "kernel/a.c", "int unused)", "int unused, int also)", f"a: One more\n\n{BOTH}")
    report = check(repo, "files")
    assert told(report) == [[], [("error", "new-warning")]]
    assert "also" in report.commits[1].problems[0].message


def test_a_header_builds_what_of_the_series_includes_it_and_says_what_was_not(repo: Repo) -> None:
    edit(repo, "include/shared.h", "int shared(void);", "int shared(int x);", f"all: Take one\n\n{BOTH}")
    edit(repo, "kernel/a.c", "shared()", "shared(1)", f"a: Give one\n\n{BOTH}")
    edit(repo, "kernel/b.c", "return 1", "return 2", f"b: Two\n\n{BOTH}")
    report = check(repo, "files")
    assert told(report) == [[("error", "build")], [], []]
    assert report.commits[0].not_built[0][0] == "include/shared.h"
    assert "outside the series were not built" in report.commits[0].not_built[0][1]
    assert report.commits[2].built == ("kernel/b.o",)


def test_a_file_that_the_configuration_leaves_out_is_named_with_its_symbol(repo: Repo) -> None:
    edit(repo, "kernel/off.c", "return 1", "return broken", f"off: Break\n\n{BOTH}")
    report = check(repo, "files")
    assert report.commits[0].not_built == (("kernel/off.c", "the configuration leaves it out: it needs CONFIG_OFF"),)
    assert told(report) == [[]]


def test_what_fails_at_the_base_already_is_not_the_series_fault(repo: Repo) -> None:
    repo.replace("kernel/b.c", "return 1", "return broken")
    repo.commit("b: break")
    repo.git("tag", "-f", "base")
    edit(repo, "kernel/b.c", "int b(void)", "/* x */\nint b(void)", f"b: Comment\n\n{BOTH}")
    assert told(check(repo, "files")) == [[("note", "build")]]


def test_a_full_build_builds_all_and_finds_users_outside_the_series(repo: Repo) -> None:
    edit(repo, "include/shared.h", "int shared(void);", "int shared(int x);", f"all: Take one\n\n{BOTH}")
    assert told(check(repo, "files")) == [[]]
    assert told(check(repo, "full")) == [[("error", "build")]]


def test_a_builder_of_ones_own_is_asked_for_the_objects(repo: Repo) -> None:
    edit(repo, "kernel/b.c", "return 1", "return 2", f"b: Two\n\n{BOTH}")
    asked: list[tuple[str, ...]] = []

    def builder(tree: Path, targets: object, fresh: bool) -> Built:
        assert isinstance(targets, list) and tree != repo.path
        asked.append(tuple(targets))
        return Built(True, tuple(targets), (), (), ())

    report = series.check(SeriesRequest(repo.path, "base..HEAD"), lambda folder: builder, lambda text: None)
    assert asked == [("kernel/b.o",), ("kernel/b.o",)]
    assert report.commits[0].built == ("kernel/b.o",)


def test_a_tree_that_cannot_be_configured_is_told_as_such(repo: Repo) -> None:
    edit(repo, "kernel/b.c", "return 1", "return 2", f"b: Two\n\n{BOTH}")
    repo.git("rm", "-q", "Makefile")
    repo.commit("all: no Makefile")
    repo.git("tag", "-f", "base", "HEAD~2")
    repo.git("checkout", "-q", "--orphan", "none")
    repo.git("rm", "-q", "-f", "-r", ".")
    root = repo.commit("none: base", kernel__b_c="int b;\n")
    repo.commit("b: more", kernel__b_c="int c;\n")
    with pytest.raises(SubjectError, match="cannot be configured"):
        check(repo, "files", range_=f"{root}..HEAD")


def test_a_full_disk_and_a_killed_compiler_are_not_the_series_fault(tmp_path: Path) -> None:
    for said, words in (
        ("echo 'No space left on device'", "disk is full"),
        ("echo 'Killed signal terminated program cc1'", "Killed"),
    ):
        (tmp_path / "Makefile").write_text(f"all defconfig:\n\t@{said} >&2; false\n")
        build = objects.MakeBuilder(tmp_path / "o", lambda tree, folder: ("make", "-C", str(tree)))
        with pytest.raises(HarnessError, match=words):
            build(tmp_path, [], True)


def test_left_overs_empty_commits_and_merges_are_named(repo: Repo) -> None:
    repo.git("checkout", "-q", "-b", "side")
    repo.commit(f"s: Side\n\n{BOTH}", side="x\n")
    repo.git("checkout", "-q", "main")
    edit(repo, "kernel/b.c", "return 1", "return 2", f"b: Two\n\n{BOTH}")
    edit(repo, "kernel/b.c", "return 2", "return 3", f"fixup! b: Two\n\n{BOTH}")
    repo.commit(f"b: Nothing\n\n{BOTH}")
    repo.git("merge", "-q", "-m", "Merge side", "side")
    report = check(repo)
    assert [(one.level, one.check) for one in report.problems] == [("error", "merge")]
    by_subject = {commit.subject: [one.check for one in commit.problems] for commit in report.commits}
    assert by_subject == {"b: Two": [], "fixup! b: Two": ["left-over"], "b: Nothing": ["empty"], "s: Side": []}


def test_tags_are_looked_up_in_the_repository(repo: Repo) -> None:
    base = repo.git("rev-parse", "--short=12", "HEAD")
    repo.git("checkout", "-q", "-b", "other")
    other = repo.commit("o: Other", other="x\n")[:12]
    repo.git("checkout", "-q", "main")
    first = edit(repo, "kernel/b.c", "return 1", "return 2", f'b: Two\n\nFixes: {base} ("all: base")\n{BOTH}')[:12]
    edit(repo, "kernel/b.c", "return 2", "return 3", f'b: Three\n\nFixes: {base} ("all: bass")\n{BOTH}')
    edit(repo, "kernel/b.c", "return 3", "return 4", f'b: Four\n\nFixes: {other} ("o: Other")\n{BOTH}')
    edit(repo, "kernel/b.c", "return 4", "return 5", f'b: Five\n\nFixes: {first} ("b: Two")\n{BOTH}')
    edit(repo, "kernel/b.c", "return 5", "return 6", f'b: Six\n\nFixes: 123456789abc ("b: Two")\n{BOTH}')
    report = check(repo)
    assert told(report) == [
        [], [("error", "fixes")], [("error", "fixes")], [("warning", "fixes")], [("error", "fixes")],
    ]  # fmt: skip
    assert f'Fixes: {base} ("all: base")' in report.commits[1].problems[0].message


def test_signatures_and_white_space_are_looked_at_in_each_commit(repo: Repo) -> None:
    edit(repo, "kernel/b.c", "return 1;", "return 2; ", "b: Two")
    edit(repo, "kernel/b.c", "return 2; ", "return 3;", f"b: Three\n\n{CARL}\n{ANN}")
    report = check(repo)
    assert told(report) == [[("error", "signed-off-by"), ("error", "whitespace")], [("error", "signed-off-by-order")]]
    assert report.commits[0].problems[1].line == 3


def test_the_version_before_is_compared_and_a_lost_patch_named(repo: Repo) -> None:
    for number in range(3):
        repo.commit(f"f{number}: Make\n\n{BOTH}", **{f"f{number}": f"{number}\n" * 9})
    repo.git("tag", "v1")
    repo.git("reset", "-q", "--hard", "base")
    repo.commit("all: the base moved", base="x\n")
    repo.commit(f"f2: Make\n\n{BOTH}", f2="2\n" * 9)
    repo.git("tag", "-f", "base")
    repo.commit(f"f0: Make\n\n{BOTH}", f0="0\n" * 9 + "more\n")
    repo.commit(f"g: New\n\n{BOTH}", g="g\n")
    report = check(repo, before="base~2..v1")
    assert [(pair.subject, pair.state) for pair in report.range_diff] == [
        ("f0: Make", "changed"), ("f1: Make", "dropped"), ("f2: Make", "dropped"), ("g: New", "added"),
    ]  # fmt: skip
    assert any("more" in line for line in report.range_diff[0].diff)
    assert [(one.level, one.check) for one in report.problems] == [("warning", "dropped"), ("note", "dropped")]
    assert "(f1: Make), patch 2 of the version before, is not in this one" in report.problems[0].message
    assert report.errors == []


def test_without_a_range_it_is_what_upstream_lacks(repo: Repo, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no upstream"):
        check(repo, range_="")
    clone = Repo(tmp_path / "clone")
    clone.git("remote", "add", "origin", str(repo.path))
    clone.git("fetch", "-q", "origin")
    clone.git("checkout", "-q", "-b", "work", "--track", "origin/main")
    clone.commit(f"x: Mine\n\n{BOTH}", x="x\n")
    assert [commit.subject for commit in check(clone, range_="").commits] == ["x: Mine"]


@pytest.mark.parametrize("words", ["nosuch..HEAD", "HEAD", "base...HEAD", "HEAD..base", "..HEAD", "--all..HEAD"])
def test_what_is_no_series_is_refused(repo: Repo, words: str) -> None:
    repo.commit("x: more", x="x\n")
    with pytest.raises(UsageError):
        check(repo, range_=words)


def test_a_range_of_hundreds_is_taken_for_a_wrong_base(repo: Repo) -> None:
    tree, head = repo.git("rev-parse", "HEAD^{tree}"), repo.head
    for _ in range(201):
        head = repo.git("commit-tree", "-p", head, "-m", "x", tree)
    repo.git("reset", "-q", head)
    with pytest.raises(UsageError, match="201 commits are no series"):
        check(repo)
