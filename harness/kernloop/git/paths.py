# SPDX-License-Identifier: Apache-2.0
"""Which files a patch names, read from its headers alone, and which of these names no patch has a right to.

git refuses such names too (apply.c, check_unsafe_path, verify_path); here the reason is told before anything is tried.

>>> names("--- a/x.c\\n+++ b/../y.c\\n@@ -1 +1 @@\\n--- a/quoted\\n+++ b/quoted\\n")
('x.c', '../y.c')
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

__all__ = ["escaping_link", "link_above", "names", "unsafe"]

_HUNK = re.compile(r"^@@ -\d+(?:,(\d+))? \+\d+(?:,(\d+))? @@")
_ESCAPES = {"a": 7, "b": 8, "t": 9, "n": 10, "v": 11, "f": 12, "r": 13, '"': 34, "\\": 92}


def names(patch: str) -> tuple[str, ...]:
    """Each path that a header of `patch` names, once; as git reads it, without its first folder. /dev/null is none."""
    return tuple(dict.fromkeys(_names(patch.split("\n"))))


def unsafe(name: str) -> str:
    """Why a patch may not touch `name`, or ""."""
    parts = name.split("/")
    if name.startswith("/"):
        return "is an absolute path"
    if ".." in parts:
        return "leads out of the tree"
    if any(_is_git(part) for part in parts):
        return "is git's own"
    if "\0" in name or not name or "" in parts or "." in parts:
        return "is no clean path"
    return ""


def link_above(tree: Path, name: str) -> str:
    """A folder above `name` in `tree` that is a link, or "": git goes through none (symlinks.c)."""
    parts = PurePosixPath(name).parts
    for count in range(1, len(parts)):
        if tree.joinpath(*parts[:count]).is_symlink():
            return "/".join(parts[:count])
    return ""


def escaping_link(tree: Path, name: str) -> str:
    """`name` if it is a link in `tree` that leads out of it, or ""."""
    path = tree / name
    target = os.path.normpath(path.parent / path.readlink())
    return "" if Path(target).is_relative_to(tree) else name


# What file systems take for .git: any case, and Windows' short name (path.c, is_ntfs_dotgit).
def _is_git(part: str) -> bool:
    return part.lower().rstrip(". ") in (".git", "git~1")


def _names(lines: list[str]) -> Iterator[str]:
    old = new = 0
    for number, line in enumerate(lines):
        if old > 0 or new > 0:
            # Inside a hunk a line that looks like a header is a line of the file.
            old -= line[:1] in (" ", "-", "")
            new -= line[:1] in (" ", "+", "")
            if line[:1] in ("", " ", "-", "+", "\\"):
                continue
            old = new = 0
        if hunk := _HUNK.match(line):
            old, new = int(hunk[1] or 1), int(hunk[2] or 1)
        elif line.startswith("diff --git "):
            yield from _both(line.removeprefix("diff --git "))
        elif line.startswith("--- ") and number + 1 < len(lines) and lines[number + 1].startswith("+++ "):
            yield from _one(line[4:])
            yield from _one(lines[number + 1][4:])
        elif match := re.match(r"(?:rename|copy) (?:from|to) (.*)", line):
            # These come without a prefix (git-diff(1)).
            yield _unquoted(match[1])


# `a/NAME b/NAME`: names with blanks are not told apart, but then both are the same.
def _both(words: str) -> Iterator[str]:
    if words.startswith('"'):
        first = re.match(r'"(?:[^"\\]|\\.)*"', words)
        if first:
            yield from _one(first[0])
            yield from _one(words[first.end() :].strip())
        return
    half = len(words) // 2
    if words[:half].partition("/")[2] == words[half + 1 :].partition("/")[2] and words[half : half + 1] == " ":
        yield from _one(words[:half])
        return
    for word in words.split(" "):
        yield from _one(word)


# The path of a `--- ` or `+++ ` line: no time stamp, no first folder.
def _one(word: str) -> Iterator[str]:
    name = _unquoted(word.partition("\t")[0].rstrip("\r"))
    if name == "/dev/null" or not name:
        return
    if name.startswith("/"):
        yield name
        return
    first, slash, rest = name.partition("/")
    yield rest if slash and first != ".." else name


# git quotes like C (quote.c).
def _unquoted(word: str) -> str:
    if len(word) < 2 or not (word.startswith('"') and word.endswith('"')):
        return word
    data = bytearray()
    for match in re.finditer(r"\\([0-3][0-7]{2})|\\(.)|([^\\]+)", word[1:-1], re.S):
        if match[1]:
            data.append(int(match[1], 8))
        elif match[2]:
            data += bytes([_ESCAPES[match[2]]]) if match[2] in _ESCAPES else match[2].encode(errors="surrogateescape")
        else:
            data += match[3].encode(errors="replace")
    return data.decode(errors="replace")
