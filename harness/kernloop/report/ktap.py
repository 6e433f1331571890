# SPDX-License-Identifier: Apache-2.0
"""KTAP and TAP, whole: what KUnit prints to the console and kselftests to their output, to a tree of tests.

Documentation/dev-tools/ktap.rst is the format; what is really written is in kselftest/runner.sh, kselftest.h and
kselftest_harness.h of tools/testing/selftests, and in lib/kunit/test.c. What the parser makes of bad streams:

- A test that was announced (`# Subtest:`, `# selftests:`, `#  RUN`, `TEST:`) and has no result crashed there, or timed
  out when the result above it says so. A planned test that nobody heard of is missing.
- Several streams one after the other are one list: a script may run several programs.
- Results that are not the announced test's, until its own comes, are its subtests.

>>> parse(["TAP version 13", "1..3", "ok 1 a", "# Starting b", "Kernel panic"]).running
('b',)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import islice

from .ktap_line import Kind, Token, clean, glued, read

__all__ = ["GOOD", "KtapParser", "Problem", "Report", "Status", "Test", "Totals", "leaves", "parse", "totals"]

# A plan of a billion tests is a mistake, not a reason to fill the memory.
_MISSING_MAX = 1000
_DEPTH_MAX = 64


class Status(StrEnum):
    """What became of a test; `missing` was planned and never heard of."""

    PASS = "pass"
    FAIL = "fail"
    SKIP = "skip"
    XFAIL = "xfail"
    TODO = "todo"
    CRASHED = "crashed"
    TIMEOUT = "timeout"
    MISSING = "missing"


# Failures that were foretold are none.
GOOD = frozenset({Status.PASS, Status.SKIP, Status.XFAIL, Status.TODO})


@dataclass(frozen=True)
class Test:
    """`directive` and `reason` are what stands behind the `#` of its result; `lines` is 1-based and inclusive."""

    number: int | None
    name: str
    status: Status
    directive: str = ""
    reason: str = ""
    diagnostics: tuple[str, ...] = ()
    subtests: tuple[Test, ...] = ()
    lines: tuple[int, int] | None = None


@dataclass(frozen=True)
class Totals:
    """Tests by status; one with subtests counts only if it failed and none of them did."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0
    xfail: int = 0
    todo: int = 0
    crashed: int = 0
    timeout: int = 0
    missing: int = 0

    @property
    def all(self) -> int:
        return sum(vars(self).values())


@dataclass(frozen=True)
class Problem:
    """What is wrong with the stream itself, and in which line."""

    line: int
    what: str


@dataclass(frozen=True)
class Report:
    """`running` is the path of the test that was under way when the stream ended, empty when none was known to be.

    `skipped` is why a stream as a whole was skipped (`1..0 # SKIP`), `bail_out` why it gave up; None when neither.
    """

    tests: tuple[Test, ...]
    totals: Totals
    problems: tuple[Problem, ...] = ()
    running: tuple[str, ...] = ()
    plan: int | None = None
    skipped: str | None = None
    bail_out: str | None = None


def parse(lines: Iterable[str]) -> Report:
    """The tests in `lines`; no input raises."""
    parser = KtapParser()
    for line in lines:
        parser.feed(line)
    return parser.finish()


def leaves(
    tests: Sequence[Test], depth: int = _DEPTH_MAX, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Test]]:
    """Each test that counts (see Totals) with its path; deeper than `depth` nobody looks."""
    for test in tests:
        below = list(leaves(test.subtests, depth - 1, (*path, test.name))) if depth > 1 else []
        yield from below
        if not below or (test.status not in GOOD and all(one.status in GOOD for _, one in below)):
            yield (*path, test.name), test


