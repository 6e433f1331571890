# SPDX-License-Identifier: Apache-2.0
"""The pitfalls of the skill git-rebase: each is made with git itself, its symptom seen, and its cure tried."""

from __future__ import annotations

from pathlib import Path

import pytest

from kernloop.git import build_files, series
from kernloop.git.series import SeriesReport, SeriesRequest
from pitfalls import Pitfalls
from repos import Repo, numbered

PITFALLS = Pitfalls("git-rebase")
shown = PITFALLS.shown


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    """topic: t1 t2 t3 on the base; main: one commit ahead; both changed line 20, topic in t2."""
    repo = Repo(tmp_path / "tree")
    repo.commit("base", code=numbered())
    repo.git("branch", "base")
    repo.git("checkout", "-q", "-b", "topic")
    repo.commit("t1", one="1\n")
    edit(repo, "line20;", "topic20;", "t2")
    repo.commit("t3", three="3\n")
    repo.git("branch", "topic-v1")
    repo.git("checkout", "-q", "main")
    edit(repo, "line20;", "main20;", "m1")
    repo.git("branch", "clean-main", "base")
    repo.git("checkout", "-q", "clean-main")
    repo.commit("m0", other="x\n")
    repo.git("checkout", "-q", "topic")
    return repo


def edit(repo: Repo, old: str, new: str, message: str) -> str:
    repo.replace("code", old, new)
    return repo.commit(message)


def since(repo: Repo, base: str, tip: str = "HEAD") -> list[str]:
    return repo.git("log", "--reverse", "--format=%s", f"{base}..{tip}").splitlines()


def check(repo: Repo, range_: str, before: str = "") -> SeriesReport:
    request = SeriesRequest(repo.path, range_, before, "none")
    return series.check(request, build_files.builders(None), lambda text: None)


def test_every_pitfall_of_the_skill_is_shown_here() -> None:
    PITFALLS.check()


@shown("a commit is missing, or one too many")
def test_onto_off_by_one_drops_or_doubles_a_commit(repo: Repo) -> None:
    repo.git("rebase", "-q", "--onto", "clean-main", "topic~2")
    assert since(repo, "clean-main") == ["t2", "t3"]
    report = check(repo, "clean-main..topic", "base..topic-v1")
    assert any("(t1), patch 1 of the version before, is not in this one" in one.message for one in report.problems)
    # The last that is not to come along is named: the one below t1.
    repo.git("reset", "-q", "--hard", "topic-v1")
    repo.git("rebase", "-q", "--onto", "clean-main", "topic~3")
    assert since(repo, "clean-main") == ["t1", "t2", "t3"]
    # One too many: the old base comes along.
    repo.git("checkout", "-q", "-b", "stacked", "topic-v1")
    repo.commit("s1", stacked="s\n")
    repo.git("rebase", "-q", "--onto", "clean-main", "topic-v1~1")
    assert since(repo, "clean-main") == ["t3", "s1"]


@shown("`fixup!` commits are still there")
def test_fixups_stay_without_autosquash(repo: Repo) -> None:
    repo.write("one", "better\n")
    repo.git("commit", "-qa", "--fixup", "HEAD~2")
    repo.git("rebase", "-q", "-i", "base")
    assert since(repo, "base")[-1] == "fixup! t1"
    [commit] = check(repo, "base..topic").commits[-1:]
    assert "left-over" in [problem.check for problem in commit.problems]
    repo.git("rebase", "-q", "-i", "--autosquash", "base")
    assert since(repo, "base") == ["t1", "t2", "t3"]
    assert repo.git("show", "HEAD~2:one") == "better"


