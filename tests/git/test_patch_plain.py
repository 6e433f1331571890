# SPDX-License-Identifier: Apache-2.0
"""`kernel patch` in a tree that is no repository, as linux-source unpacks; and names that no patch has a right to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kernloop.errors import UsageError
from kernloop.git import patch, paths
from repos import Repo, numbered, picture


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "linux-source"
    (tree / "kernel").mkdir(parents=True)
    for name in ("a.c", "b.c"):
        (tree / "kernel" / name).write_text(numbered())
    return tree


def series(tmp_path: Path) -> bytes:
    """A series that changes, moves, removes, makes a file, a script and a link."""
    repo = Repo(tmp_path / "author")
    base = repo.commit("base", kernel__a_c=numbered(), kernel__b_c=numbered())
    repo.replace("kernel/a.c", "line20;", "line20x;  ")
    repo.commit("a: change 20")
    repo.replace("kernel/a.c", "line20x;", "line20y;")
    repo.git("mv", "kernel/b.c", "lib_b.c")
    repo.write("tools/run.sh", "#!/bin/sh\n").chmod(0o755)
    (repo.path / "link").symlink_to("kernel/a.c")
    repo.commit("all: more")
    return repo.run("format-patch", "--stdout", base).stdout.encode()


def header(name: str, other: str | None = None) -> bytes:
    names = f"diff --git a/{name} b/{other or name}\n--- a/{name}\n+++ b/{other or name}\n"
    return (names + "@@ -1,4 +1,4 @@\n-int line1;\n+x\n int line2;\n int line3;\n int line4;\n").encode()


def new(name: str, mode: str) -> str:
    return f"diff --git a/{name} b/{name}\nnew file mode {mode}\n--- /dev/null\n+++ b/{name}\n@@ -0,0 +1 @@\n"


def test_a_series_is_applied_and_taken_back_to_the_byte(tree: Path, tmp_path: Path) -> None:
    (tree / "kernel/a.c").chmod(0o640)
    before = picture(tree)
    done = patch.apply(tree, series(tmp_path))
    assert (done.state, done.mode) == ("applied", "files")
    assert set(done.files) == {"kernel/a.c", "kernel/b.c", "lib_b.c", "tools/run.sh", "link"}
    assert "line20y" in (tree / "kernel/a.c").read_text()
    assert (tree / "kernel/a.c").stat().st_mode & 0o777 == 0o640
    assert os.access(tree / "tools/run.sh", os.X_OK)
    assert (tree / "link").readlink() == Path("kernel/a.c")
    assert [(found.file, found.line, found.type) for found in done.findings] == [("kernel/a.c", 20, "WHITESPACE")]
    assert patch.undo(tree).state == "undone"
    assert picture(tree) == before
    assert not (tree / "tools").exists()


def test_check_and_a_patch_that_does_not_apply_change_nothing(tree: Path, tmp_path: Path) -> None:
    data = series(tmp_path)
    before = picture(tree)
    assert patch.apply(tree, data, check=True).state == "would-apply"
    assert picture(tree) == before
    (tree / "lib_b.c").write_text("in the way\n")
    before = picture(tree)
    done = patch.apply(tree, data)
    assert (done.state, [fate.state for fate in done.messages]) == ("rejected", ["applied", "rejected"])
    assert picture(tree) == before


def test_the_same_again_is_already_applied(tree: Path) -> None:
    assert patch.apply(tree, header("kernel/a.c")).state == "applied"
    assert patch.apply(tree, header("kernel/a.c")).state == "already-applied"


def test_undo_is_refused_for_a_file_that_changed_since(tree: Path) -> None:
    patch.apply(tree, header("kernel/a.c"))
    (tree / "kernel/a.c").write_text("edited\n")
    before = picture(tree)
    with pytest.raises(UsageError, match=r"changed since: kernel/a\.c") as caught:
        patch.undo(tree)
    assert picture(tree) == before
    # The hint is true: the old text lies there.
    folder = Path(caught.value.hint.rpartition(" ")[2])
    assert (folder / "0.data").read_text() == numbered()


def test_an_undo_that_was_killed_half_way_is_finished(tree: Path, tmp_path: Path) -> None:
    before = picture(tree)
    patch.apply(tree, series(tmp_path))
    (tree / "tools/run.sh").unlink()
    assert patch.undo(tree).state == "undone"
    assert picture(tree) == before


def test_a_tree_unpacked_inside_a_repository_is_its_own(tmp_path: Path) -> None:
    """`git apply` below the top of a repository silently leaves out what it takes for another folder's."""
    repo = Repo(tmp_path / "project")
    repo.commit("mine", README="x\n")
    repo.write("linux/kernel/a.c", numbered())
    assert patch.apply(repo.path / "linux", header("kernel/a.c")).state == "applied"
    assert repo.read("linux/kernel/a.c").startswith("x\n")


