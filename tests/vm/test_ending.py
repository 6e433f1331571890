# SPDX-License-Identifier: Apache-2.0
"""A VM that has stopped serving and judges its run is waited for: nobody who also wants its end takes its verdict."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kernloop.vm import client
from kernloop.vm.client import VM
from support import child, said

# What a supervisor does from the moment that its socket is gone; it takes as long as we like.
SUPERVISOR = """
import sys
from kernloop import runs
with runs.create("vm", "kernloop.vm/1", {"subject": "a"}) as run:
    (run.path / "console.log").touch()
    run.note("serving")
    print(run.path, flush=True)
    sys.stdin.readline()
    run.judge({"verdict": "oops"})
"""


def test_who_stops_a_vm_that_ends_or_waits_for_its_end_gets_its_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_KILLED_SECONDS", 0.2)
    supervisor = child(SUPERVISOR)
    vm = VM("a", Path(said(supervisor)))
    assert [info.state for info in client.listing()] == ["ending"]
    with ThreadPoolExecutor() as pool:
        stopped, ended = pool.submit(vm.stop), pool.submit(vm.wait_exit, timeout=60)
        with pytest.raises(TimeoutError):
            stopped.result(1)
        supervisor.communicate("\n", timeout=60)
        assert stopped.result(60)["verdict"] == "oops"
        assert ended.result(60).state == "stopped"
