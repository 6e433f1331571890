# SPDX-License-Identifier: Apache-2.0
"""Host processes: what they said comes back apart, and what went wrong is said in one line that can be pasted."""

from __future__ import annotations

import os
import random
import subprocess
import time
from pathlib import Path

import pytest

from kernloop.errors import HarnessError
from kernloop.host import process
from support import alive, child, processes_naming, said, until


def test_output_is_kept_apart_and_the_status_returned() -> None:
    done = process.run(["sh", "-c", "echo out; echo err >&2; exit 3"], seconds=10, what="talking", check=False)
    assert (done.status, done.stdout, done.stderr) == (3, "out\n", "err\n")


def test_a_failure_says_what_failed_how_and_the_command_to_paste() -> None:
    with pytest.raises(HarnessError) as caught:
        process.run(["sh", "-c", "echo 'the reason' >&2; exit 4"], seconds=10, what="making tea")
    assert caught.value.message == "making tea failed (exit 4): the reason"
    assert caught.value.hint == "it was: sh -c 'echo '\"'\"'the reason'\"'\"' >&2; exit 4'"


def test_a_failure_without_a_word_is_said_to_be_silent() -> None:
    with pytest.raises(HarnessError, match="it printed nothing"):
        process.run(["false"], seconds=10, what="failing")


def test_only_the_end_of_a_long_failure_is_shown() -> None:
    with pytest.raises(HarnessError) as caught:
        process.run(["sh", "-c", "seq 1 1000 >&2; exit 1"], seconds=10, what="counting")
    assert caught.value.message.endswith("996 | 997 | 998 | 999 | 1000")


def test_a_missing_program_is_named_with_where_to_get_it() -> None:
    with pytest.raises(HarnessError, match="no-such-tool is not installed") as caught:
        process.run(["no-such-tool"], seconds=10, what="trying")
    assert "doctor" in caught.value.hint


def test_a_missing_folder_is_named() -> None:
    with pytest.raises(HarnessError, match="/no/such/folder"):
        process.run(["true"], seconds=10, what="trying", cwd=Path("/no/such/folder"))


def test_the_deadline_ends_the_whole_group(tmp_path: Path) -> None:
    began = time.monotonic()
    # Time for a shell to start, also where it waits for a CPU.
    with pytest.raises(HarnessError, match=r"waiting: not done after 2 s"):
        process.run(["sh", "-c", f"sleep 600 & echo $! > {tmp_path}/pid; wait"], seconds=2, what="waiting")
    assert time.monotonic() - began < 20
    pid = int((tmp_path / "pid").read_text())
    until(lambda: not alive(pid), 3, "the grandchild has ended")


def test_a_full_disk_is_called_so() -> None:
    with pytest.raises(HarnessError, match="writing: the disk is full") as caught:
        process.run(["sh", "-c", "echo 'x: No space left on device' >&2; exit 1"], seconds=10, what="writing")
    assert "free some space" in caught.value.hint


def test_variables_are_added_to_ours() -> None:
    done = process.run(["sh", "-c", 'echo "$ADDED ${PATH:+path}"'], seconds=10, what="asking", env={"ADDED": "yes"})
    assert done.stdout == "yes path\n"


def test_nothing_is_read_from_our_stdin() -> None:
    assert process.run(["cat"], seconds=10, what="reading").stdout == ""


def test_output_that_is_no_utf8_does_not_break_the_call() -> None:
    assert process.run(["printf", r"\377ok"], seconds=10, what="printing").stdout == "\ufffdok"


def test_a_process_that_ignores_sigterm_is_killed_after_its_grace() -> None:
    started = process.spawn(["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1; done"], stdout=subprocess.PIPE)
    assert started.stdout is not None
    assert started.stdout.readline() == b"ready\n"
    process.end_group(started, grace=0.2)
    assert started.returncode == -9
    started.stdout.close()


def test_a_process_that_ends_by_sigterm_is_not_killed() -> None:
    started = process.spawn(["sh", "-c", "trap 'exit 5' TERM; echo ready; sleep 600 & wait"], stdout=subprocess.PIPE)
    assert started.stdout is not None
    assert started.stdout.readline() == b"ready\n"
    process.end_group(started, grace=5)
    assert started.returncode == 5
    started.stdout.close()


def test_a_process_has_a_session_of_its_own() -> None:
    started = process.spawn(["sleep", "600"])
    try:
        assert os.getsid(started.pid) == os.getpgid(started.pid) == started.pid
    finally:
        process.end_group(started)


STARTS = """
import sys
from kernloop.host import process
print("now", flush=True)
process.spawn(["sleep", "60", sys.argv[1]])
sys.stdin.read()
"""


def test_a_child_does_not_outlive_who_is_killed_the_moment_it_starts() -> None:
    """With the signal alone 31 of 100 did: their parent was dead before they had asked for it."""
    marker = f"0.00{random.getrandbits(64)}"
    for _ in range(20):
        with child(STARTS, marker) as starts:
            said(starts)
            time.sleep(random.uniform(0, 0.004))
            starts.kill()
    until(lambda: not processes_naming(marker), 20, "no child is left")
