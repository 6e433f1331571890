# SPDX-License-Identifier: Apache-2.0
"""Who asks the owner of a GDB session that is about to be gone hears that it is lost, however long it takes to die."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kernloop import runs
from kernloop.debug.gdb import client
from kernloop.debug.gdb.client import Gdb
from kernloop.debug.gdb.owner import FOLDER, LAST
from kernloop.debug.gdb.state import Session, State, told
from kernloop.errors import HarnessError
from kernloop.vm.client import VM
from support import child, said

# What is left of a process that was killed: its sockets are closed before it is gone. `seconds` is how long that takes.
DYING = """
import os, sys, time
from pathlib import Path
from kernloop.vm import wire
folder, how, seconds = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
listener = wire.bind(folder)
print(os.getpid(), flush=True)
if how == "closed":
    listener.accept()
listener.close()
time.sleep(seconds)
"""


@pytest.mark.parametrize("how", ["closed", "refused"])
def test_an_owner_that_has_dropped_its_socket_and_not_died_yet_is_waited_for(how: str) -> None:
    with runs.create("vm", "kernloop.vm/1", {"subject": "a"}) as run:
        assert ask(run.path, how, "0.5").state is State.LOST
        run.judge({"verdict": "pass"})


def test_one_that_stays_is_told_with_its_pid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_GONE_SECONDS", 0.2)
    with runs.create("vm", "kernloop.vm/1", {"subject": "a"}) as run:
        with pytest.raises(HarnessError, match="owner does not answer") as caught:
            ask(run.path, "closed", "60")
        assert "kill it, attach anew" in caught.value.hint
        run.judge({"verdict": "pass"})


def ask(run: Path, how: str, seconds: str) -> Session:
    folder = run / FOLDER
    folder.mkdir()
    owner = child(DYING, folder, how, seconds)
    try:
        pid = int(said(owner))
        last = {"pid": pid, "gdb": pid, **told(Session(State.RUNNING))}
        (folder / LAST).write_text(json.dumps(last))
        return Gdb(VM("a", run)).ask("state").session
    finally:
        owner.kill()
        owner.communicate()
