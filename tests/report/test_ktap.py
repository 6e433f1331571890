# SPDX-License-Identifier: Apache-2.0
"""KTAP and TAP as kernels and selftests write them, whole or cut off: who passed, and which test ran when it ended."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernloop.report import ktap
from kernloop.report.ktap import Report, Status, leaves, parse, totals

FIXTURES = Path(__file__).parent.parent / "fixtures/ktap"


def of(text: str) -> Report:
    return parse(text.strip("\n").split("\n"))


def shape(tests: tuple[ktap.Test, ...]) -> list[object]:
    """Names and statuses, nested as the tests are."""
    return [
        (test.name, test.status.value, shape(test.subtests)) if test.subtests else (test.name, test.status.value)
        for test in tests
    ]


def fixture(name: str) -> list[str]:
    return (FIXTURES / name).read_text(errors="replace").split("\n")


@pytest.mark.parametrize("version", ["KTAP version 1", "TAP version 13", "TAP version 14"])
def test_results_have_numbers_names_and_what_stands_behind_the_hash(version: str) -> None:
    report = of(f"""
{version}
1..7
ok 1 plain
not ok 2 - with a dash # exit=3
ok 3 away # SKIP no such device
not ok 4 known # TODO one day
ok 5 hopeless # XFAIL as ever
not ok 6 slow # TIMEOUT 45 seconds
not ok 7 broken # ERROR out of memory
""")
    assert [(t.number, t.name, t.status.value, t.directive, t.reason) for t in report.tests] == [
        (1, "plain", "pass", "", ""),
        (2, "with a dash", "fail", "", "exit=3"),
        (3, "away", "skip", "SKIP", "no such device"),
        (4, "known", "todo", "TODO", "one day"),
        (5, "hopeless", "xfail", "XFAIL", "as ever"),
        (6, "slow", "timeout", "TIMEOUT", "45 seconds"),
        (7, "broken", "fail", "ERROR", "out of memory"),
    ]
    assert (report.problems, report.running, report.plan) == ((), (), 7)
    assert (report.totals.passed, report.totals.failed, report.totals.all) == (1, 2, 7)


def test_a_skip_is_a_skip_whether_ok_or_not_and_never_a_pass() -> None:
    report = of("TAP version 13\n1..3\nok 1 a # skip\nnot ok 2 b # SKIP: no root\nok 3 # SKIP needs a device")
    assert [test.status for test in report.tests] == [Status.SKIP] * 3
    assert (report.totals.passed, report.totals.skipped) == (0, 3)
    assert report.tests[2].name == "needs a device"


def test_a_hash_within_a_word_belongs_to_the_name() -> None:
    report = of("TAP version 13\n1..3\nok 1 a#b\nok 2 c\\#d # SKIP x\nok 3 C # minor # SKIP")
    assert [test.name for test in report.tests] == ["a#b", "c#d", "C"]


@pytest.mark.parametrize("indent", ["  ", "    ", "\t", " " * 7])
def test_subtests_nest_by_any_indentation(indent: str) -> None:
    deeper = indent * 2
    report = of(f"""
KTAP version 1
1..2
{indent}KTAP version 1
{indent}1..2
{deeper}KTAP version 1
{deeper}1..2
{deeper}not ok 1 leaf a
{deeper}ok 2 leaf b
{indent}not ok 1 branch
{indent}ok 2 twig # SKIP
not ok 1 tree
ok 2 stone
""")
    inner = [("branch", "fail", [("leaf a", "fail"), ("leaf b", "pass")]), ("twig", "skip")]
    assert shape(report.tests) == [("tree", "fail", inner), ("stone", "pass")]
    assert report.problems == ()
    paths = ["/".join(path) for path, _ in leaves(report.tests)]
    assert paths == ["tree/branch/leaf a", "tree/branch/leaf b", "tree/twig", "stone"]


def test_kunit_names_its_suites_and_parameterised_cases_on_a_console() -> None:
    report = of("""
