# SPDX-License-Identifier: Apache-2.0
"""`git series conflicts`: what each side is, which commits it comes from, and what rerere did."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernloop.errors import UsageError
from kernloop.git import conflicts
from kernloop.git.conflicts import Commit, ConflictReport
from kernloop.git.regions import regions
from repos import Repo, numbered


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    """The branches topic and main, which changed line 20 in one of two commits each."""
    repo = Repo(tmp_path / "tree")
    repo.commit("base", a_c=numbered(), b_c=numbered())
    repo.git("checkout", "-q", "-b", "topic")
    edit(repo, "line20;", "topic20;", "t: Change 20")
    edit(repo, "line35;", "topic35;", "t: Change 35")
    repo.git("checkout", "-q", "main")
    edit(repo, "line5;", "main5;", "m: Change 5")
    edit(repo, "line20;", "main20;", "m: Change 20")
    edit(repo, "int line1;\n", "int line1;\nint more1;\nint more2;\n", "m: Add two at the top")
    return repo


def edit(repo: Repo, old: str, new: str, message: str, name: str = "a.c") -> str:
    repo.replace(name, old, new)
    return repo.commit(message)


def explain(repo: Repo) -> ConflictReport:
    before = repo.state
    report = conflicts.explain(repo.path)
    assert repo.state == before
    return report


def subjects(commits: tuple[Commit, ...]) -> list[str]:
    return [commit.subject for commit in commits]


def test_in_a_rebase_ours_is_the_upstream_and_theirs_ones_own_commit(repo: Repo) -> None:
    repo.git("checkout", "-q", "topic")
    assert repo.run("rebase", "main").returncode == 1
    report = explain(repo)
    assert (report.operation, report.ours.split(",")[0]) == ("rebase", "the branch you rebase onto")
    assert report.theirs == "your own commit, which is being applied"
    assert report.applying is not None and report.applying.subject == "t: Change 20"
    [file] = report.files
    [one] = file.regions
    assert (file.path, file.kind, file.markers) == ("a.c", "both modified it", 1)
    assert (one.region.ours, one.region.base, one.region.theirs) == (
        ("int main20;",), ("int line20;",), ("int topic20;",),
    )  # fmt: skip
    assert (subjects(one.ours), subjects(one.theirs)) == (["m: Change 20"], ["t: Change 20"])
    assert report.next.endswith("git rebase --continue")


def test_with_the_other_backend_of_rebase_it_is_the_same(repo: Repo) -> None:
    repo.git("checkout", "-q", "topic")
    repo.run("rebase", "--apply", "main")
    report = explain(repo)
    [one] = report.files[0].regions
    assert (report.operation, subjects(one.ours), subjects(one.theirs)) == (
        "rebase",
        ["m: Change 20"],
        ["t: Change 20"],
    )


def test_in_a_merge_each_side_is_looked_up_in_its_own_branch(repo: Repo) -> None:
    repo.run("merge", "topic")
    report = explain(repo)
    [one] = report.files[0].regions
    assert (report.operation, report.ours, report.theirs) == ("merge", "the branch you are on", "the branch you merge")
    assert (subjects(one.ours), subjects(one.theirs)) == (["m: Change 20"], ["t: Change 20"])


def test_in_a_cherry_pick_and_a_revert(repo: Repo) -> None:
    repo.run("cherry-pick", "topic~1")
    report = explain(repo)
    assert (report.operation, subjects(report.files[0].regions[0].ours)) == ("cherry-pick", ["m: Change 20"])
    repo.git("cherry-pick", "--abort")
    edit(repo, "main20;", "again20;", "m: Change 20 again")
    repo.run("revert", "HEAD~2")
    report = explain(repo)
    assert (report.operation, report.theirs) == ("revert", "the state before the commit you revert")
    assert subjects(report.files[0].regions[0].ours) == ["m: Change 20 again"]


def test_in_an_am_theirs_is_the_patch(repo: Repo, tmp_path: Path) -> None:
    (tmp_path / "p.mbox").write_text(repo.run("format-patch", "--stdout", "topic~2..topic~1").stdout)
    repo.run("am", "-3", tmp_path / "p.mbox")
    report = explain(repo)
    [one] = report.files[0].regions
    assert (report.operation, subjects(one.ours), subjects(one.theirs)) == ("am", ["m: Change 20"], ["t: Change 20"])
    assert report.applying == Commit("", "t: Change 20", "")


def test_lines_that_a_side_took_out_are_blamed_on_who_took_them_out(repo: Repo) -> None:
    edit(repo, "int main20;\n", "", "m: Drop 20")
    repo.run("merge", "topic")
    [one] = explain(repo).files[0].regions
    assert (one.region.ours, subjects(one.ours)[:1]) == ((), ["m: Drop 20"])


def test_two_conflicts_in_a_file_are_told_apart(repo: Repo) -> None:
    edit(repo, "line35;", "main35;", "m: Change 35")
    repo.run("merge", "topic")
    first, second = explain(repo).files[0].regions
    assert (subjects(first.ours), subjects(first.theirs)) == (["m: Change 20"], ["t: Change 20"])
    assert (subjects(second.ours), subjects(second.theirs)) == (["m: Change 35"], ["t: Change 35"])


def test_a_removed_file_names_the_commit_that_removed_it(repo: Repo) -> None:
    repo.git("rm", "-q", "b.c")
    gone = repo.commit("m: Remove b")
    repo.git("checkout", "-q", "-b", "second", "topic~2")
    edit(repo, "line3;", "topic3;", "t: Change b", "b.c")
    repo.run("rebase", "main")
    [file] = explain(repo).files
    assert (file.path, file.kind) == ("b.c", "ours deleted it, theirs changed it")
    assert file.notes == (f"deleted by {gone[:12]} (m: Remove b)",)


def test_a_file_that_was_moved_and_rewritten_says_where_it_went(repo: Repo) -> None:
    """git compares the two ends, and there nothing is alike any more."""
    repo.git("mv", "b.c", "moved.c")
    repo.commit("m: Move b")
    repo.write("moved.c", "".join(f"long other{number};\n" for number in range(40)))
    repo.commit("m: Rewrite it")
    repo.git("checkout", "-q", "-b", "second", "topic~2")
    edit(repo, "line3;", "topic3;", "t: Change b", "b.c")
    repo.run("rebase", "main")
    [file] = explain(repo).files
    assert file.notes[0].endswith("which moved it to moved.c: make the change there")


def test_a_file_that_both_added(repo: Repo) -> None:
    repo.git("checkout", "-q", "topic")
    repo.commit("t: Add n", n_c="topic\n")
    repo.git("checkout", "-q", "main")
    repo.commit("m: Add n", n_c="main\n")
    repo.run("merge", "topic")
    files = {file.path: file for file in explain(repo).files}
    assert files["n.c"].kind == "both added it"
    [one] = files["n.c"].regions
    assert (subjects(one.ours), subjects(one.theirs)) == (["m: Add n"], ["t: Add n"])


def test_a_resolution_that_rerere_replayed_is_named(repo: Repo) -> None:
    repo.git("config", "rerere.enabled", "true")
    repo.run("merge", "topic")
    content = repo.read("a.c")
    start, end = content.index("<<<<<<<"), content.index("topic\n", content.index(">>>>>>>")) + 6
    repo.write("a.c", content[:start] + "int wrong20;\n" + content[end:])
    repo.git("commit", "-qam", "merged")
    repo.git("reset", "-q", "--hard", "HEAD^")
    assert "using previous resolution" in (lambda done: done.stdout + done.stderr)(repo.run("merge", "topic"))
    report = explain(repo)
    [file] = report.files
    [entry] = (repo.path / ".git/rr-cache").iterdir()
    assert (file.markers, file.rerere) == (0, entry.name)
    assert "git rerere forget" in report.next
    repo.git("rerere", "forget", "a.c")
    repo.git("checkout", "-m", "a.c")
    [file] = explain(repo).files
    assert (file.markers, file.rerere) == (1, "")


def test_a_resolution_that_rerere_staged_is_named_too(repo: Repo) -> None:
    repo.git("config", "rerere.enabled", "true")
    repo.git("config", "rerere.autoUpdate", "true")
    for _ in range(2):
        repo.run("merge", "topic")
        if "<<<<<<<" in repo.read("a.c"):
            repo.write("a.c", "int all_is_wrong;\n")
            repo.git("commit", "-qam", "merged")
            repo.git("reset", "-q", "--hard", "HEAD^")
    [file] = explain(repo).files
    assert (file.resolved, bool(file.rerere)) == (True, True)


def test_a_stash_that_did_not_fit_is_explained(repo: Repo) -> None:
    repo.git("checkout", "-q", "topic")
    repo.replace("a.c", "topic20;", "dirty20;")
    repo.run("rebase", "--autostash", "--onto", "main", "topic")
    report = explain(repo)
    assert (report.operation, report.theirs) == ("stash", "your stashed changes; git stash list")
    assert report.next.endswith("git stash drop")


def test_where_nothing_stands_still_there_is_nothing_to_explain(repo: Repo) -> None:
    with pytest.raises(UsageError, match="stands still here"):
        explain(repo)


MARKS = st.sampled_from(["<<<<<<< a", "||||||| b", "=======", ">>>>>>> c", "x", "", "<<<<<<<", ">>>>>>>", "=======\r"])


@given(st.lists(MARKS, max_size=20))
def test_no_text_between_markers_raises(lines: list[str]) -> None:
    for region in regions("\n".join(lines)):
        assert lines[region.line - 1].startswith("<<<<<<<")
