# SPDX-License-Identifier: Apache-2.0
"""`kernel patch` in a git tree: commits as they were written, all or none, and back again."""

from __future__ import annotations

from pathlib import Path

import pytest

from kernloop.errors import UsageError
from kernloop.git import patch
from repos import Repo, numbered, picture


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    repo = Repo(tmp_path / "tree")
    repo.commit("base", kernel__a_c=numbered(), kernel__b_c=numbered())
    return repo


def series(repo: Repo, *options: str) -> bytes:
    """Two commits as an mbox, and the tree as it was before them."""
    base = repo.head
    repo.replace("kernel/a.c", "line20;", "line20x;")
    repo.git("commit", "-qam", "a: change 20\n\nWhy: ünïcode.\n\nSigned-off-by: Ann Author <ann@example.org>")
    repo.commit("b: add n", kernel__n_c="new\n")
    data = repo.run("format-patch", "--stdout", *options, base).stdout.encode()
    repo.git("reset", "-q", "--hard", base)
    return data


def diff(repo: Repo, name: str, old: str, new: str) -> bytes:
    repo.replace(name, old, new)
    data = repo.run("diff").stdout.encode()
    repo.git("checkout", "-q", ".")
    return data


def test_an_mbox_becomes_commits_with_their_authors_messages_and_order(repo: Repo) -> None:
    done = patch.apply(repo.path, series(repo))
    assert (done.state, done.mode, done.new) == ("applied", "commits", repo.head)
    assert repo.subjects == ["base", "a: change 20", "b: add n"]
    assert repo.git("log", "--format=%an %ae", "HEAD^!") == "Ann Author ann@example.org"
    assert "Why: ünïcode." in repo.git("log", "-1", "--format=%B", "HEAD^")
    assert repo.git("status", "--porcelain") == ""
    assert [fate.state for fate in done.messages] == ["applied", "applied"]
    assert done.files == ("kernel/a.c", "kernel/n.c")


def test_check_says_it_would_apply_and_changes_nothing(repo: Repo) -> None:
    data, before = series(repo), repo.state
    assert patch.apply(repo.path, data, check=True).state == "would-apply"
    assert repo.state == before


def test_undo_takes_back_exactly_the_last_patch(repo: Repo) -> None:
    data, before = series(repo), repo.state
    patch.apply(repo.path, data)
    other = diff(repo, "kernel/b.c", "line3;", "line3y;")
    patch.apply(repo.path, other)
    assert patch.undo(repo.path).mode == "files"
    assert repo.subjects[-1] == "b: add n"
    done = patch.undo(repo.path)
    assert (done.state, done.old) == ("undone", repo.git("reflog", "--format=%H").splitlines()[1])
    assert repo.state[:-1] == before[:-1]
    with pytest.raises(UsageError, match="no patch of kernloop's"):
        patch.undo(repo.path)


def test_nothing_is_applied_when_the_last_of_a_series_does_not(repo: Repo) -> None:
    data = series(repo)
    repo.commit("in the way", kernel__n_c="other\n")
    before = repo.state
    done = patch.apply(repo.path, data)
    assert (done.state, repo.state) == ("rejected", before)
    assert [fate.state for fate in done.messages] == ["applied", "rejected"]
    assert "message 2 of 2 does not apply, nothing was changed" in done.summary


def test_what_was_applied_by_others_is_skipped_and_said(repo: Repo) -> None:
    data = series(repo)
    repo.replace("kernel/a.c", "line20;", "line20x;")
    repo.commit("somebody else's")
    assert [fate.state for fate in patch.apply(repo.path, data).messages] == ["already-applied", "applied"]
    before = repo.state
    again = patch.apply(repo.path, data)
    assert (again.state, repo.state) == ("already-applied", before)


def test_a_place_that_moved_is_merged_three_way_and_said(repo: Repo) -> None:
    data = series(repo)
    repo.replace("kernel/a.c", "int line18;\n", "int other18;\n")
    repo.commit("near by")
    done = patch.apply(repo.path, data)
    assert done.state == "applied"
    assert "line20x" in repo.read("kernel/a.c") and "other18" in repo.read("kernel/a.c")
    assert any("merged three-way" in note for note in done.notes)