[    0.912345] KTAP version 1
[    0.912400] 1..2
[    0.913000]     KTAP version 1
[    0.913100]     # Subtest: lists
[    0.913200]     # module: lists_test
[    0.913300]     1..3
[    0.914000]     ok 1 add
[    0.914050] usb 1-1: a device, in the middle of it all
[    0.914100]         KTAP version 1
[    0.914200]         # Subtest: sizes
[    0.914300]         ok 1 one
[    0.914400]         ok 2 two # SKIP too large
[    0.914500]     # sizes: pass:1 fail:0 skip:1 total:2
[    0.914600]     ok 2 sizes
[    0.914700]     # remove: EXPECTATION FAILED at lib/lists_test.c:40
[    0.914800]     Expected a == b, but
[    0.914900]     not ok 3 remove
[    0.915000] # lists: pass:2 fail:1 skip:0 total:3
[    0.915100] # Totals: pass:2 fail:1 skip:1 total:4
[    0.915200] not ok 1 lists
[    0.916000]     KTAP version 1
[    0.916100]     # Subtest: empty
[    0.916200]     1..0
[    0.916300] ok 2 empty # SKIP
""")
    cases = [("add", "pass"), ("sizes", "pass", [("one", "pass"), ("two", "skip")]), ("remove", "fail")]
    assert shape(report.tests) == [("lists", "fail", cases), ("empty", "skip")]
    assert report.problems == ()
    remove = report.tests[0].subtests[2]
    assert remove.diagnostics[0].strip() == "# remove: EXPECTATION FAILED at lib/lists_test.c:40"
    assert remove.lines == (15, 17)
    assert "usb 1-1: a device, in the middle of it all" in report.tests[0].subtests[1].diagnostics


def test_a_subtest_line_before_deeper_lines_names_them_as_tap14_has_it() -> None:
    report = of("""
TAP version 14
1..2
# Subtest: foo
    1..2
    ok 1 - a
    ok 2 - b
ok 1 - foo
# Subtest: bar
ok 2 - bar
""")
    assert shape(report.tests) == [("foo", "pass", [("a", "pass"), ("b", "pass")]), ("bar", "pass")]
    assert report.problems == ()


def test_kselftest_nests_what_a_program_says_behind_hashes() -> None:
    report = of("""
TAP version 13
1..4
# timeout set to 45
# selftests: a: first
# TAP version 13
# 1..2
# # Starting 2 tests from 1 test cases.
# #  RUN           global.one ...
# #            OK  global.one
# ok 1 global.one
# #  RUN           global.two ...
# # x.c:12:two:Expected 1 (1) == 2 (2)
# #          FAIL  global.two
# not ok 2 global.two
# # FAILED: 1 / 2 tests passed.
# # Totals: pass:1 fail:1 xfail:0 xpass:0 skip:0 error:0
not ok 1 selftests: a: first # exit=1
# selftests: a: second.sh
# nothing of note
ok 2 selftests: a: second.sh
# selftests: a: third
# 1..0 # SKIP no root
ok 3 selftests: a: third # SKIP
# selftests: a: fourth
# Bail out! no memory
not ok 4 selftests: a: fourth # exit=1
""")
    assert shape(report.tests) == [
        ("selftests: a: first", "fail", [("global.one", "pass"), ("global.two", "fail")]),
        ("selftests: a: second.sh", "pass"),
        ("selftests: a: third", "skip"),
        ("selftests: a: fourth", "fail"),
    ]
    assert report.problems == ()
    assert "x.c:12" in "".join(report.tests[0].subtests[1].diagnostics)
    assert report.tests[2].reason == "no root"
    assert report.tests[3].reason == "exit=1; bailed out: no memory"


def test_results_behind_hashes_are_talk_where_no_selftest_runs() -> None:
    report = of("TAP version 13\n1..1\n# ok 2 is what it should say\n# 1..9\nok 1 a")
    assert shape(report.tests) == [("a", "pass")]
    assert len(report.tests[0].diagnostics) == 2


def test_a_result_glued_to_other_output_counts_and_so_does_one_with_a_message_behind_it() -> None:
    report = of("""
TAP version 13
1..3
ok 1 a[   12.345678] usb 1-1: hello
writing 3 blocks... ok 2 b
it was ok 7 times
done!ok 3 c
""")
    assert shape(report.tests) == [("a", "pass"), ("b", "pass"), ("c", "pass")]
    assert report.tests[1].diagnostics == ("writing 3 blocks...",)


def test_words_that_look_like_results_are_none() -> None:
    report = of("TAP version 13\n1..1\nok\nokay 1\nok, go on\n not okay\nit was ok 5 times\nok 1 a")
    assert shape(report.tests) == [("a", "pass")]
    assert report.problems == ()


def test_a_stream_that_stops_in_the_middle_names_the_test_that_was_announced() -> None:
    lines = [f"ok {n} t{n}" for n in range(1, 8)]
    report = of(
        "\n".join(["TAP version 13", "1..12", *lines, "# Starting t8", "[   50.123456] BUG: kernel NULL pointer"])
    )
    assert report.running == ("t8",)
    assert (report.totals.passed, report.totals.crashed, report.totals.missing) == (7, 1, 4)
    assert report.tests[7].name == "t8"
    assert report.tests[7].diagnostics[-1].startswith("BUG:")
    assert [one.what for one in report.problems] == ["the plan was 12, there are 8 results"]


def test_a_stream_that_stops_between_tests_names_none_and_counts_those_that_are_missing() -> None:
    report = of("TAP version 13\n1..4\nok 1 a\nok 2 b")
    assert report.running == ()
    assert [(test.number, test.status.value) for test in report.tests[2:]] == [(3, "missing"), (4, "missing")]


def test_a_panic_in_a_kunit_case_names_suite_and_case() -> None:
    report = of("""
