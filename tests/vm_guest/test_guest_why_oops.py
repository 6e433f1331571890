# SPDX-License-Identifier: Apache-2.0
"""Crashes on purpose: what the registers of the report point to is what the module, and the kernel, had there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import trees
from kernloop.kernel import modules
from kernloop.vm.client import VM
from kernloop.vm.request import VmRequest
from support import ROOT, kernloop, until
from vms import running, sh

pytestmark = pytest.mark.vm
SECONDS = 60.0


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state")


# The program that writes is ended by the crash, the guest goes on: slub_debug=P fills what is freed.
@pytest.fixture
def vm(state: Path) -> Iterator[VM]:
    module = modules.build_for(trees.kernel(), ROOT / "tests/modules/kl_crash").modules[0].path
    request = VmRequest(name="oopses", kernel=trees.kernel().ref, append=("slub_debug=P",))
    with running(request, state=state) as vm:
        vm.push(module, "/root/kl_crash.ko")
        assert vm.exec(["insmod", "/root/kl_crash.ko"]).status == 0
        yield vm


def crash(vm: VM, name: str) -> None:
    sh(vm, f"echo {name} > /sys/module/kl_crash/parameters/what")
    until(lambda: "end trace" in vm.console(grep="end trace").text, SECONDS, "the report")


def asked(state: Path, run: Path, *more: str) -> dict[str, Any]:
    done = kernloop("debug", "why-oops", run.name, *more, "--json", XDG_STATE_HOME=str(state))
    assert done.status == 1, done.text
    return dict(json.loads(done.out))


def what(told: dict[str, Any]) -> dict[str, str]:
    return {one["register"]: one["what"] for one in told["pointers"]}


def test_a_poisoned_pointer_and_what_the_others_point_to_live_and_in_a_vmcore(
    vm: VM, state: Path, tmp_path: Path
) -> None:
    crash(vm, "gpf")
    live = asked(state, vm.run)
    assert (live["function"], live["kind"]) == ("kl_gpf", "general-protection-fault")
    assert "the instruction accesses 0x40 bytes" in live["report"][0]
    registers = what(live)
    assert registers["RAX"] == "no address (not canonical)" and "CR2" not in registers
    # What was written is "gpf\n", in a buffer of kernfs; the others are the module's table and the task.
    [buffer] = [one for one in live["pointers"] if one["what"] == "object of kmalloc-8+0x3"]
    assert buffer["content"][0].endswith("0a667067")
    assert any("[kl_crash]" in one for one in registers.values())
    tasks = [one for one in live["pointers"] if one["what"].startswith("object of task_struct")]
    assert tasks and tasks[0]["content"]["type"] == "struct task_struct"
    core = Path(vm.dump()["path"])
    vm.stop()
    dead = asked(state, vm.run)
    assert dead["function"] == "kl_gpf" and what(dead) == registers
    # Away from its run a dump does not know of the vmlinux that was built here.
    core = core.rename(tmp_path / "vmcore")
    build = trees.kernel().build
    assert build is not None
    words = ("debug", "drgn", str(core), "-e", "prog['init_task'].comm", "--vmlinux", str(build / "vmlinux"), "--json")
    assert kernloop(*words).json["types"] == "dwarf"


def test_a_use_after_free_is_told_by_the_poison_that_was_read(vm: VM, state: Path) -> None:
    crash(vm, "after_free")
    told = asked(state, vm.run)
    assert told["function"] == "kl_after_free"
    assert "read from freed slab memory (use after free)" in what(told).values()