def test_a_conflict_is_told_with_both_sides_and_leaves_no_trace(repo: Repo) -> None:
    data = series(repo)
    repo.replace("kernel/a.c", "line20;", "line20z;")
    repo.commit("conflicting")
    before = repo.state
    done = patch.apply(repo.path, data)
    assert repo.state == before
    assert done.reject is not None and done.reject.three_way == "conflict"
    [(name, region)] = done.reject.regions
    assert (name, region.ours, region.theirs) == ("kernel/a.c", ("int line20z;",), ("int line20x;",))
    [hunk] = done.reject.hunks
    assert (hunk.status, hunk.at, hunk.matched, hunk.lines) == ("differs", 17, 6, 7)
    assert (hunk.differences[0].line, hunk.differences[0].found) == (20, ("int line20z;",))


def test_a_file_that_was_moved_is_named(repo: Repo, tmp_path: Path) -> None:
    data = series(repo)
    (tmp_path / "other").mkdir()
    other = Repo(tmp_path / "other/tree")
    other.commit("base", lib__a_c="nothing like it\n")
    done = patch.apply(other.path, data)
    assert done.reject is not None
    assert done.reject.hunks[0].status == "file-missing"
    assert "not possible" in done.reject.three_way
    assert "kernel/a.c is not there; files of its name: lib/a.c" in done.notes


def test_a_change_follows_a_file_that_was_moved_since(repo: Repo) -> None:
    """The trial has only the files that the patch names, and git finds the new place all the same."""
    data = series(repo)
    repo.write("kernel/b.c", "nothing like it\n")
    repo.git("mv", "kernel/a.c", "moved.c")
    repo.commit("move")
    done = patch.apply(repo.path, data)
    assert (done.state, done.files) == ("applied", ("kernel/n.c", "moved.c"))
    assert "git took for the patch's files, moved: moved.c; see that they are" in done.notes
    assert "line20x" in repo.read("moved.c") and repo.git("status", "--porcelain") == ""


def test_a_cover_letter_and_replies_are_left_out(repo: Repo) -> None:
    done = patch.apply(repo.path, series(repo, "--cover-letter"))
    assert [fate.state for fate in done.messages] == ["no-diff", "applied", "applied"]
    assert any("no diff: message 1" in note for note in done.notes)


def test_messages_out_of_order_are_noted(repo: Repo) -> None:
    data = series(repo)
    first, second = data.split(b"From ", 2)[1:]
    done = patch.apply(repo.path, b"From " + second + b"From " + first)
    assert done.state == "applied"
    assert any("do not lie in their order: 2, 1" in note for note in done.notes)


def test_a_mail_in_quoted_printable_is_read(repo: Repo) -> None:
    repo.replace("kernel/a.c", "line20;", "line20 = 1;")
    data = repo.run("diff").stdout.replace("=", "=3D")
    repo.git("checkout", "-q", ".")
    mail = (
        "From: Bob <bob@example.org>\nSubject: [PATCH] a: equals\nMIME-Version: 1.0\n"
        "Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: quoted-printable\n\nBody.\n---\n" + data
    )
    done = patch.apply(repo.path, mail.encode())
    assert (done.state, done.messages[0].author) == ("applied", "Bob <bob@example.org>")
    assert repo.subjects[-1] == "a: equals"


def test_a_diff_without_a_message_changes_files_only(repo: Repo) -> None:
    data, head = diff(repo, "kernel/b.c", "line3;", "line3y;"), repo.head
    before = repo.state
    done = patch.apply(repo.path, data)
    assert (done.state, done.mode, repo.head) == ("applied", "files", head)
    assert repo.git("status", "--porcelain") == "M kernel/b.c"
    patch.undo(repo.path)
    assert repo.state == before


def test_a_dirty_tree_is_refused_and_its_files_named(repo: Repo) -> None:
    data = series(repo)
    repo.write("kernel/b.c", "changed\n")
    before = repo.state
    with pytest.raises(UsageError, match=r"not committed: kernel/b\.c"):
        patch.apply(repo.path, data)
    assert repo.state == before


