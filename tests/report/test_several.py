# SPDX-License-Identifier: Apache-2.0
"""Several reports in one log: which is the cause, and what only follows; and a console that still grows."""

from __future__ import annotations

import json
import threading
from pathlib import Path

from typer.testing import CliRunner

from crashes import STACK, TRAP
from kernloop.cli.main import app
from kernloop.report.causes import Cause, causes
from kernloop.report.engine import parse_console
from kernloop.report.follow import follow

FIXTURES = Path(__file__).parent.parent / "fixtures"
BUG = [
    f"[    7.000001] {text}" for text in ("kernel BUG at lib/kl.c:7!", *TRAP, "---[ end trace 0000000000000000 ]---")
]
HUNG = [f"[  130.000001] {text}" for text in ("INFO: task kl:42 blocked for more than 120 seconds.", *STACK)]
DIED = [
    f"[    9.000001] {text.replace('kl_guilty', 'kl_victim').replace('Tainted: G        W', 'Tainted: G      D W')}"
    for text in ("kernel BUG at lib/kl.c:9!", *TRAP)
]
QUIET = [f"[    8.{number:06}] usb 1-1: new device" for number in range(80)]


def test_a_hang_behind_an_oops_follows_from_it() -> None:
    assert [c and c.report for c in causes(parse_console([*BUG, *QUIET, *HUNG]))] == [None, 0]


def test_an_oops_of_a_kernel_that_had_oopsed_follows_from_the_first() -> None:
    found = causes(parse_console([*BUG, *QUIET, *DIED]))
    assert found[1] == Cause(0, "the kernel had oopsed before, says its taint D")


def test_the_same_report_again_is_told_as_such() -> None:
    assert causes(parse_console([*BUG, *QUIET, *BUG]))[1] == Cause(0, "the same once more")


def test_two_warnings_stand_for_themselves() -> None:
    warn = ["[    1.0] WARNING: CPU: 1 PID: 42 at lib/kl.c:7 kl_guilty+0x12/0x40", *(f"[    1.0] {t}" for t in TRAP)]
    other = [line.replace("kl_guilty", "kl_other") for line in warn]
    assert causes(parse_console([*warn, *QUIET, *other])) == (None, None)


def test_all_reports_say_what_they_follow_from() -> None:
    result = CliRunner().invoke(app, ["report", "-", "--all", "--json"], input="\n".join([*BUG, *QUIET, *HUNG]))
    assert [found["cause"] and found["cause"]["report"] for found in json.loads(result.stdout)["reports"]] == [None, 0]


def test_a_growing_console_gives_each_report_when_it_is_complete(tmp_path: Path) -> None:
    log, first = tmp_path / "console.log", threading.Event()
    log.write_text("\n".join(BUG) + "\n")
    over = threading.Event()

    def write() -> None:
        assert first.wait(30)
        with log.open("a") as file:
            file.write("\n".join([*QUIET, *HUNG]))
        over.set()

    writer = threading.Thread(target=write)
    writer.start()
    found = []
    for crash in follow(log, over.is_set, 60):
        found.append(crash.kind)
        first.set()
    writer.join()
    assert found == ["kernel-bug", "hung-task"]


def test_watching_a_file_ends_by_its_deadline(tmp_path: Path) -> None:
    log = tmp_path / "console.log"
    log.write_text("\n".join(BUG) + "\n")
    result = CliRunner().invoke(app, ["report", str(log), "--follow", "--timeout", "0.1", "--json"])
    assert (result.exit_code, json.loads(result.stdout)["kind"]) == (1, "kernel-bug")


def test_a_scheduler_that_was_thrown_out_has_message_cause_and_cure() -> None:
    result = CliRunner().invoke(app, ["report", str(FIXTURES / "console/qmap-stall-6.12.117.console.log"), "--json"])
    found = json.loads(result.stdout)
    assert (found["kind"], found["scx"]["id"], found["scx"]["reason"]) == ("sched-ext", "stall", "runnable task stall")
    assert found["scx"]["cause"]
    assert found["scx"]["cure"]


def test_a_loaders_output_alone_is_a_report_with_the_dump() -> None:
    result = CliRunner().invoke(app, ["report", str(FIXTURES / "scx/qmap-stall-7.3.4.log"), "--json"])
    found = json.loads(result.stdout)["scx"]
    assert (found["kind"], found["kind_name"]) == (1026, "SCX_EXIT_ERROR_STALL")
    assert [cpu["cpu"] for cpu in found["dump"]["cpus"]]
    assert dict(found["dump"]["events"])["SCX_EV_DISPATCH_KEEP_LAST"] == 162
    assert found["placement"]