# The tests of one level that is still open; `since` is the first line that belongs to the next of them. `label` is from
# a Subtest line: this level's name if that has none and nothing yet, else that of the test to come. `inner` are results
# that came while `running` had none, `hint` a name that was dropped.
@dataclass
class _Level:
    column: int
    since: int
    name: str = ""
    label: str = ""
    begun: bool = False
    plan: int | None = None
    tests: list[Test] = field(default_factory=list)
    numbers: set[int] = field(default_factory=set)
    last: int = 0
    results: int = 0
    said: list[str] = field(default_factory=list)
    running: str = ""
    matched: bool = False
    inner: list[Test] = field(default_factory=list)
    inner_stream: bool = False
    hint: str = ""
    skipped: str | None = None
    bail_out: str | None = None

    def settle_name(self) -> None:
        """What came is this level's own, so the label is as well."""
        if self.label and not self.begun and not self.name:
            self.name, self.label = self.label, ""
        self.begun = True


class KtapParser:
    """Feed it lines as they come, then `finish` it."""

    def __init__(self) -> None:
        self._line = 0
        # The ground belongs to no stream; streams stand on it.
        self._levels = [_Level(-1, 1)]
        self._problems: list[Problem] = []
        self._prefixed = False
        self._plan: int | None = None
        self._cut_off = 0

    @property
    def running(self) -> tuple[str, ...]:
        """The path of the test that is under way, as far as anything names it."""
        path: list[str] = []
        for level in self._levels:
            # A level below a running test that has its name is that test.
            path += [name for name in (level.name, level.running or level.label) if name and path[-1:] != [name]]
        hint = self._levels[-1].hint
        return (*path, hint) if hint and not self._levels[-1].running else tuple(path)

    @property
    def next_number(self) -> int:
        """What the next result of the deepest level is to be numbered."""
        return self._levels[-1].last + 1

    @property
    def results(self) -> tuple[Test, ...]:
        """The results of the deepest level so far."""
        return tuple(self._levels[-1].tests)

    def feed(self, raw: str) -> None:
        self._line += 1
        text = clean(raw)
        token = read(text)
        if token.kind is Kind.STARTS and token.text.startswith("selftests: "):
            self._prefixed = True
        elif token.hashes and not self._prefixed:
            # Behind `# ` only kselftest's runner has results; elsewhere it is talk.
            self._prefixed = token.kind is Kind.VERSION
            if not self._prefixed:
                token = Token(Kind.TEXT, token.column, token.hashes, text)
        match token.kind:
            case Kind.VERSION:
                self._version(token)
            case Kind.PLAN:
                self._planned(token)
            case Kind.RESULT:
                self._result(token)
            case Kind.SUBTEST:
                self._subtest(token)
            case Kind.STARTS:
                self._starts(token)
            case Kind.BAIL_OUT:
                self._down_to(token.column)
                self._at(token.column).bail_out = token.text
            case _:
                self._talk(token, text)

    def finish(self) -> Report:
        """The stream has ended."""
        running, open_before = self.running, self._cut_off
        self._down_to(-1, keep=True)
        ground = self._levels[0]
        base = self._levels.pop() if len(self._levels) > 1 else ground
        if base.name or (base.label and not base.begun):
            self._levels.append(_Level(base.column, base.since))
            self._abandon(base)
            base = self._levels.pop()
        self._settle(base, Status.CRASHED)
        tests = (*ground.tests, *base.tests) if base is not ground else tuple(ground.tests)
        plan = base.plan if self._plan is None else self._plan + (base.plan or 0)
        return Report(
            tests,
            totals(tests),
            tuple(self._problems),
            running if self._cut_off > open_before else (),
            plan,
            base.skipped,
            base.bail_out,
        )

    def _version(self, token: Token) -> None:
        self._down_to(token.column)
        top = self._levels[-1]
        if top.column == token.column and (top.name or (top.label and not top.begun)):
            self._abandon(self._levels.pop())
        elif top.column == token.column and top.running:
            # Of the announced test, unless the next announcement shows otherwise.
            top.inner_stream = True
            return
        elif top.column == token.column:
            self._next_stream(top)
            return
        self._at(token.column)

    # Another stream in the same place: a script that runs several programs, a module loaded after another.
    def _next_stream(self, level: _Level) -> None:
        self._settle(level, Status.CRASHED)
        if level is self._levels[1] and level.plan is not None:
            self._plan = (self._plan or 0) + level.plan
        level.plan, level.last, level.results, level.begun, level.matched = None, 0, 0, False, False
        level.inner_stream = False
        level.numbers.clear()

    def _planned(self, token: Token) -> None:
        self._down_to(token.column)
        level = self._at(token.column)
        if level.running and level.begun:
            return  # of the announced test
        level.settle_name()
        if level.plan is not None:
            self._problem(f"a second plan: 1..{token.number} after 1..{level.plan}")
        level.plan = token.number
        if token.number == 0:
            level.skipped = token.reason

    def _subtest(self, token: Token) -> None:
        self._down_to(token.column)
        top = self._levels[-1]
        if top.column == token.column:
            top.label = token.text
        else:
            self._at(token.column).name = token.text

    def _starts(self, token: Token) -> None:
        self._down_to(token.column)
        level = self._at(token.column)
        self._end_running(level, Status.CRASHED, goes_on=True)
        if level.inner_stream:
            self._next_stream(level)
        level.settle_name()
        level.running, level.hint = token.text, ""

    def _talk(self, token: Token, text: str) -> None:
        top = self._levels[-1]
        if top.begun and not text.lstrip().startswith("#") and (found := glued(text, top.last + 1, top.column)):
            before, result = found
            top.said.append(before)
            self._result(result)
            return
        if token.kind is Kind.HINT and token.column == top.column:
            named = not token.by_case or (bool(top.name) and token.text != top.name)
            top.hint = token.text if named else top.hint
        if text.strip():
            top.said.append(text)

    def _result(self, token: Token) -> None:
        below = self._down_to(token.column, keep=True)
        level = self._at(token.column)
        if level.label == token.text:
            level.label = ""
        level.settle_name()
        level.label = ""
        test = Test(
            token.number,
            token.text,
            _status(token),
            token.directive,
            token.reason,
            tuple(level.said),
            lines=(level.since, self._line),
        )
        if below is not None:
            name = below.name or below.label
            if name and token.text and name != token.text and name != level.running:
                self._problem(f"the subtests of {name!r} are followed by the result of {token.text!r}")
                self._abandon(below)
            else:
                test = self._with(test, below)
        level.said, level.hint, level.since = [], "", self._line + 1
        if level.running and level.running != test.name:
            level.inner.append(test)
            return
        if level.running:
            test = replace(test, subtests=(*level.inner, *test.subtests))
            level.running, level.inner, level.inner_stream, level.matched = "", [], False, True
        self._add(level, test)

    # `test` is what `below` was about.
    def _with(self, test: Test, below: _Level) -> Test:
        self._settle(below, Status.TIMEOUT if test.status is Status.TIMEOUT else Status.CRASHED)
        why = test.reason or below.skipped or ""
        if below.bail_out is not None:
            why = f"{why}; bailed out: {below.bail_out}".removeprefix("; ")
        said = (*test.diagnostics, *below.said)
        return replace(test, name=test.name or below.name, reason=why, diagnostics=said, subtests=tuple(below.tests))

    def _add(self, level: _Level, test: Test) -> None:
        number = level.last + 1 if test.number is None else test.number
        if test.number is None:
            self._problem(f"the result of {test.name!r} has no number")
        elif number in level.numbers:
            self._problem(f"the number {number} comes twice")
        elif number != level.last + 1:
            self._problem(f"the number {number} comes after {level.last}")
        level.last = number
        level.numbers.add(number)
        level.results += 1
        level.tests.append(replace(test, number=number))

    # A test of `level` that began and has no result.
    def _unfinished(self, level: _Level, name: str, status: Status, subtests: Sequence[Test] = ()) -> None:
        lines = (min([level.since, *(test.lines[0] for test in subtests if test.lines)]), self._line)
        self._cut_off += 1
        level.last += 1
        level.numbers.add(level.last)
        level.results += 1
        level.tests.append(Test(level.last, name, status, "", "", tuple(level.said), tuple(subtests), lines))
        level.said, level.since = [], self._line + 1

    # No result has the name that was announced. Perhaps those that came are what it was about, under other names.
    def _end_running(self, level: _Level, status: Status, *, goes_on: bool) -> None:
        name, inner = level.running, level.inner
        level.running, level.inner = "", []
        if not name:
            return
        follows = bool(inner) and not level.matched and inner[0].number == level.last + 1
        if follows and (goes_on or level.plan == level.results + len(inner)):
            for test in inner:
                self._add(level, test)
        else:
            self._unfinished(level, name, status, inner)

    # Nothing more comes here: what was announced has not ended, what was planned has not come.
    def _settle(self, level: _Level, status: Status) -> None:
        self._end_running(level, status, goes_on=False)
        lacks = level.plan is not None and level.results < level.plan
        if level.label and level.begun:
            self._unfinished(level, level.label, status)
        elif level.hint and lacks:
            self._unfinished(level, level.hint, status)
        level.label = level.hint = ""
        if level.plan is None or level.results == level.plan:
            return
        self._problem(f"the plan was {level.plan}, there are {level.results} results")
        lacking = min(level.plan - level.results, _MISSING_MAX)
        numbers = (number for number in range(1, level.plan + 1) if number not in level.numbers)
        level.tests += [Test(number, "", Status.MISSING) for number in islice(numbers, max(lacking, 0))]

    # `below` ended without a result in the level that is now the top.
    def _abandon(self, below: _Level) -> None:
        if not below.begun:
            below.settle_name()
        self._settle(below, Status.CRASHED)
        above = self._levels[-1]
        above.said += below.said
        if above.running and below.name in ("", above.running):
            name, above.running = above.running, ""
            inner, above.inner = above.inner, []
            self._unfinished(above, name, Status.CRASHED, [*inner, *below.tests])
        elif above.running:
            test = Test(None, below.name, Status.CRASHED, subtests=tuple(below.tests), lines=(below.since, self._line))
            above.inner.append(test)
        elif below.name or (above.plan or 0) > above.results:
            self._unfinished(above, below.name, Status.CRASHED, below.tests)
        else:
            above.tests += below.tests

    # Close the levels deeper than `column`; with `keep` the outermost of them is for the caller, closed no further.
    def _down_to(self, column: int, *, keep: bool = False) -> _Level | None:
        deeper = [level for level in self._levels if level.column > column]
        while len(deeper) > 1 or (deeper and not keep):
            deeper.pop()
            self._abandon(self._levels.pop())
        if deeper and column >= 0:
            self._levels.pop()
        return deeper[0] if deeper else None

    # The level at `column`, a new one unless it is there.
    def _at(self, column: int) -> _Level:
        top = self._levels[-1]
        if top.column < column and len(self._levels) < _DEPTH_MAX:
            name, top.label = (top.label, "") if top.begun else ("", top.label)
            top = _Level(column, self._line, name=name)
            self._levels.append(top)
        return top

    def _problem(self, what: str) -> None:
        self._problems.append(Problem(self._line, what))


def _status(token: Token) -> Status:
    match token.directive:
        case "SKIP":
            return Status.SKIP
        case "XFAIL":
            return Status.XFAIL
        case "TIMEOUT":
            return Status.TIMEOUT
        case "TODO" if not token.ok:
            return Status.TODO
    return Status.PASS if token.ok else Status.FAIL


def totals(tests: Sequence[Test], depth: int = _DEPTH_MAX) -> Totals:
    """The tests of `leaves`, counted."""
    counts = dict.fromkeys(Status, 0)
    for _, test in leaves(tests, depth):
        counts[test.status] += 1
    return Totals(*(counts[status] for status in Status))
