# SPDX-License-Identifier: Apache-2.0
"""`kernel patch` and `git series` as a user calls them: exit codes, one JSON object, lines for people."""

from __future__ import annotations

from pathlib import Path

import pytest

from repos import Repo, numbered
from support import kernloop

BOTH = "Signed-off-by: Ann Author <ann@example.org>\nSigned-off-by: Carl Committer <carl@example.org>"


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    repo = Repo(tmp_path / "tree")
    repo.commit("all: base", kernel__a_c=numbered(), Makefile="all:\n")
    repo.git("tag", "base")
    return repo


@pytest.fixture
def mbox(repo: Repo, tmp_path: Path) -> Path:
    repo.replace("kernel/a.c", "line20;", "line20x;")
    repo.commit(f"a: Change 20\n\nWhy.\n\n{BOTH}")
    path = tmp_path / "p.mbox"
    path.write_text(repo.run("format-patch", "--stdout", "-1").stdout)
    repo.git("reset", "-q", "--hard", "HEAD^")
    return path


def test_check_apply_undo(repo: Repo, mbox: Path) -> None:
    done = kernloop("kernel", "patch", repo.path, mbox, "--check")
    assert (done.status, done.out.decode().split("\n")[0]) == (0, "pass  applies: 1 commit, 1 file")
    done = kernloop("kernel", "patch", repo.path, mbox, "--json")
    value = done.json
    assert (done.status, value["schema"], value["verdict"], value["state"]) == (
        0,
        "kernloop.kernel-patch/1",
        "pass",
        "applied",
    )
    assert (value["new"], value["files"], value["exit_code"]) == (repo.head, ["kernel/a.c"], 0)
    assert value["next"] == f"kernloop kernel patch {repo.path} --undo takes it back"
    done = kernloop("kernel", "patch", repo.path, "--undo")
    assert (done.status, done.out.decode().split("\n")[0]) == (0, "pass  taken back: a: Change 20")
    assert repo.subjects == ["all: base"]


def test_a_patch_that_does_not_apply_ends_with_1_and_says_why(repo: Repo, mbox: Path) -> None:
    repo.replace("kernel/a.c", "line20;", "line20 = 5;")
    repo.commit("other")
    done = kernloop("kernel", "patch", repo.path, mbox)
    text = done.out.decode()
    assert done.status == 1
    assert text.startswith(
        "rejected  the patch does not apply, nothing was changed; kernel/a.c, hunk 1: fits best at line 17"
    )
    assert "the file has     int line20 = 5;" in text
    assert "next: both sides changed the same lines" in done.text
    value = kernloop("kernel", "patch", repo.path, mbox, "--json").json
    assert (value["verdict"], value["reject"]["hunks"][0]["status"]) == ("rejected", "differs")
    assert value["reject"]["three_way"] == "conflict"


def test_bad_calls_end_with_2(repo: Repo, mbox: Path, tmp_path: Path) -> None:
    for words in ([repo.path], [repo.path, mbox, "--undo"], [repo.path, tmp_path / "none"], [repo.path, "-"]):
        done = kernloop("kernel", "patch", *words, "--json")
        assert (done.status, done.json["exit_code"]) == (2, 2), words
        assert done.json["next"]


def test_a_line_number_is_not_printed_as_a_picture(repo: Repo) -> None:
    """rich makes :100: a face."""
    repo.commit("more", big_c=numbered(200))
    repo.replace("big.c", "line100;", "line100; ")
    (repo.path.parent / "d").write_text(repo.run("diff").stdout)
    repo.git("checkout", "-q", ".")
    done = kernloop("kernel", "patch", repo.path, repo.path.parent / "d", "--check")
    assert "big.c:100: error WHITESPACE: trailing whitespace" in done.out.decode()


def test_series_check(repo: Repo) -> None:
    repo.replace("kernel/a.c", "line20;", "line20x;")
    repo.commit(f"a: Change 20\n\nWhy.\n\n{BOTH}")
    done = kernloop("git", "series", "check", repo.path, "base..HEAD", "--build", "none")
    assert (done.status, done.out.decode().split("\n")[0]) == (0, "pass  1 commit, 0 errors")
    repo.replace("kernel/a.c", "line21;", "line21x;")
    head = repo.commit("a: Change 21")
    done = kernloop("git", "series", "check", "base..HEAD", "--build", "none", "--json", cwd=repo.path)
    value = done.json
    assert (done.status, value["schema"], value["verdict"], value["tip"]) == (
        1,
        "kernloop.series-check/1",
        "rejected",
        head,
    )
    assert value["commits"][1]["problems"][0]["check"] == "signed-off-by"
    assert value["next"].startswith("cure it and git commit --amend")
    assert kernloop("git", "series", "check", repo.path, "nosuch..HEAD").status == 2


def test_series_conflicts(repo: Repo) -> None:
    assert kernloop("git", "series", "conflicts", repo.path).status == 2
    repo.git("checkout", "-q", "-b", "topic")
    repo.replace("kernel/a.c", "line20;", "topic;")
    repo.commit("t: Mine")
    repo.git("checkout", "-q", "main")
    repo.replace("kernel/a.c", "line20;", "main;")
    repo.commit("m: Theirs")
    repo.run("rebase", "main", "topic")
    done = kernloop("git", "series", "conflicts", repo.path)
    text = done.out.decode()
    assert done.status == 0
    assert "ours (HEAD, <<<<<<<) is the branch you rebase onto" in text
    assert "ours, last changed by" in text and "(m: Theirs)" in text
    value = kernloop("git", "series", "conflicts", repo.path, "--json").json
    assert (value["operation"], value["files"][0]["regions"][0]["theirs"][0]["subject"]) == ("rebase", "t: Mine")
