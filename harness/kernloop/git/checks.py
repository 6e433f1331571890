# SPDX-License-Identifier: Apache-2.0
"""What the tree's own scripts/checkpatch.pl and `git diff --check` say of a patch, as data."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from kernloop.git.command import git
from kernloop.host import process

__all__ = ["Finding", "checkpatch", "checkpatch_missing", "of_commit", "parse_checkpatch", "parse_diff_check"]

# `checkpatch.pl --terse --showfile --show-types` (sub report): a place that it has none for is the patch itself.
_CHECKPATCH = re.compile(
    r"(?:(?P<file>[^:\n]*):(?P<line>\d+): )?(?P<level>ERROR|WARNING|CHECK)(?::(?P<type>[A-Z0-9_]+))?: ?(?P<message>.*)"
)
# diff.c, checkdiff_consume.
_DIFF_CHECK = re.compile(r"(?P<file>.+?):(?P<line>\d+): (?P<message>.*\S)")
# These are about the mail, and told with the last place of the diff.
_OF_THE_MAIL = ("MISSING_SIGN_OFF", "NO_AUTHOR_SIGN_OFF", "FROM_SIGN_OFF_MISMATCH", "NOT_UNIFIED_DIFF")
# What checkpatch's top_of_kernel_tree looks for; without them it wants --no-tree.
_TOP = ("COPYING", "CREDITS", "Kbuild", "MAINTAINERS", "Makefile", "README", "Documentation", "arch", "include",
        "drivers", "fs", "init", "ipc", "kernel", "lib", "scripts")  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """`level` is error, warning or check; `type` checkpatch's own, or WHITESPACE; `line` 0: the message."""

    file: str
    line: int
    level: str
    type: str
    message: str
    commit: str = ""


def checkpatch_missing(tree: Path) -> str:
    """Why checkpatch cannot be run in `tree`, or ""."""
    if not (tree / "scripts/checkpatch.pl").is_file():
        return "the tree has no scripts/checkpatch.pl"
    return "" if shutil.which("perl") else "perl is not installed"


def checkpatch(tree: Path, patch: Path, *, signed: bool = True, commit: str = "") -> list[Finding]:
    """What `tree`'s checkpatch says of the file `patch`; [] where it cannot be run. `signed`: it is a mail."""
    if checkpatch_missing(tree):
        return []
    words: list[str | Path] = ["perl", tree / "scripts/checkpatch.pl", "--color=never", "--terse", "--showfile"]
    words += ["--show-types", "--no-summary", f"--root={tree}"]
    if not all((tree / name).exists() for name in _TOP):
        words.append("--no-tree")
    if not signed:
        words.append("--no-signoff")
    done = process.run([*words, patch], seconds=300, what="checkpatch", cwd=tree, check=False, env={"LC_ALL": "C"})
    return parse_checkpatch(done.stdout.splitlines(), patch, commit)


def parse_checkpatch(lines: Iterable[str], patch: Path, commit: str = "") -> list[Finding]:
    found = []
    for line in lines:
        if match := _CHECKPATCH.match(line):
            # A line of the mail is no line of the tree.
            own = match["file"] in (None, str(patch), patch.name) or match["type"] in _OF_THE_MAIL
            place = ("", 0) if own else (match["file"], int(match["line"]))
            found.append(Finding(*place, match["level"].lower(), match["type"] or "", match["message"], commit))
    return found


def of_commit(tree: Path, commit: str, folder: Path) -> list[Finding]:
    """All that checkpatch and `git diff --check` say of a commit; `folder` takes the patch."""
    patch = folder / f"{commit}.patch"
    patch.write_text(git(tree, "format-patch", "-1", "--stdout", "--no-signature", commit).stdout)
    said = git(tree, "diff", "--no-ext-diff", "--check", f"{commit}^!", check=False).stdout
    return [*checkpatch(tree, patch, commit=commit), *parse_diff_check(said.splitlines(), commit)]


def parse_diff_check(lines: Iterable[str], commit: str = "") -> list[Finding]:
    """The lines that begin with + quote the file."""
    return [
        Finding(match["file"], int(match["line"]), "error", "WHITESPACE", match["message"].rstrip("."), commit)
        for line in lines
        if not line.startswith("+") and (match := _DIFF_CHECK.fullmatch(line))
    ]
