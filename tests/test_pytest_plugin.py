# SPDX-License-Identifier: Apache-2.0
"""The pytest plugin where no guest is needed: what loading it costs, and which tests it takes for tests with guests."""

from __future__ import annotations

import sys

import pytest

pytest_plugins = ["pytester"]

SUITE = """
    import pytest

    def test_plain(): pass
    def test_boots(vm): pass
    @pytest.mark.vm
    def test_marked(): pass
    @pytest.mark.kernel("debian:7.2")
    def test_another_kernel(vm): pass
"""


def test_every_test_with_the_fixture_vm_is_left_out_by_not_vm(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(SUITE)
    done = pytester.runpytest_subprocess("-m", "not vm", "--strict-markers", "-v")
    done.assert_outcomes(passed=1, deselected=3)
    done.stdout.fnmatch_lines(["*::test_plain PASSED*"])


def test_loading_the_plugin_imports_nothing_that_a_run_without_guests_does_not_use(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        import sys

        def pytest_unconfigure():
            print("ours:", sorted(name for name in sys.modules if name.startswith("kernloop")))
        """
    )
    pytester.makepyfile("def test_plain(): pass")
    done = pytester.run(sys.executable, "-m", "pytest", "-p", "no:cacheprovider")
    done.stdout.fnmatch_lines(["ours: [[]'kernloop', 'kernloop.errors', 'kernloop.pytest_plugin']"])


@pytest.mark.parametrize(
    ("marker", "said"),
    [
        ("vm(cpu=3)", "the marker vm does not know 'cpu'"),
        ("vm(3)", "the marker vm does not know '3'"),
        ("vm(crash='never')", "the marker vm does not know crash='never'"),
        ("kernel()", "the marker kernel takes one reference"),
        ("kernel('nosuch')", "'nosuch' is no kernel reference"),
    ],
)
def test_a_marker_that_makes_no_sense_is_an_error_that_says_what_does(
    pytester: pytest.Pytester, marker: str, said: str
) -> None:
    pytester.makepyfile(f"import pytest\n@pytest.mark.{marker}\ndef test_it(vm): pass")
    done = pytester.runpytest_subprocess()
    done.assert_outcomes(errors=1)
    done.stdout.fnmatch_lines([said, "*kernloop: next step*"])
    assert "Traceback" not in done.stdout.str()
    assert "client.py" not in done.stdout.str()


def test_the_markers_and_fixtures_are_documented(pytester: pytest.Pytester) -> None:
    pytester.runpytest_subprocess("--markers").stdout.fnmatch_lines(
        ["@pytest.mark.kernel(ref): *", "@pytest.mark.vm(*"]
    )
    shown = pytester.runpytest_subprocess("--fixtures").stdout
    shown.fnmatch_lines(["kernel -- *", "vm -- *"])
