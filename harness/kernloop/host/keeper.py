# SPDX-License-Identifier: Apache-2.0
"""A small process that outlives kernloop by a moment and cleans up when kernloop is killed.

kernloop tells it, over a pipe, what it owns: process groups, staging folders, the run that is not yet judged. When the
pipe ends without the word `bye`, the keeper kills the groups, removes the folders, and writes into the run's
verdict.json what happened. It runs as `python -I -S keeper.py PID`, PID being kernloop's, so it imports the standard
library only, and most of that when there is something to do: each call of kernloop pays for it.
"""

from __future__ import annotations

import os
import sys

__all__ = ["start_time"]


def start_time(pid: int) -> int | None:
    """When process `pid` began, in clock ticks since boot (proc_pid_stat(5), field 22); None when it is gone.

    With it a recorded pid names one process for ever: a pid alone may have been given to another one since.
    """
    try:
        with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123 pathlib takes longer to import than all else here
            stat = file.read()
    except OSError:
        return None
    return int(stat.rpartition(")")[2].split()[19])


def _serve() -> None:
    owner = int(sys.argv[1])
    owned: dict[str, str] = {}
    for line in sys.stdin:
        sign, _, rest = line.rstrip("\n").partition(" ")
        if sign == "bye":
            return
        key, _, value = rest.partition("\t")
        if sign == "+":
            owned[key] = value
        else:
            owned.pop(key, None)
    for key, value in owned.items():
        kind, _, name = key.partition(" ")
        if kind == "group":
            _kill_group(int(name), int(value))
    for key, value in owned.items():
        kind, _, name = key.partition(" ")
        if kind == "folder":
            _remove(name)
        elif kind == "run":
            _close_run(name, owner, value)


# The leader may be gone while others of its group live on: its start time is checked only while it exists.
def _kill_group(leader: int, started: int) -> None:
    import signal

    now = start_time(leader)
    if now is None or now == started:
        try:
            os.killpg(leader, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            return


def _remove(name: str) -> None:
    import contextlib
    import shutil
    from pathlib import Path

    path = Path(name)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def _close_run(name: str, owner: int, schema: str) -> None:
    import contextlib
    import json
    import time
    from pathlib import Path

    run = Path(name)
    stage = "start"
    with contextlib.suppress(OSError, ValueError, IndexError, KeyError):
        stage = json.loads((run / "timeline.jsonl").read_text().splitlines()[-1])["event"]
    summary = f"kernloop (pid {owner}) was killed; the last thing it did: {stage}"
    verdict = {
        "schema": schema,
        "verdict": "infra",
        "summary": summary,
        "exit_code": 125,
        "next": "run it again; console.log and timeline.jsonl hold what was seen until then",
        "run": str(run),
    }
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        old = json.loads((run / "verdict.json").read_text())
        if old["verdict"] != "unknown":
            return  # judged already; only what comes after was cut off
        verdict = {**old, **verdict}
    with contextlib.suppress(OSError):
        with (run / "timeline.jsonl").open("a") as out:
            begun = (run / "spec.json").stat().st_mtime
            entry = {"t": round(time.time() - begun, 3), "event": "owner-killed", "detail": summary}
            out.write(json.dumps(entry) + "\n")
        staged = run / ".verdict.json.new"
        staged.write_text(json.dumps(verdict, indent=2) + "\n")
        staged.rename(run / "verdict.json")


if __name__ == "__main__":
    _serve()