@shown("autosquash` leaves one")
def test_a_fixup_whose_target_is_outside_the_range_stays(repo: Repo) -> None:
    repo.write("one", "better\n")
    repo.git("commit", "-qa", "--fixup", "HEAD~2")
    repo.git("rebase", "-q", "-i", "--autosquash", "HEAD~2")
    assert since(repo, "base") == ["t1", "t2", "t3", "fixup! t1"]
    target = repo.git("log", "--format=%H", "--grep=^t1$", "base..")
    repo.git("rebase", "-q", "-i", "--autosquash", f"{target}^")
    assert since(repo, "base") == ["t1", "t2", "t3"]


@shown("my change is gone")
def test_ours_in_a_rebase_is_the_upstream(repo: Repo) -> None:
    assert repo.run("rebase", "main").returncode == 1
    repo.git("checkout", "--ours", "code")
    assert "main20" in repo.read("code") and "topic20" not in repo.read("code")
    repo.git("checkout", "--theirs", "code")
    assert "topic20" in repo.read("code")
    repo.git("rebase", "--abort")
    # The same with -X.
    repo.git("rebase", "-q", "-X", "ours", "main")
    assert "main20" in repo.read("code")
    repo.git("reset", "-q", "--hard", "topic-v1")
    repo.git("rebase", "-q", "-X", "theirs", "main")
    assert "topic20" in repo.read("code")


@shown("You have unstaged changes")
def test_a_dirty_tree_refuses(repo: Repo) -> None:
    repo.write("one", "dirty\n")
    done = repo.run("rebase", "clean-main")
    assert done.returncode == 1 and "You have unstaged changes" in done.stderr
    repo.git("stash", "-q")
    repo.git("rebase", "-q", "clean-main")
    repo.git("stash", "pop", "-q")
    assert repo.read("one") == "dirty\n"


@shown("Applying autostash resulted in conflicts")
def test_an_autostash_that_conflicts_ends_with_0_and_is_kept(repo: Repo) -> None:
    repo.replace("code", "topic20;", "dirty20;")
    done = repo.run("rebase", "--autostash", "--onto", "main", "topic")
    assert done.returncode == 0
    assert "Applying autostash resulted in conflicts" in done.stdout + done.stderr
    assert "<<<<<<<" in repo.read("code")
    assert repo.git("stash", "list").endswith("autostash")
    # A second pop is refused; what is there is resolved, and the stash goes by hand.
    assert repo.run("stash", "pop").returncode == 1
    repo.write("code", numbered().replace("line20;", "dirty20;"))
    repo.git("restore", "--staged", "code")
    repo.git("stash", "drop", "-q")
    assert (repo.git("status", "--porcelain"), repo.git("stash", "list")) == ("M code", "")


@shown("using previous resolution")
def test_rerere_replays_a_wrong_resolution(repo: Repo) -> None:
    repo.git("config", "rerere.enabled", "true")

    def resolve(line: str) -> None:
        repo.write("code", numbered().replace("line20;", line))
        repo.git("add", "code")
        repo.git("rebase", "--continue")

    repo.run("rebase", "main")
    resolve("wrong20;")
    repo.git("reset", "-q", "--hard", "topic-v1")
    done = repo.run("rebase", "main")
    assert "using previous resolution" in done.stdout + done.stderr
    assert "wrong20" in repo.read("code")
    repo.git("rerere", "forget", "code")
    repo.git("checkout", "-m", "code")
    assert "<<<<<<<" in repo.read("code")
    resolve("right20;")
    repo.git("reset", "-q", "--hard", "topic-v1")
    repo.run("rebase", "main")
    assert "right20" in repo.read("code")