def test_a_dirty_tree_is_taken_when_asked_and_left_alone(repo: Repo) -> None:
    data = series(repo)
    repo.write("kernel/b.c", "changed\n")
    repo.write("kernel/staged.c", "staged\n")
    repo.git("add", "kernel/staged.c")
    status = repo.git("status", "--porcelain")
    assert patch.apply(repo.path, data, allow_dirty=True).state == "applied"
    assert repo.git("status", "--porcelain") == status
    with pytest.raises(UsageError, match="not committed"):
        patch.undo(repo.path)
    patch.undo(repo.path, allow_dirty=True)
    assert repo.git("status", "--porcelain") == status
    assert repo.subjects == ["base"]


def test_a_dirty_file_that_the_patch_touches_is_refused_even_then(repo: Repo) -> None:
    data = series(repo)
    repo.write("kernel/a.c", "changed\n")
    before = repo.state
    with pytest.raises(UsageError, match=r"touches files with changes .*: kernel/a\.c"):
        patch.apply(repo.path, data, allow_dirty=True)
    assert repo.state == before


@pytest.mark.parametrize("ignored", [False, True])
def test_a_file_in_the_way_of_a_new_one_is_refused(repo: Repo, ignored: bool) -> None:
    data = series(repo)
    if ignored:
        repo.write(".git/info/exclude", "n.c\n")
    repo.write("kernel/n.c", "mine\n")
    before = repo.state
    with pytest.raises(UsageError, match=r"there and not git's: kernel/n\.c"):
        patch.apply(repo.path, data, allow_dirty=True)
    assert repo.state == before


def test_an_operation_that_stands_still_is_refused(repo: Repo) -> None:
    data = series(repo)
    base = repo.head
    for start, word in (
        (("bisect", "start"), "bisect"),
        (("am", "broken.mbox"), "am"),
        (("revert", "-n", base), "revert"),
    ):
        repo.git("checkout", "-q", "-f", "main")
        (repo.path / "broken.mbox").write_bytes(data.replace(b"line19", b"line19q").replace(b"index ", b"index f"))
        repo.run(*start)
        with pytest.raises(UsageError, match=f"git {word} stands still"):
            patch.apply(repo.path, data)
        repo.run(word, "reset" if word == "bisect" else "--abort")
        repo.run("reset", "-q", "--hard", base)
    repo.git("checkout", "-q", "-b", "side")
    repo.commit("side", kernel__a_c="side\n")
    repo.git("checkout", "-q", "main")
    repo.commit("main", kernel__a_c="main\n")
    for words, word in (
        (("merge", "side"), "merge"),
        (("rebase", "side"), "rebase"),
        (("cherry-pick", "side"), "cherry-pick"),
    ):
        repo.run(*words)
        with pytest.raises(UsageError, match=f"git {word} stands still"):
            patch.apply(repo.path, data)
        repo.git(word, "--abort")


@pytest.mark.parametrize("data", [b"", b" \n\n", b"hello\n", b"From: a\nSubject: b\n\nhello\n", b"\x00\xff" * 50])
def test_what_is_no_patch_is_refused(repo: Repo, data: bytes) -> None:
    before = repo.state
    with pytest.raises(UsageError, match=r"empty|no patch"):
        patch.apply(repo.path, data)
    assert repo.state == before


def test_a_patch_that_was_cut_is_told_as_such(repo: Repo) -> None:
    data = diff(repo, "kernel/b.c", "line3;", "line3y;")
    with pytest.raises(UsageError, match="cannot read the diff: corrupt patch at line"):
        patch.apply(repo.path, b"\n".join(data.split(b"\n")[:-3]))


def test_hooks_editors_and_signatures_of_the_user_stay_out(repo: Repo) -> None:
    data = series(repo)
    for hook in ("applypatch-msg", "pre-applypatch", "post-applypatch", "pre-commit", "commit-msg", "post-commit",
                 "post-checkout", "post-merge", "reference-transaction", "post-rewrite"):  # fmt: skip
        path = repo.write(f".git/hooks/{hook}", f"#!/bin/sh\necho {hook} >> {repo.path}/.git/ran\nexit 1\n")
        path.chmod(0o755)
    repo.git("config", "commit.gpgsign", "true", GIT_CONFIG_COUNT="0")
    repo.git("config", "gpg.program", "/bin/false")
    repo.git("config", "core.editor", "/bin/false")
    repo.git("config", "core.fsmonitor", "/bin/false")
    assert patch.apply(repo.path, data).state == "applied"
    assert patch.undo(repo.path).state == "undone"
    assert not (repo.path / ".git/ran").exists()


