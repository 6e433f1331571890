# SPDX-License-Identifier: Apache-2.0
"""Tests with the fixture `vm`: isolated, the VM's own words beside a failure, nothing left in the end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys

import pytest

from kernloop.host.paths import cache_dir
from kernloop.vm import client
from support import ROOT, alive, until

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.vm

# pytester gives the tests inside it a home of their own; kernels and snapshots lie in this one.
CACHE = cache_dir().parent
CRASH = """vm.exec(["sh", "-c", "echo c > /proc/sysrq-trigger"])"""
WAITING = """
    import pytest

    @pytest.mark.parametrize("number", range(2))
    def test_waits(vm, number):
        vm.exec(["sleep", "600"], timeout=600)
"""


@pytest.fixture(autouse=True)
def the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(CACHE))


def run(pytester: pytest.Pytester, text: str, *words: str) -> pytest.RunResult:
    pytester.makepyfile("import os, pytest\n" + text)
    return pytester.runpytest_subprocess("-p", "no:cacheprovider", *words)


def test_a_test_does_not_see_what_another_left_behind(pytester: pytest.Pytester) -> None:
    each = 'assert vm.exec(["sh", "-c", "test ! -e /root/f && touch /root/f"]).status == 0'
    done = run(pytester, "\n".join(f"def test_{n}(vm): {each}" for n in range(3)))
    done.assert_outcomes(passed=3)
    assert client.listing() == []


def test_markers_choose_machine_and_kernel_the_nearest_first(pytester: pytest.Pytester) -> None:
    done = run(
        pytester,
        """
pytestmark = pytest.mark.vm(cpus=3, append="quiet")

@pytest.mark.vm(cpus="1", memory=256)
def test_machine(vm, kernel):
    assert vm.exec(["nproc"]).stdout == b"1\\n"
    assert b" quiet" in vm.exec(["cat", "/proc/cmdline"]).stdout
    assert vm.info().facts["memory"] == 256
    assert vm.exec(["uname", "-r"]).stdout.decode().strip() == kernel.release

@pytest.mark.vm(seed=3)
def test_virtual_time(vm):
    assert vm.info().facts["seed"] == 3
    assert vm.exec(["sleep", "60"], timeout=30).seconds < 30

@pytest.mark.kernel("sha256:000000")
def test_other_kernel(kernel): pass
""",
        "--kernloop-kernel",
        "debian:newest",
    )
    done.assert_outcomes(passed=2, errors=1)
    done.stdout.fnmatch_lines(["*0 cached kernels have the digest 000000*"])


@pytest.mark.parametrize("words", [(), ("-n", "2")], ids=["alone", "xdist"])
def test_a_failure_carries_the_verdict_the_console_and_the_run(
    pytester: pytest.Pytester, words: tuple[str, ...]
) -> None:
    done = run(
        pytester,
        f"""
def test_fails(vm):
    vm.exec(["sh", "-c", "echo a word on the console > /dev/kmsg"])
    assert False

def test_crashes_and_fails(vm):
    {CRASH}
    assert False

def test_passes(vm): vm.exec(["true"])
""",
        *words,
    )
    done.assert_outcomes(passed=1, failed=2)
    text = done.stdout.str()
    assert re.search(r"kernloop: the VM -+\nrunning: the kernel reported nothing\nrun: \S+-vm-", text)
    assert re.search(r"since the test began -+\n\[[ .\d]+\] a word on the console\n", text)
    assert re.search(r"kernloop: the VM -+\npanic: kernel panic: sysrq triggered crash\nrun: \S+-vm-", text)
    assert re.search(r"console, lines \d+ to \d+ -+\n.*Kernel panic - not syncing: sysrq triggered crash\n", text)


def test_a_kernel_that_crashes_in_a_test_that_passes_fails_it(pytester: pytest.Pytester) -> None:
    done = run(
        pytester,
        f"""
def test_crashes(vm): {CRASH}

@pytest.mark.vm(crash="ok")
def test_may_crash(vm): assert {CRASH}.verdict == "panic"

@pytest.fixture
def late(vm):
    yield vm
    {CRASH}

def test_crashes_after_it_has_passed(late): pass
""",
    )
    done.assert_outcomes(passed=2, failed=1, errors=1)
    done.stdout.fnmatch_lines(["the kernel crashed: kernel panic: sysrq triggered crash", "FAILED *::test_crashes*"])
    done.stdout.fnmatch_lines(["*ERROR at teardown of test_crashes_after_it_has_passed*"])


def test_a_qemu_that_is_killed_is_an_error_with_the_next_step_and_no_failure(pytester: pytest.Pytester) -> None:
    done = run(
        pytester,
        """
def test_asserts(vm):
    os.kill(vm.info().facts["pid"], 9)
    assert vm.exec(["true"]).status == 0

def test_calls(vm):
    os.kill(vm.info().facts["pid"], 9)
    vm.exec(["true"])
    vm.exec(["true"])
""",
        "-n",
        "2",
    )
    done.assert_outcomes(errors=2)
    done.stdout.fnmatch_lines(["lost: QEMU was killed from outside by signal 9", "next: look at who kills*"])


def test_a_kernel_that_does_not_boot_is_told_with_its_console(pytester: pytest.Pytester) -> None:
    done = run(pytester, "@pytest.mark.vm(append='init=/nosuch rdinit=/nosuch')\ndef test_it(vm): pass")
    done.assert_outcomes(errors=1)
    text = done.stdout.str()
    assert "panic: " in text
    assert "Kernel panic - not syncing" in text


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "xdist"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_of_a_test_run_that_is_ended(
    pytester: pytest.Pytester, number: signal.Signals, workers: tuple[str, ...]
) -> None:
    pytester.makepyfile(WAITING)
    words = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *workers]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
    machines = until(lambda: [vm for vm in client.listing() if vm.facts.get("jobs")], 60, "a test that waits in its VM")
    pids = [vm.facts[what] for vm in machines for what in ("pid", "supervisor")]
    if number is signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does
    else:
        process.kill()
    process.communicate(timeout=60)
    until(lambda: not client.listing(), 30, "all VMs are gone")
    until(lambda: not any(alive(pid) for pid in pids), 10, f"their processes {pids} are gone")


def test_the_example_of_the_readme_passes(pytester: pytest.Pytester) -> None:
    [example] = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.M | re.S)
    assert len(example.splitlines()) <= 12
    pytester.makepyfile(example)
    done = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-n", "2")
    done.assert_outcomes(passed=example.count("def test_"))
