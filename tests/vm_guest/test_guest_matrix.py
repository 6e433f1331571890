# SPDX-License-Identifier: Apache-2.0
"""`kernloop verify --topology --kernels`: one table of verdicts, each with a run of its own."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from support import SCHEDULERS, events_of, kernloop, processes_naming, runs_dir, start, until, verdict_of

pytestmark = pytest.mark.vm

long = pytest.mark.skipif(not os.environ.get("KERNLOOP_LONG_TESTS"), reason="takes minutes")

# What Linux found, from sysfs: CPU, socket, core, threads of the core, who shares the last cache; then the nodes.
LOOK = """
for c in /sys/devices/system/cpu/cpu[0-9]*; do
  cd $c
  echo ${c##*/cpu} $(cat topology/physical_package_id topology/core_id topology/thread_siblings_list) \\
    $(cat cache/index3/shared_cpu_list)
done
for n in /sys/devices/system/node/node[0-9]*; do echo ${n##*/} $(cat $n/cpulist); done
"""


def matrix_run() -> Path:
    found = until(lambda: list(runs_dir().glob("*-verify-matrix-*")), 60, "the matrix's run directory")
    assert len(found) == 1
    return found[0]


def test_two_machines_are_one_table_with_a_run_each(tmp_path: Path) -> None:
    xml = tmp_path / "results.xml"
    words = ("--topology", "up,1x2x1", "--tests", "idle", "--junit", xml)
    done = kernloop("verify", SCHEDULERS / "fifo.bpf.c", *words, "--json", seconds=300)
    value = done.json
    assert (done.status, value["verdict"], value["summary"]) == (0, "pass", "2 of 2 pass")
    assert value["schema"] == "kernloop.verify-matrix/1"
    assert [(cell["topology"], cell["cpus"]) for cell in value["cells"]] == [("up", 1), ("1x2x1", 2)]
    for cell in value["cells"]:
        own = verdict_of(Path(cell["run"]))
        assert (own["schema"], own["verdict"]) == ("kernloop.verify/1", cell["verdict"])
        [test] = own["tests"]
        assert cell["figure"] == {key: test[key if key != "test" else "name"] for key in cell["figure"]}
    suites = ElementTree.parse(xml).getroot()
    assert [suite.get("name", "").split()[-2] for suite in suites] == ["up", "1x2x1"]
    assert all(suite.get("failures") == "0" for suite in suites)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--topology", "up,2x"), "'2x' is no topology"),
        (("--topology", "up,smt", "--cpus", "4"), "--topology and --cpus say the same thing twice"),
        (("--kernels", "debian:newest,debian:newest"), "the kernel 'debian:newest' is given twice"),
        (("--kernels", "debian:newest,tree:nowhere"), "nowhere"),
        (("--topology", "up,uma", "--tests", "nosuch"), "nosuch"),
    ],
)
def test_what_cannot_be_run_is_said_before_any_guest(words: tuple[str, ...], said: str) -> None:
    done = kernloop("verify", SCHEDULERS / "fifo.bpf.c", *words)
    assert done.status == 2
    assert said in done.text


@long
@pytest.mark.slow
@pytest.mark.parametrize(
    ("topology", "cpus", "nodes"),
    [
        ("smt", ["0 0 0 0-1 0-3", "1 0 0 0-1 0-3", "2 0 1 2-3 0-3", "3 0 1 2-3 0-3"], ["node0 0-3"]),
        ("llc2", ["0 0 0 0 0-1", "1 0 1 1 0-1", "2 0 2 2 2-3", "3 0 3 3 2-3"], ["node0 0-3"]),
        ("2x2x1+numa2", ["0 0 0 0 0-1", "1 0 1 1 0-1", "2 1 0 2 2-3", "3 1 1 3 2-3"], ["node0 0-1", "node1 2-3"]),
        (
            "1x4x2+llc2+numa2",
            [
                f"{cpu} 0 {cpu // 2} {cpu // 2 * 2}-{cpu // 2 * 2 + 1} {cpu // 4 * 4}-{cpu // 4 * 4 + 3}"
                for cpu in range(8)
            ],
            ["node0 0-3", "node1 4-7"],
        ),
    ],
)
def test_linux_finds_the_sockets_threads_caches_and_nodes_that_were_asked_for(
    topology: str, cpus: list[str], nodes: list[str]
) -> None:
    done = kernloop("run", "--topology", topology, "--seed", "1", "--", "sh", "-c", LOOK, seconds=300)
    assert done.status == 0, done.text
    assert sorted(done.out.decode().splitlines()) == sorted(cpus + nodes)


@long
@pytest.mark.slow
def test_ctrl_c_ends_all_guests_and_keeps_what_is_done() -> None:
    words = ("--topology", "1x2x1,uma,smt", "--jobs", "2", "--json")
    process = start("verify", SCHEDULERS / "fifo.bpf.c", *words)
    until(lambda: [one for one in events_of(matrix_run()) if one["event"] == "cell"], 200, "the first cell")
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    value: dict[str, Any] = json.loads(out)
    assert (process.returncode, value["exit_code"]) == (125, 125)
    assert value["summary"].startswith("interrupted: 1 of 3 pass")
    assert sorted(cell["verdict"] for cell in value["cells"]) == ["infra", "pass", "unknown"] or (
        sorted(cell["verdict"] for cell in value["cells"]) == ["infra", "infra", "pass"]
    )
    assert verdict_of(matrix_run()) == value
    assert not processes_naming(runs_dir())


@long
@pytest.mark.slow
def test_all_guests_together_end_when_their_time_is_over() -> None:
    done = kernloop("verify", SCHEDULERS / "fifo.bpf.c", "--topology", "uma,smt", "--timeout", "3", "--json")
    assert done.status == 125
    assert done.json["summary"].startswith("not done after 3 s: 0 of 2 pass")
    assert all(cell["ours"] for cell in done.json["cells"])


@long
@pytest.mark.slow
def test_a_gauntlet_says_before_how_long_it_takes_and_ends_in_its_time() -> None:
    words = ("--gauntlet", "--kernels", "debian:newest", "--claims", "hotplug", "--timeout", "5", "--json")
    done = kernloop("verify", SCHEDULERS / "fifo.bpf.c", *words)
    assert "6 guests" in done.text
    assert done.json["estimate_seconds"] > 60
    claims = {cell["topology"]: cell["claims"] for cell in done.json["cells"]}
    assert claims == {
        "up": [],
        "uma": [],
        "numa4": [],
        **{name: ["hotplug"] for name in ("smt", "llc2", "numa2")},
    }
    assert (done.status, done.json["verdict"] in ("infra", "unknown")) == (125, True)


@long
@pytest.mark.slow
def test_a_scheduler_at_fault_on_one_machine_is_at_fault(tmp_path: Path) -> None:
    words = ("--topology", "up,uma", "--tests", "saturation", "--json")
    done = kernloop("verify", SCHEDULERS / "broken/lost_task.bpf.c", *words, seconds=400)
    assert (done.status, done.json["verdict"]) == (1, "ejected"), done.json["summary"]
    assert {cell["exit_code"] for cell in done.json["cells"]} == {1}
    page = kernloop("runs", "show", matrix_run().name, "--html")
    assert page.status == 0


@long
@pytest.mark.slow
def test_sixteen_vcpus_on_four_nodes_have_a_verdict_within_five_minutes() -> None:
    done = kernloop("verify", SCHEDULERS / "vtime.bpf.c", "--topology", "numa4", "--json", seconds=600)
    assert (done.status, done.json["verdict"]) == (0, "pass"), done.json["summary"]
    assert done.json["times"]["total"] < 300