def test_settings_of_the_user_do_not_change_what_is_read(repo: Repo) -> None:
    data = series(repo)
    for setting, value in (
        ("diff.noprefix", "true"), ("diff.mnemonicPrefix", "true"), ("color.ui", "always"), ("core.autocrlf", "false"),
        ("merge.conflictStyle", "diff3"), ("am.threeWay", "false"), ("rerere.enabled", "true"),
        ("core.sparseCheckout", "true"), ("apply.whitespace", "error-all"), ("merge.ff", "false"),
    ):  # fmt: skip
        repo.git("config", setting, value)
    done = patch.apply(repo.path, data)
    assert (done.state, repo.subjects[1:]) == ("applied", ["a: change 20", "b: add n"])
    assert repo.git("status", "--porcelain") == ""


def test_kernloop_called_from_a_hook_works_on_the_tree_it_is_given(
    repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = series(repo)
    other = Repo(tmp_path / "other")
    monkeypatch.setenv("GIT_DIR", str(other.path / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other.path / ".git/index"))
    assert patch.apply(repo.path, data).state == "applied"
    monkeypatch.undo()
    assert repo.subjects[-1] == "b: add n"


def test_undo_is_refused_when_head_moved_and_says_how_to_go_on(repo: Repo) -> None:
    done = patch.apply(repo.path, series(repo))
    repo.commit("later", kernel__b_c="later\n")
    before = repo.state
    with pytest.raises(UsageError, match="HEAD has moved since") as caught:
        patch.undo(repo.path)
    assert repo.state == before
    # The hint is true.
    assert f"git rebase --onto {done.old[:12]} {done.new[:12]}" in caught.value.hint
    repo.git("rebase", "-q", "--onto", done.old[:12], done.new[:12])
    assert repo.subjects == ["base", "later"]


def test_undo_is_refused_on_another_branch(repo: Repo) -> None:
    patch.apply(repo.path, series(repo))
    repo.git("checkout", "-q", "-b", "other")
    with pytest.raises(UsageError, match="another branch"):
        patch.undo(repo.path)


def test_undo_is_refused_when_a_file_of_the_patch_changed(repo: Repo) -> None:
    patch.apply(repo.path, series(repo))
    repo.write("kernel/n.c", "mine\n")
    before = repo.state
    with pytest.raises(UsageError, match=r"changed since: kernel/n\.c"):
        patch.undo(repo.path, allow_dirty=True)
    assert repo.state == before


def test_undo_after_a_reset_by_hand_has_nothing_to_do(repo: Repo) -> None:
    done = patch.apply(repo.path, series(repo))
    repo.git("reset", "-q", "--hard", done.old)
    assert patch.undo(repo.path).state == "nothing"


def test_a_detached_head_and_a_linked_worktree_are_as_good(repo: Repo, tmp_path: Path) -> None:
    data = series(repo)
    repo.git("worktree", "add", "-q", "--detach", tmp_path / "linked")
    done = patch.apply(tmp_path / "linked", data)
    assert (done.state, repo.subjects) == ("applied", ["base"])
    assert patch.undo(tmp_path / "linked").state == "undone"
    with pytest.raises(UsageError):
        patch.undo(repo.path)


def test_a_folder_inside_a_repository_is_refused_with_its_top_named(repo: Repo) -> None:
    with pytest.raises(UsageError, match="lies inside the repository") as caught:
        patch.apply(repo.path / "kernel", b"x")
    assert str(repo.path) in caught.value.hint


def test_a_tree_without_a_commit_is_refused(tmp_path: Path, repo: Repo) -> None:
    with pytest.raises(UsageError, match="no commit yet"):
        patch.apply(Repo(tmp_path / "empty").path, series(repo))


def test_a_stopped_process_leaves_the_tree_and_the_next_one_cleans_up(repo: Repo, tmp_path: Path) -> None:
    """What a kernloop killed in the middle leaves: a worktree that git lists and that is gone."""
    data = series(repo)
    place = tmp_path / "cache/kernloop/worktrees/kernloop-dead"
    repo.git("worktree", "add", "-q", "--detach", place)
    picture(place)
    for path in sorted(place.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    place.rmdir()
    patch.apply(repo.path, data)
    assert "kernloop-dead" not in repo.git("worktree", "list")
