# SPDX-License-Identifier: Apache-2.0
"""Every part killed at every stage: a typed verdict, the evidence kept, nothing left behind."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kernloop.host.paths import cache_dir
from support import alive, events_of, processes_naming, runs_dir, start, the_run, until, verdict_of

pytestmark = pytest.mark.vm

# A command that says when it runs, then never ends by itself.
COMMAND = ("sh", "-c", "echo running; sleep 600")
CLEANED = 20.0


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    """A `kernloop run` under way."""
    started = start("run", "--timeout", "120", "--", *COMMAND)
    yield started
    if started.poll() is None:
        os.killpg(started.pid, signal.SIGKILL)
    started.communicate()


def happened(event: str) -> Callable[[], bool]:
    def condition() -> bool:
        run = the_run()
        return run is not None and any(entry["event"] == event for entry in events_of(run))

    return condition


def command_runs() -> bool:
    run = the_run()
    return run is not None and (run / "stdout").exists() and b"running" in (run / "stdout").read_bytes()


STAGES: dict[str, Callable[[], bool]] = {
    "run directory made": happened("start"),
    "restore begun": happened("restore"),
    "QEMU just started": happened("qemu-started"),
    "guest up": happened("guest-up"),
    "command running": command_runs,
}
QEMU_STAGES = [name for name in STAGES if name not in ("run directory made", "restore begun")]


def reach(stage: str) -> Path:
    until(STAGES[stage], 60, stage)
    run = the_run()
    assert run is not None
    return run


def qemu_of(run: Path) -> int:
    return [int(entry["pid"]) for entry in events_of(run) if entry["event"] == "qemu-started"][-1]


def check_nothing_left(run: Path) -> None:
    """No process, socket, staging folder or temporary folder of this run."""
    until(lambda: not processes_naming(run), CLEANED, f"processes of {run.name} gone")
    pids = [int(entry["pid"]) for entry in events_of(run) if "pid" in entry]
    until(lambda: not any(alive(pid) for pid in pids), CLEANED, f"processes {pids} gone")
    if not (run / "recipe.json").exists():  # in virtual time it is kept, to repeat the run
        until(lambda: not (run / "payload").exists(), CLEANED, "the guest's payload removed")
    # The keeper may be at it when the verdict is there and the processes are gone.
    until(lambda: not left(run, pids), CLEANED, "no socket, staging or temporary folder")


def left(run: Path, pids: list[int]) -> list[Path]:
    # Other tests beside these stage as well: the name has the pid of who does it.
    staged = [path for pid in pids for path in cache_dir().glob(f"*/.*.{pid}.*")]
    return [*filter(Path.is_socket, run.rglob("*")), *staged, *Path(tempfile.gettempdir()).glob("kernloop-*")]


@pytest.mark.parametrize("stage", QEMU_STAGES)
def test_qemu_killed_is_our_fault_with_a_hint_and_exit_125(stage: str, process: subprocess.Popen[bytes]) -> None:
    run = reach(stage)
    os.kill(qemu_of(run), signal.SIGKILL)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 125
    assert b"next:" in err
    assert b"Traceback" not in err
    verdict = verdict_of(run)
    assert verdict["verdict"] in ("lost", "infra")
    assert verdict["exit_code"] == 125
    if verdict["verdict"] == "lost":
        assert "signal 9" in verdict["summary"]
    check_nothing_left(run)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("stage", list(STAGES))
def test_kernloop_killed_leaves_nothing_and_the_run_says_what_it_did_last(
    stage: str, number: signal.Signals, process: subprocess.Popen[bytes]
) -> None:
    run = reach(stage)
    process.send_signal(number)
    _, err = process.communicate(timeout=20)
    assert process.returncode in (-number, 125)
    assert b"Traceback" not in err
    until(lambda: verdict_of(run)["verdict"] == "infra", CLEANED, "the run's verdict is infra")
    verdict = verdict_of(run)
    assert "killed" in verdict["summary"] or "interrupted" in verdict["summary"]
    assert verdict["next"]
    check_nothing_left(run)


@pytest.mark.parametrize("seed", range(8))
def test_kernloop_killed_at_any_moment_leaves_nothing(seed: int, process: subprocess.Popen[bytes]) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=random.Random(seed).uniform(0.1, 6))
    process.kill()
    process.communicate(timeout=20)
    run = the_run()
    if run is None:
        assert not processes_naming(runs_dir())
        return
    if events_of(run):
        until(lambda: verdict_of(run)["verdict"] == "infra", CLEANED, "the run's verdict is infra")
    check_nothing_left(run)


def test_qemu_frozen_from_outside_ends_by_the_deadline_as_a_hang_that_does_not_answer() -> None:
    started = start("run", "--json", "--timeout", "8", "--", *COMMAND)
    run = reach("command running")
    os.kill(qemu_of(run), signal.SIGSTOP)
    started.communicate(timeout=90)
    verdict = verdict_of(run)
    assert (started.returncode, verdict["verdict"]) == (124, "hang")
    assert "does not answer" in verdict["summary"]
    check_nothing_left(run)


def test_the_next_run_after_a_kill_works(process: subprocess.Popen[bytes]) -> None:
    reach("guest up")
    process.kill()
    process.communicate()
    again = start("run", "--", "echo", "fine")
    out, _ = again.communicate(timeout=60)
    assert (again.returncode, out) == (0, b"fine\n")


def test_the_group_of_a_killed_verify_goes_as_well() -> None:
    scheduler = Path(__file__).parents[2] / "examples/schedulers/fifo.bpf.c"
    process = start("verify", scheduler)
    until(happened("guest-up"), 90, "the guest is up")
    run = the_run()
    assert run is not None
    process.kill()
    process.communicate()
    until(lambda: verdict_of(run)["verdict"] == "infra", CLEANED, "the run's verdict is infra")
    check_nothing_left(run)
    assert (run / "console.log").stat().st_size > 1000