@shown("the merge is gone")
def test_a_merge_is_flattened_and_what_was_resolved_in_it_lost(repo: Repo) -> None:
    repo.git("checkout", "-q", "-b", "side", "base")
    repo.commit("s1", side="s\n")
    repo.git("checkout", "-q", "topic")
    repo.git("merge", "-q", "--no-ff", "--no-commit", "side")
    repo.write("only-in-merge", "resolved\n")
    repo.git("add", "-A")
    repo.git("commit", "-q", "-m", "Merge side")
    repo.git("branch", "merged")
    assert check(repo, "base..topic").problems[0].check == "merge"
    repo.git("rebase", "-q", "clean-main")
    assert "Merge side" not in since(repo, "clean-main")
    assert not (repo.path / "only-in-merge").exists()
    repo.git("reset", "-q", "--hard", "merged")
    repo.git("rebase", "-q", "--rebase-merges", "clean-main")
    assert "Merge side" in since(repo, "clean-main")
    # The merge is made again; what only it had, and no conflict asked for, is lost even so.
    assert repo.git("diff", "--name-only", "HEAD", "merged") == "only-in-merge\nother"


@shown("patch contents already upstream")
def test_a_commit_that_becomes_empty_is_dropped(repo: Repo) -> None:
    repo.git("checkout", "-q", "clean-main")
    repo.commit("as t1, and more", one="1\n", more="m\n")
    repo.git("checkout", "-q", "topic")
    done = repo.run("rebase", "clean-main")
    assert "patch contents already upstream" in done.stdout + done.stderr
    assert since(repo, "clean-main") == ["t2", "t3"]
    repo.git("reset", "-q", "--hard", "topic-v1")
    repo.git("rebase", "-q", "--empty=keep", "clean-main")
    assert since(repo, "clean-main") == ["t1", "t2", "t3"]


@shown("the commit before has the resolution in it")
def test_amend_at_a_conflict_changes_the_commit_before(repo: Repo) -> None:
    repo.run("rebase", "main")
    repo.write("code", numbered().replace("line20;", "both20;"))
    repo.git("add", "code")
    repo.git("commit", "-q", "--amend", "--no-edit")
    repo.run("rebase", "--continue")
    assert since(repo, "main") == ["t1", "t3"]
    assert "both20" in repo.git("show", "HEAD~1", "--", "code")
    repo.git("reset", "-q", "--hard", "topic-v1")
    repo.run("rebase", "main")
    repo.write("code", numbered().replace("line20;", "both20;"))
    repo.git("add", "code")
    repo.git("rebase", "--continue")
    assert since(repo, "main") == ["t1", "t2", "t3"]


@shown("hangs")
def test_continue_and_interactive_start_an_editor(repo: Repo) -> None:
    repo.run("rebase", "main")
    repo.write("code", numbered().replace("line20;", "both20;"))
    repo.git("add", "code")
    done = repo.run("rebase", "--continue", GIT_EDITOR="false")
    assert done.returncode != 0 and "editor" in done.stderr
    repo.git("rebase", "--continue", GIT_EDITOR="true")
    assert since(repo, "main") == ["t1", "t2", "t3"]
    assert repo.run("rebase", "-i", "main", GIT_SEQUENCE_EDITOR="false").returncode != 0
    repo.git("rebase", "-i", "main", GIT_SEQUENCE_EDITOR="sed -i 2d")
    assert since(repo, "main") == ["t1", "t3"]


@shown("the commits are on no branch")
def test_a_rebase_of_a_commit_leaves_a_detached_head(repo: Repo) -> None:
    repo.git("rebase", "-q", "--onto", "clean-main", "base", repo.head)
    made = repo.head
    assert repo.run("symbolic-ref", "HEAD").returncode != 0
    assert repo.git("rev-parse", "topic") == repo.git("rev-parse", "topic-v1")
    repo.git("checkout", "-q", "topic")
    assert repo.git("branch", "--contains", made) == ""
    assert repo.git("rev-parse", "HEAD@{1}") == made
    repo.git("branch", "found", "HEAD@{1}")
    assert since(repo, "clean-main", "found") == ["t1", "t2", "t3"]


@shown("a branch on top still has the old commits")
def test_branches_stacked_on_it_stay_behind(repo: Repo) -> None:
    repo.git("branch", "lower", "topic~1")
    repo.git("rebase", "-q", "clean-main")
    assert repo.run("merge-base", "--is-ancestor", "lower", "topic").returncode == 1
    repo.git("reset", "-q", "--hard", "topic-v1")
    repo.git("rebase", "-q", "--update-refs", "clean-main")
    assert repo.git("rev-parse", "lower") == repo.git("rev-parse", "topic~1")