KTAP version 1
1..2
    KTAP version 1
    # Subtest: good
    1..1
    ok 1 case
ok 1 good
    KTAP version 1
    # Subtest: evil
    1..3
    ok 1 harmless
    # crash: about to write
BUG: kernel NULL pointer dereference, address: 0
Kernel panic - not syncing: Fatal exception
""")
    assert report.running == ("evil", "crash")
    evil = report.tests[1]
    assert (evil.name, evil.status) == ("evil", Status.CRASHED)
    assert shape(evil.subtests) == [("harmless", "pass"), ("crash", "crashed"), ("", "missing")]


def test_a_panic_right_behind_a_subtest_line_names_it() -> None:
    for end in ("", "    1..2\n"):
        report = of(f"KTAP version 1\n1..1\n    KTAP version 1\n    # Subtest: evil\n{end}Oops: 0002")
        assert report.running == ("evil",), end
        assert report.tests[0].status is Status.CRASHED


def test_a_panic_in_a_selftest_names_program_and_test() -> None:
    report = of("""
TAP version 13
1..2
# selftests: a: first
# TAP version 13
# 1..2
# #  RUN           global.one ...
# ok 1 global.one
# #  RUN           global.two ...
""")
    assert report.running == ("selftests: a: first", "global.two")
    first = report.tests[0]
    assert shape((first,)) == [("selftests: a: first", "crashed", [("global.one", "pass"), ("global.two", "crashed")])]
    assert report.tests[1].status is Status.MISSING


def test_the_test_that_ran_when_its_program_timed_out_timed_out() -> None:
    report = of("""
TAP version 13
1..1
# selftests: a: first
# TAP version 13
# 1..3
# #  RUN           global.one ...
# ok 1 global.one
# #  RUN           global.two ...
not ok 1 selftests: a: first # TIMEOUT 45 seconds
""")
    assert shape(report.tests[0].subtests) == [("global.one", "pass"), ("global.two", "timeout"), ("", "missing")]


def test_a_program_that_ends_without_a_result_leaves_a_crashed_test_and_the_next_goes_on() -> None:
    report = of("""
TAP version 13
1..2
# selftests: a: first
# ok 1 one
# selftests: a: second
ok 2 selftests: a: second
""")
    assert shape(report.tests) == [
        ("selftests: a: first", "crashed", [("one", "pass")]),
        ("selftests: a: second", "pass"),
    ]


def test_numbers_that_come_twice_or_out_of_order_are_problems_with_their_lines() -> None:
    report = of("TAP version 13\n1..4\nok 1 a\nok 1 b\nok 4 c\nok 3 d")
    assert [(one.line, one.what) for one in report.problems] == [
        (4, "the number 1 comes twice"),
        (5, "the number 4 comes after 1"),
        (6, "the number 3 comes after 4"),
    ]
    assert report.totals.passed == 4


@pytest.mark.parametrize(
    ("text", "plan", "problems"),
    [
        ("ok 1 a\nok 2 b\n1..2", 2, 0),
        ("ok 1 a\nok 2 b", None, 0),
        ("1..1\nok 1 a\nok 2 b", 1, 1),
        ("1..2\n1..3\nok 1 a\nok 2 b\nok 3 c", 3, 1),
    ],
)
def test_plans_may_come_last_or_not_at_all_and_wrong_ones_are_told(text: str, plan: int | None, problems: int) -> None:
    report = of("TAP version 13\n" + text)
    assert (report.plan, len(report.problems)) == (plan, problems)
    assert report.totals.missing == 0


def test_a_plan_of_a_billion_does_not_fill_the_memory() -> None:
    report = of("TAP version 13\n1..999999999\nok 1 a")
    assert 1 < len(report.tests) < 2000


def test_a_stream_that_is_skipped_or_gives_up_as_a_whole_says_why() -> None:
    assert of("TAP version 13\n1..0 # SKIP no such hardware").skipped == "no such hardware"
    gave_up = of("TAP version 13\n1..3\nok 1 a\nBail out! no memory")
    assert gave_up.bail_out == "no memory"
    assert gave_up.totals.missing == 2


def test_several_streams_after_one_another_are_one_list() -> None:
    report = of("TAP version 13\n1..1\nok 1 a\nTAP version 13\n1..2\nok 1 b\nok 2 c")
    assert [test.name for test in report.tests] == ["a", "b", "c"]
    assert (report.plan, report.problems) == (3, ())


def test_kunit_modules_loaded_one_by_one_have_no_head_of_their_own() -> None:
    def module(name: str, number: int) -> str:
        return f"    KTAP version 1\n    # Subtest: {name}\n    1..1\n    ok 1 case\nok {number} {name}\n"

    report = of(module("a", 1) + module("b", 2))
    assert shape(report.tests) == [("a", "pass", [("case", "pass")]), ("b", "pass", [("case", "pass")])]
    assert (report.problems, report.running) == ((), ())


def test_a_failure_of_a_parent_whose_subtests_are_fine_counts_by_itself() -> None:
    report = of("TAP version 13\n1..1\n  1..1\n  ok 1 a\nnot ok 1 b")
    assert ["/".join(path) for path, _ in leaves(report.tests)] == ["b/a", "b"]
    assert (report.totals.passed, report.totals.failed) == (1, 1)
    assert totals(report.tests, 1).all == 1


def test_sched_exts_runner_names_its_tests_and_keeps_their_own_results_apart() -> None:
    report = parse(fixture("sched_ext-7.3.4.log"))
    [runner] = report.tests
    assert (runner.name, runner.status) == ("selftests: sched_ext: runner", Status.PASS)
    counted = totals(report.tests, 2)
    assert (counted.passed, counted.skipped, counted.all) == (31, 2, 33)
    [stall] = [test for test in runner.subtests if test.name == "rt_stall"]
    assert stall.status is Status.PASS
    assert len(stall.subtests) == 4
    assert report.problems == ()


def test_sched_exts_runner_cut_off_anywhere_names_the_test_that_was_announced_last() -> None:
    lines = fixture("sched_ext-7.3.4.log")
    running = ""
    for number, line in enumerate(lines[:-2], 1):
        if line.startswith("# TEST: "):
            running = line.removeprefix("# TEST: ")
        elif re.match(rf"# ok \d+ {running} ", line):
            running = ""
        if running and number % 5 == 0:
            report = parse(lines[:number])
            assert report.running[-1] == running, number
            assert report.tests[0].subtests[-1].name == running


LINES = (
    """