@pytest.mark.parametrize(
    "name",
    [
        "../out.c",
        "kernel/../../out.c",
        "/etc/passwd",
        ".git/config",
        "kernel/.git/hooks/x",
        ".GIT/config",
        "git~1/config",
    ],
)
@pytest.mark.parametrize("kind", ["plain", "git"])
def test_names_that_lead_out_are_refused(tree: Path, tmp_path: Path, name: str, kind: str) -> None:
    if kind == "git":
        repo = Repo(tree)
        repo.commit("base")
    before = picture(tmp_path)
    with pytest.raises(UsageError, match=r"which (leads out|is an absolute|is git's own)"):
        patch.apply(tree, header(name).replace(b"a//", b"/").replace(b"b//", b"/"))
    with pytest.raises(UsageError, match=r"which (leads out|is an absolute|is git's own)"):
        patch.apply(tree, header("kernel/a.c", name).replace(b"b//", b"/"))
    assert picture(tmp_path) == before


@pytest.mark.parametrize("kind", ["plain", "git"])
@pytest.mark.parametrize("target", ["/etc", "../..", "../../etc/passwd"])
def test_a_link_out_of_the_tree_is_not_made_nor_written_through(
    tree: Path, tmp_path: Path, kind: str, target: str
) -> None:
    if kind == "git":
        Repo(tree).commit("base")
    makes = f"{new('kernel/l', '120000')}+{target}\n\\ No newline at end of file\n"
    before = picture(tree)
    with pytest.raises(UsageError, match="makes kernel/l a link to"):
        patch.apply(tree, makes.encode())
    through = new("kernel/l/x", "100644") + "+x\n"
    assert patch.apply(tree, (makes + through).encode()).state == "rejected"
    assert picture(tree) == before
    (tree / "kernel/l").symlink_to(target)
    with pytest.raises(UsageError, match="through the link kernel/l"):
        patch.apply(tree, through.encode(), allow_dirty=True)


PARTS = st.sampled_from(
    ["..", ".", ".git", ".Git", "git~1", "", "a", "b.c", "x y", "é", "~", "-", ".gitignore", "a..b"]
)


@given(st.lists(PARTS, min_size=1, max_size=5).map("/".join))
def test_a_name_is_clean_only_if_it_stays_inside(name: str) -> None:
    inside = os.path.normpath("/top/" + name)
    if not paths.unsafe(name):
        assert inside == "/top/" + name and not name.startswith("/")
        assert not any(part.lower() == ".git" for part in name.split("/"))
    elif not set(name.split("/")) & {"", ".", ".."}:
        assert any(part.lower() in (".git", "git~1") for part in name.split("/"))


@given(st.text(alphabet='ab/. "\\@+-\n\t01,', max_size=200))
@example("--- \n+++ \n")
@example('diff --git "a/\\9" b\n')
@example('--- "\n+++ "\n')
@example("diff --git \n")
def test_no_text_breaks_the_reading_of_names(text: str) -> None:
    for name in paths.names(text):
        paths.unsafe(name)


@given(st.lists(PARTS, min_size=1, max_size=4).map("/".join), st.sampled_from(["---", "rename", "diff"]))
def test_every_name_in_a_header_is_seen(name: str, where: str) -> None:
    text = {
        "---": f"--- a/{name}\n+++ b/{name}\n@@ -1 +1 @@\n-a\n+b\n",
        "rename": f"diff --git a/x b/y\nrename from x\nrename to {name}\n",
        "diff": f"diff --git a/{name} b/{name}\nold mode 100644\nnew mode 100755\n",
    }[where]
    # Trailing blanks aside, which no format keeps.
    if name and name != "/dev/null" and not (name.startswith("/") and where == "rename"):
        assert name in paths.names(text)


def test_a_removed_line_that_looks_like_a_header_is_none() -> None:
    """A comment of SQL or Lua that is taken out: `-` and `-- /etc/passwd`."""
    text = "--- a/x.lua\n+++ b/x.lua\n@@ -1,2 +1,2 @@\n--- /etc/passwd\n-a\n+++ ../b\n+b\n"
    assert paths.names(text) == ("x.lua",)