@shown("every commit is there twice")
def test_pull_after_a_rebase_brings_the_old_commits_back(repo: Repo, tmp_path: Path) -> None:
    repo.git("clone", "-q", "--bare", repo.path, tmp_path / "remote")
    repo.git("remote", "add", "origin", str(tmp_path / "remote"))
    repo.git("fetch", "-q", "origin")
    repo.git("branch", "-q", "-u", "origin/topic")
    repo.git("rebase", "-q", "clean-main")
    assert repo.run("push", "origin", "topic").returncode == 1
    repo.git("pull", "-q", "--no-rebase", "--no-edit")
    assert sorted(since(repo, "clean-main"))[-6:] == ["t1", "t1", "t2", "t2", "t3", "t3"]
    repo.git("reset", "-q", "--hard", "HEAD^1")
    repo.git("push", "-q", "--force-with-lease", "origin", "topic")
    assert since(repo, "clean-main", "origin/topic") == ["t1", "t2", "t3"]


@shown("back to before the rebase")
def test_orig_head_may_be_another_commit_than_before_the_rebase(repo: Repo) -> None:
    before = repo.head
    repo.run("rebase", "main")
    repo.write("code", numbered().replace("line20;", "both20;"))
    repo.git("add", "code")
    repo.git("reset", "-q", "--mixed", "HEAD")
    repo.git("add", "-A")
    repo.git("commit", "-q", "-m", "t2")
    repo.git("rebase", "--continue")
    assert repo.git("rev-parse", "ORIG_HEAD") != before
    assert repo.git("rev-parse", "topic@{1}") == before
    repo.git("reset", "-q", "--hard", "topic@{1}")
    assert since(repo, "base") == ["t1", "t2", "t3"]


@shown("every commit fails to build")
def test_a_base_that_does_not_build_is_not_the_series_fault(repo: Repo) -> None:
    repo.git("checkout", "-q", "clean-main")
    makefile = "all kernel/a.o defconfig olddefconfig:\n\t@mkdir -p $(O)/kernel\n"
    makefile += "\t@[ $@ != kernel/a.o ] || gcc -c -o $(O)/$@ kernel/a.c\n"
    repo.commit("m: Break it", Makefile=makefile, kernel__a_c="int a(void) { return broken; }\n")
    repo.git("checkout", "-q", "-b", "built")
    repo.write("kernel/a.c", "/* more */\n" + repo.read("kernel/a.c"))
    repo.commit("a: More\n\nSigned-off-by: Ann Author <ann@example.org>")
    request = SeriesRequest(repo.path, "clean-main..built")
    [commit] = series.check(request, build_files.builders(None), lambda text: None).commits
    assert [(one.level, one.message) for one in commit.problems] == [
        ("note", "kernel/a.o does not build at the base either")
    ]


@shown("conflicts again and again")
def test_a_line_that_several_commits_change_conflicts_in_each(repo: Repo) -> None:
    for number in (1, 2, 3):
        old = "topic20;" if number == 1 else f"again{number - 1};"
        edit(repo, old, f"again{number};", f"t2 again {number}")
    assert stops(repo) == 4
    repo.git("reset", "-q", "--hard", "topic@{1}")
    repo.git("reset", "-q", "--soft", "base")
    repo.git("commit", "-q", "-m", "all in one")
    assert stops(repo) == 1


def stops(repo: Repo) -> int:
    """How often a rebase onto main stops, when each conflict is resolved to something new."""
    count = 0
    done = repo.run("rebase", "main")
    while done.returncode != 0:
        count += 1
        repo.write("code", numbered().replace("line20;", f"resolved{count};"))
        repo.git("add", "code")
        done = repo.run("rebase", "--continue")
    return count