TAP version 13|KTAP version 1|  KTAP version 1|    # Subtest: s|# Subtest: t|1..3|  1..2|1..0 # SKIP|ok 1 a
not ok 2 b # exit=1|  ok 1 c|    not ok 1 d # TIMEOUT 4|ok 1 s|# selftests: x: y|# ok 1 z
# TAP version 13|# 1..2|# #  RUN           g.h ...
# ok 2 g.h|ok 1 selftests: x: y|TEST: q|# TEST: q|ok 9 q|Bail out! why|    # d: said|words||moreok 2 b
ok - none|\tok 1 tab|#|# # # ok 3 x|# Starting b|        ok 1 deep|    1..1|ok 3 t
""".strip("\n")
    .replace("\n", "|")
    .split("|")
)


@given(st.lists(st.sampled_from(LINES), max_size=60))
def test_no_mixture_of_lines_raises_and_every_result_is_in_the_tree(lines: list[str]) -> None:
    report = parse(lines)
    assert report.totals.all >= 0
    assert sum(1 for _ in leaves(report.tests)) == report.totals.all


@given(st.lists(st.text(max_size=40), max_size=30))
def test_no_text_raises(lines: list[str]) -> None:
    parse(lines)


@given(st.integers(0, 1000))
def test_a_stream_cut_in_the_middle_of_a_line_does_not_raise(at: int) -> None:
    text = "\n".join(fixture("sched_ext-7.3.4.log"))
    parse(text[: at * len(text) // 1000].split("\n"))


def test_a_recorded_kunit_console_agrees_with_kunits_own_sums() -> None:
    lines = fixture("kunit-6.12.107.log")
    report = parse(lines)
    assert report.problems == ()
    assert (report.totals.passed, report.totals.skipped, report.totals.all) == (69, 5, 74)
    # kunit_print_suite_stats() of lib/kunit/test.c, for suites with more than one case.
    sums = [re.search(r"\] # Totals: pass:(\d+) fail:(\d+) skip:(\d+) total:(\d+)", line) for line in lines]
    told = [tuple(map(int, found.groups())) for found in sums if found]
    counted = [totals((test,)) for test in report.tests]
    ours = [(one.passed, one.failed, one.skipped, one.all) for one in counted]
    assert len(told) > 5
    assert [one for one in ours if one in told] == [one for one in ours if one[3] > 1]


def test_a_recorded_kunit_console_cut_off_anywhere_keeps_what_came_before() -> None:
    lines = fixture("kunit-6.12.107.log")
    for number in range(0, len(lines), 9):
        report = parse(lines[:number])
        seen = sum(1 for line in lines[:number] if re.search(r"\] +ok \d+ ", line) and "# SKIP" not in line)
        assert report.totals.passed <= seen
        assert report.totals.failed == 0
