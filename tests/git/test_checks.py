# SPDX-License-Identifier: Apache-2.0
"""checkpatch's and git's words as data, and that it is the tree's own checkpatch that is run."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from kernloop.git import checks, patch
from kernloop.git.checks import Finding
from repos import Repo, numbered

# What checkpatch.pl 0.32 of Linux 7.3 wrote with --terse --showfile --show-types --no-summary.
RECORDED = """\
kernel/foo.c:2: ERROR:TRAILING_WHITESPACE: trailing whitespace
kernel/foo.c:2: ERROR:SPACING: space prohibited after that open parenthesis '('
kernel/foo.c:3: WARNING:LEADING_SPACE: please, no spaces at the start of a line
kernel/foo.c:5: ERROR:NO_AUTHOR_SIGN_OFF: Missing Signed-off-by: line by nominal patch author 'A Dev <a@example.org>'
ERROR:MISSING_SIGN_OFF: Missing Signed-off-by: line(s)
one.patch:9: WARNING:COMMIT_LOG_LONG_LINE: Prefer a maximum 75 chars per line
"""
# Perl, as the kernel's: tells how it was called.
SCRIPT = """\
my $file = pop @ARGV;
open(my $in, '<', $file) or die;
my $text = join('', <$in>);
print "WARNING:CALLED: @ARGV\\n";
print "kernel/a.c:20: CHECK:SUBJECT: $1\\n" if $text =~ /^Subject: (.*)$/m;
exit 1;
"""


def test_what_checkpatch_writes_is_read() -> None:
    found = checks.parse_checkpatch(RECORDED.splitlines(), Path("/x/one.patch"), "c0ffee")
    assert [(one.file, one.line, one.level, one.type) for one in found] == [
        ("kernel/foo.c", 2, "error", "TRAILING_WHITESPACE"),
        ("kernel/foo.c", 2, "error", "SPACING"),
        ("kernel/foo.c", 3, "warning", "LEADING_SPACE"),
        ("", 0, "error", "NO_AUTHOR_SIGN_OFF"),
        ("", 0, "error", "MISSING_SIGN_OFF"),
        ("", 0, "warning", "COMMIT_LOG_LONG_LINE"),
    ]
    assert found[1].message == "space prohibited after that open parenthesis '('"
    assert {one.commit for one in found} == {"c0ffee"}


def test_what_git_diff_check_writes_is_read() -> None:
    said = [
        "a b.c:3: trailing whitespace.",
        "+x ",
        "d.c:9: leftover conflict marker",
        "+a.c:1: no. ",
        "e.c:2: new blank line at EOF.",
    ]
    assert checks.parse_diff_check(said) == [
        Finding("a b.c", 3, "error", "WHITESPACE", "trailing whitespace"),
        Finding("d.c", 9, "error", "WHITESPACE", "leftover conflict marker"),
        Finding("e.c", 2, "error", "WHITESPACE", "new blank line at EOF"),
    ]


@given(st.lists(st.text(), max_size=5))
def test_no_line_raises(lines: list[str]) -> None:
    checks.parse_checkpatch(lines, Path("x"))
    checks.parse_diff_check(lines)


def test_the_trees_own_checkpatch_sees_each_commit(tmp_path: Path) -> None:
    repo = Repo(tmp_path / "tree")
    repo.write("scripts/checkpatch.pl", SCRIPT)
    base = repo.commit("base", kernel__a_c=numbered())
    repo.replace("kernel/a.c", "line20;", "line20x;")
    repo.commit("a: one")
    repo.replace("kernel/a.c", "line21;", "line21x;")
    repo.commit("a: two")
    data = repo.run("format-patch", "--stdout", base).stdout.encode()
    repo.git("reset", "-q", "--hard", base)
    done = patch.apply(repo.path, data)
    assert not any("checkpatch" in note for note in done.notes)
    assert [one.message for one in done.findings if one.type == "SUBJECT"] == ["[PATCH] a: one", "[PATCH] a: two"]
    called = next(one.message for one in done.findings if one.type == "CALLED")
    # It is not the top of a kernel tree, by checkpatch's own rule.
    assert f"--root={repo.path}" in called and "--no-tree" in called


def test_a_patch_that_changes_checkpatch_is_not_checked_by_its_own(tmp_path: Path) -> None:
    repo = Repo(tmp_path / "tree")
    repo.write("scripts/checkpatch.pl", SCRIPT)
    base = repo.commit("base")
    repo.write("scripts/checkpatch.pl", "open(my $f, '>', 'ran'); exit 0;\n")
    repo.commit("scripts: Quiet")
    data = repo.run("format-patch", "--stdout", base).stdout.encode()
    repo.git("reset", "-q", "--hard", base)
    done = patch.apply(repo.path, data)
    assert any(one.type == "SUBJECT" for one in done.findings)
    assert not (repo.path / "ran").exists()
