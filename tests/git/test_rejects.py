# SPDX-License-Identifier: Apache-2.0
"""Each way in which a hunk does not fit is told as what it is, with the line; and no input raises."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernloop.git.rejects import HunkReport, explain
from repos import numbered


def hunk(before: str, after: str, tmp_path: Path) -> str:
    """The patch from one text to the other, of the file a.c."""
    for name, text in (("a", before), ("b", after)):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "a.c").write_bytes(text.encode())
    words = ["git", "diff", "--no-index", "--no-prefix", "a/a.c", "b/a.c"]
    return subprocess.run(words, cwd=tmp_path, capture_output=True, text=True).stdout


@pytest.fixture
def patch(tmp_path: Path) -> str:
    return hunk(numbered(), numbered().replace("line20;", "line20x;"), tmp_path)


def told(patch: str, have: str | None) -> HunkReport:
    [report] = explain(patch, lambda name: have if name == "a.c" else None)
    assert (report.file, report.number, report.total, report.wanted) == ("a.c", 1, 1, 17)
    return report


def test_a_hunk_that_fits(patch: str) -> None:
    assert (told(patch, numbered()).status, told(patch, numbered()).at) == ("applies", 17)


def test_a_hunk_that_fits_elsewhere(patch: str) -> None:
    report = told(patch, "new\n" * 5 + numbered())
    assert (report.status, report.at, report.message) == ("offset", 22, "fits at line 22, +5 lines off")


def test_a_hunk_that_is_there_already(patch: str) -> None:
    report = told(patch, "new\n" + numbered().replace("line20;", "line20x;"))
    assert (report.status, report.at) == ("already-applied", 18)


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda text: text.replace("\n", "\r\n"), "CRLF"),
        (lambda text: text.replace("line19;", "line19; "), "blanks at line ends"),
        (lambda text: text.replace("int line19;", "\tint line19;"), "indentation, tabs"),
        (lambda text: text.replace("int line19;", "int  line19;"), "blanks within lines"),
    ],
)
def test_a_hunk_that_fits_but_for_white_space(patch: str, change: object, kind: str) -> None:
    assert callable(change)
    report = told(patch, change(numbered()))
    assert (report.status, report.at) == ("whitespace", 17)
    assert kind in report.message
    assert report.differences


def test_a_hunk_of_which_only_the_ends_differ(patch: str) -> None:
    report = told(patch, numbered().replace("line17;", "other;"))
    assert (report.status, report.at) == ("fuzz", 17)
    assert [(found.line, found.wanted, found.found) for found in report.differences] == [
        (17, ("int line17;",), ("int other;",))
    ]


def test_a_hunk_whose_line_was_changed_says_what_is_there(patch: str) -> None:
    report = told(patch, "x\ny\n" + numbered().replace("line20;", "changed;"))
    assert (report.status, report.at, report.matched, report.lines) == ("differs", 19, 6, 7)
    assert [(found.line, found.wanted, found.found) for found in report.differences] == [
        (22, ("int line20;",), ("int changed;",))
    ]


def test_a_hunk_with_lines_that_came_between(patch: str) -> None:
    report = told(patch, numbered().replace("int line19;\n", "int line19;\nnew1\nnew2\n"))
    assert (report.status, report.at, report.matched) == ("differs", 17, 7)
    assert [(found.line, found.found) for found in report.differences] == [(20, ("new1", "new2"))]


def test_a_hunk_that_is_nowhere_and_files_that_are_not_there(patch: str, tmp_path: Path) -> None:
    assert told(patch, "nothing\nof\nit\n").status == "nowhere"
    assert told(patch, "").status == "nowhere"
    assert told(patch, None).status == "file-missing"
    new = "diff --git a/n.c b/n.c\nnew file mode 100644\n--- /dev/null\n+++ b/n.c\n@@ -0,0 +1 @@\n+new\n"
    for have, status in ((None, "applies"), ("new\n", "already-applied"), ("other\n", "file-exists")):
        [report] = explain(new, lambda name, have=have: have)  # type: ignore[misc]
        assert report.status == status


def test_each_hunk_has_its_own_report(tmp_path: Path) -> None:
    after = numbered().replace("line5;", "five;").replace("line20;", "twenty;").replace("line35;", "x;")
    reports = explain(hunk(numbered(), after, tmp_path), lambda name: numbered().replace("line35;", "y;"))
    assert [(report.number, report.status) for report in reports] == [(1, "applies"), (2, "applies"), (3, "differs")]


# Edits of a file that a patch was not made for.
EDITS = st.lists(st.tuples(st.integers(0, 60), st.sampled_from(["", "new\n", "int line3;\n", "\n"])), max_size=6)


@given(EDITS, EDITS)
@settings(max_examples=40)
def test_what_it_says_that_git_takes_git_takes(
    tmp_path_factory: pytest.TempPathFactory, mine: object, theirs: object
) -> None:
    folder = tmp_path_factory.mktemp("g")

    def edited(edits: object) -> str:
        lines = numbered(30).splitlines(keepends=True)
        assert isinstance(edits, list)
        for at, text in edits:
            lines[at % max(len(lines), 1) : at % max(len(lines), 1) + 1] = [text]
        return "".join(lines)

    text, have = hunk(numbered(30), edited(mine), folder), edited(theirs)
    reports = explain(text, lambda name: have)
    if not reports or len(reports) > 1:
        return
    (folder / "a.c").write_text(have)
    (folder / "p.diff").write_text(text)
    env = {"GIT_CEILING_DIRECTORIES": str(folder.parent), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(["git", "apply", "--check", "p.diff"], cwd=folder, env=env, capture_output=True)
    assert reports[0].fits == (done.returncode == 0), done.stderr


LINES = st.sampled_from(
    ["diff --git a/x b/x", "--- a/x", "+++ b/x", "--- /dev/null", "+++ /dev/null", "@@ -1,2 +1,2 @@", "@@ -0,0 +1 @@",
     "@@ -1 +0,0 @@", "@@ -9999999999,1 +1,1 @@", "@@ -3,0 +4,1 @@",
     " a", "-a", "+b", " ", "", "\\ No newline at end of file", "-- ", "GIT binary patch",
     "Binary files a/x and b/x differ", "new file mode 100644", "deleted file mode 100644", "rename from x",
     "rename to y", "index 1..2", "\x0c", "\r", "old mode 100644", '--- "a/\\303\\251"', "--- ", "+++ "]
)  # fmt: skip


@given(st.lists(LINES, max_size=25).map("\n".join), st.one_of(st.none(), st.lists(LINES, max_size=10).map("\n".join)))
@settings(max_examples=200)
def test_no_input_raises(patch: str, have: str | None) -> None:
    explain(patch, lambda name: have)


@given(st.text(max_size=300), st.text(max_size=100))
def test_no_text_raises(patch: str, have: str) -> None:
    explain("--- a/x\n+++ b/x\n" + patch, lambda name: have)


def test_a_large_file_is_explained_at_once(tmp_path: Path) -> None:
    """30,000 lines, most of them alike, as a table of registers has them."""
    lines = ["\t{ 0, 0 },\n", "}\n", "\treturn 0;\n"] * 10000
    lines[15000] = "unique\n"
    have = "".join(lines)
    patch = hunk(have, have.replace("unique", "other"), tmp_path)
    [report] = explain(patch, lambda name: have.replace("unique", "elsewhere"))
    assert (report.status, report.at) == ("differs", 14998)
