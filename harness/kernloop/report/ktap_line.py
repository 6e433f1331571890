# SPDX-License-Identifier: Apache-2.0
"""One line of KTAP or TAP: which kind it is, how deep it stands, what it says (Documentation/dev-tools/ktap.rst).

kselftest puts `# ` before each line of a test's own output (tools/testing/selftests/kselftest/prefix.pl), so results of
its subtests stand behind `# ` where KUnit indents them: either counts as depth.

>>> read("ok 3 a.b # SKIP no device").directive
'SKIP'
>>> read(clean("[    1.500000]     # Subtest: list-kunit-test")).text
'list-kunit-test'
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from .lines import read_line

__all__ = ["Kind", "Token", "clean", "glued", "read"]


class Kind(StrEnum):
    """`SUBTEST` and `STARTS` announce a test by name, `HINT` is talk that names one; `TEXT` is anything else."""

    VERSION = "version"
    PLAN = "plan"
    RESULT = "result"
    SUBTEST = "subtest"
    STARTS = "starts"
    HINT = "hint"
    BAIL_OUT = "bail out"
    TEXT = "text"


@dataclass(frozen=True)
class Token:
    """`column` is where what it says begins, `hashes` how many `#` stand before that; `text` is the name or the rest.

    `by_case`: the hint is KUnit's, which names a case of the suite before each message.
    """

    kind: Kind
    column: int
    hashes: int
    text: str = ""
    number: int | None = None
    ok: bool = False
    directive: str = ""
    reason: str = ""
    by_case: bool = False


_PREFIX = re.compile(r"[ \t]*(?:#[ \t]*)*")
_VERSION = re.compile(r"K?TAP version \d{1,9}$")
_PLAN = re.compile(r"1\.\.(\d{1,9})(?:\s*#\s*(?:SKIP\S*\s*)?(.*))?$", re.I)
# A number is not asked for in TAP; but without it, or the dash, "ok" is a word like any other.
_RESULT = re.compile(r"(not ok|ok)(?:\s+(\d{1,9})(?!\S)|(?=\s+-\s))\s*(.*)$")
# ktap.rst; XPASS is of tools/testing/selftests/kselftest.h.
_DIRECTIVE = re.compile(r"(SKIP|TODO|XFAIL|XPASS|TIMEOUT|ERROR)\b:?\s*(.*)$", re.I)
# A hash within a word is part of the name, and so is one behind a backslash.
_COMMENT = re.compile(r"(?:^|\s)#(?:\s+|$|(?=\S))")
_BAIL_OUT = re.compile(r"Bail out!\s*(.*)$")
_SUBTEST = re.compile(r"Subtest:\s+(\S.*)$")
# kselftest/runner.sh, kselftest_harness.h
_STARTS = re.compile(r"(?:(selftests: \S+: [^:]+)|RUN\s+(\S+) \.\.\.)$")
# tools/testing/selftests/sched_ext/runner.c, without a hash
_NAMED = re.compile(r"TEST: (\S+)$")
# kunit_log() of include/kunit/test.h
_BY_CASE = re.compile(r"^(\w+): \S")
_STARTING = re.compile(r"[Ss]tarting(?: test)?:? (?!\d+ tests)(\S.*?)(?: ?\.\.\.)?$")
# The kernel and a program write to the same terminal: a message may stand behind a result that has no newline yet.
_STAMP_WITHIN = re.compile(r"\[ *\d{1,9}\.\d{6}\]")
_GLUED = re.compile(r"(?<=\S)\s*((?:not )?\bok (\d{1,9})(?:\s.*)?)$")
_SKIP_WORDS = frozenset({"SKIP", "XFAIL", "XPASS"})


def clean(raw: str) -> str:
    """A line without printk's prefix, escape sequences and what ends it."""
    return read_line(raw, behind=False).text.rstrip()


def read(text: str) -> Token:
    """What a clean line says."""
    prefix = _PREFIX.match(text)
    start = prefix.end() if prefix else 0
    hashes = text.count("#", 0, start)
    rest = text[start:]
    column = len(text[:start].expandtabs(4))
    if _VERSION.match(rest):
        return Token(Kind.VERSION, column, hashes)
    if found := _PLAN.match(rest):
        return Token(Kind.PLAN, column, hashes, number=int(found[1]), reason=found[2] or "")
    if found := _RESULT.match(rest):
        return _result(found, column, hashes)
    if found := _BAIL_OUT.match(rest):
        return Token(Kind.BAIL_OUT, column, hashes, found[1])
    if found := _NAMED.match(rest):
        return Token(Kind.STARTS, column, hashes, found[1])
    if not hashes:
        return Token(Kind.TEXT, column, hashes, text)
    # The last hash is the announcement's own.
    column = len(text[: text.rindex("#", 0, start)].expandtabs(4))
    hashes -= 1
    if found := _SUBTEST.match(rest):
        return Token(Kind.SUBTEST, column, hashes, found[1])
    if found := _STARTS.match(rest):
        return Token(Kind.STARTS, column, hashes, found[1] or found[2])
    if found := _STARTING.match(rest):
        return Token(Kind.HINT, column, hashes, found[1])
    if found := _BY_CASE.match(rest):
        return Token(Kind.HINT, column, hashes, found[1], by_case=True)
    return Token(Kind.TEXT, column, hashes, text)


def glued(text: str, number: int, column: int) -> tuple[str, Token] | None:
    """The result `number` that stands behind other output in a clean line, and that output."""
    for found in _GLUED.finditer(text):
        if int(found[2]) == number and (result := _RESULT.match(found[1])):
            return text[: found.start(1)].rstrip(), _result(result, column, 0)
    return None


def _result(found: re.Match[str], column: int, hashes: int) -> Token:
    said = _STAMP_WITHIN.split(found[3], maxsplit=1)[0].rstrip()
    mark = _COMMENT.search(said)
    name, reason = (said[: mark.start()], said[mark.end() :]) if mark else (said, "")
    name = name.strip().removeprefix("- ").replace("\\#", "#")
    directive = ""
    if word := _DIRECTIVE.match(reason):
        directive, reason = word[1].upper(), word[2]
    if not name and directive in _SKIP_WORDS:
        # ksft_test_result_skip() and its like write the name behind the directive (kselftest.h).
        name = reason
    number = int(found[2]) if found[2] else None
    return Token(Kind.RESULT, column, hashes, name, number, found[1] == "ok", directive, reason)
