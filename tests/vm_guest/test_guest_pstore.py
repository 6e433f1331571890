# SPDX-License-Identifier: Apache-2.0
"""What a kernel keeps in pstore when it crashes: found where the console is silent, and once where it is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import trees
from kernloop.vm import client
from support import kernloop, the_run, verdict_of
from vms import sh, started

pytestmark = pytest.mark.vm

QUIET = "echo 0 > /proc/sys/kernel/printk; "
PANIC = "echo c > /proc/sysrq-trigger"
RAMOOPS = [
    "reserve_mem=1M:4096:oops",
    "ramoops.mem_name=oops",
    *(f"ramoops.{zone}_size=0x8000" for zone in ("record", "console", "pmsg")),
    "ramoops.ecc=1",
]


def crash(name: str) -> str:
    return f"(echo {name} > /sys/kernel/debug/provoke-crash/DIRECT); "


def run(*words: str, kernel: str = "") -> dict[str, Any]:
    chosen = ["--kernel", kernel] if kernel else []
    done = kernloop("run", *chosen, "--json", *words)
    assert done.status in (120, 125), done
    return done.json


def tree() -> str:
    return trees.kernel().ref


def records(run: str = "last") -> list[dict[str, Any]]:
    done = kernloop("debug", "pstore", run, "--json")
    assert done.status == 0
    found = done.json["records"]
    assert isinstance(found, list)
    return found


def test_a_panic_that_a_silent_console_does_not_show_is_in_pstore() -> None:
    verdict = run("--", "sh", "-c", QUIET + PANIC)
    assert (verdict["verdict"], verdict["function"]) == ("panic", "sysrq_handle_crash")
    assert "debug pstore" in verdict["next"]
    first = verdict["evidence"][0]
    lines = Path(first["path"]).read_text().splitlines()
    assert any("sysrq triggered crash" in line for line in lines[first["lines"][0] - 1 : first["lines"][1]])
    assert "Linux version" in lines[0]
    assert kernloop("report", "last", "--json").json["function"] == "sysrq_handle_crash"
    [record] = records()
    assert (record["name"], record["why"]) == ("dmesg-erst", "Panic")
    assert [report["on_console"] for report in record["reports"]] == [False]


def test_a_panic_that_the_console_shows_is_one_report() -> None:
    verdict = run("--", "sh", "-c", PANIC)
    assert verdict["function"] == "sysrq_handle_crash"
    reports = [item for item in verdict["evidence"] if item["lines"]]
    assert [Path(item["path"]).name for item in reports] == ["console.log"]
    [record] = records()
    assert [report["on_console"] for report in record["reports"]] == [True]
    assert record["path"] in [item["path"] for item in verdict["evidence"]]


def test_a_run_without_a_crash_leaves_no_store() -> None:
    assert kernloop("run", "--", "true").status == 0
    path = the_run()
    assert path is not None
    assert not {"erst", "pstore", "ramoops"} & {file.name for file in path.iterdir()}
    assert "kept nothing" in kernloop("debug", "pstore").out.decode()


def test_an_oops_that_is_followed_by_a_reset_outlives_it() -> None:
    verdict = run("--", "sh", "-c", QUIET + crash("EXCEPTION") + "echo b > /proc/sysrq-trigger", kernel=tree())
    assert (verdict["verdict"], verdict["function"]) == ("oops", "lkdtm_EXCEPTION")
    assert [(record["name"], record["why"]) for record in records()] == [("dmesg-erst", "Oops")]


def test_ramoops_in_the_guests_memory_is_read_as_well_with_console_and_pmsg() -> None:
    words = [word for one in RAMOOPS for word in ("--append", one)]
    script = "echo from a program > /dev/pmsg0; " + QUIET + crash("EXCEPTION") + "true"
    verdict = run(*words, "--", "sh", "-c", script, kernel=tree())
    assert (verdict["verdict"], verdict["function"]) == ("oops", "lkdtm_EXCEPTION")
    found = {record["name"]: Path(record["path"]).read_text() for record in records()}
    assert list(found) == ["dmesg-ramoops", "console-ramoops", "pmsg-ramoops"]
    assert "lkdtm_EXCEPTION" in found["dmesg-ramoops"]
    assert "Run /init as init process" in found["console-ramoops"]
    assert found["pmsg-ramoops"] == "from a program\n"


def test_records_of_a_saved_vm_are_with_the_one_that_goes_on_from_it() -> None:
    vm = started(kernel=tree())
    sh(vm, QUIET + crash("EXCEPTION") + "true")
    assert kernloop("vm", "snapshot", vm.name, "crashed").status == 0
    assert kernloop("vm", "restore", "crashed", "--name", "again").status == 0
    assert kernloop("vm", "stop", vm.name).status in (0, 1, 120)
    assert kernloop("vm", "exec", "again", "--", "sh", "-c", crash("BUG") + "true").status in (0, 137)
    [again] = [info.run for info in client.listing() if info.name == "again"]
    assert kernloop("vm", "stop", "again").status in (0, 1, 120)
    assert verdict_of(again)["verdict"] == "oops"
    functions = {report["function"] for record in records(again.name) for report in record["reports"]}
    assert {"lkdtm_EXCEPTION", "lkdtm_BUG"} <= functions
