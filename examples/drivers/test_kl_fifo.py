# SPDX-License-Identifier: Apache-2.0
"""/dev/kl_fifo as programs see it. Each test has a guest of its own, with the module loaded."""

from __future__ import annotations

import pytest

from kernloop.kernel.modules import BuiltModules
from kernloop.vm.client import VM, ExecResult


@pytest.fixture
def fifo(vm: VM, driver: BuiltModules) -> VM:
    [module] = [one for one in driver.modules if one.name == "kl_fifo"]
    vm.push(module.path, "/root/")
    assert vm.exec(["insmod", f"/root/{module.path.name}", "size=64"]).status == 0
    return vm


def sh(vm: VM, script: str) -> ExecResult:
    return vm.exec(["sh", "-c", script], timeout=30)


def test_what_is_written_is_read_in_order(fifo: VM) -> None:
    assert sh(fifo, "printf one > /dev/kl_fifo; printf two > /dev/kl_fifo; head -c 6 /dev/kl_fifo").stdout == b"onetwo"


def test_a_reader_waits_for_a_writer(fifo: VM) -> None:
    done = sh(fifo, "head -c 5 /dev/kl_fifo & usleep 200000; printf hello > /dev/kl_fifo; wait")
    assert done.stdout == b"hello"


def test_a_writer_waits_for_room(fifo: VM) -> None:
    script = (
        "seq 100 > /root/numbers; cat /root/numbers > /dev/kl_fifo & head -c 292 /dev/kl_fifo | cmp - /root/numbers"
    )
    assert sh(fifo, script).status == 0


def test_a_resize_keeps_what_is_in_it(fifo: VM) -> None:
    script = "printf kept > /dev/kl_fifo; echo 128 > /sys/module/kl_fifo/parameters/size && head -c 4 /dev/kl_fifo"
    assert sh(fifo, script).stdout == b"kept"


def test_a_size_that_cannot_be_had_changes_nothing(fifo: VM) -> None:
    assert sh(fifo, "echo 1073741824 > /sys/module/kl_fifo/parameters/size").status != 0
    assert sh(fifo, "printf x > /dev/kl_fifo; head -c 1 /dev/kl_fifo").stdout == b"x"


def test_it_can_be_unloaded(fifo: VM) -> None:
    assert sh(fifo, "printf x > /dev/kl_fifo; rmmod kl_fifo && test ! -e /dev/kl_fifo").status == 0
