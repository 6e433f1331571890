# SPDX-License-Identifier: Apache-2.0
"""How long a verdict on a scheduler takes: each measure is the verb as its users call it, a process from start to end.

Each is taken once a round, so what else the machine does in one of them meets all alike.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from kernloop.errors import HarnessError
from kernloop.host import process
from kernloop.host.figures import Figures, Measure, chosen, timed
from kernloop.kernel import refs

__all__ = ["MEASURES", "USUAL", "measure"]

_SECONDS = 1800.0
# An edit that changes the program, and nothing of what it does.
_EDIT = "\nconst volatile unsigned int kernloop_bench_{number} = {number};\n"

MEASURES = {
    "check": Measure("sched check of a compiled scheduler", 0.6),
    "quick": Measure("verify --quick, 2 CPUs", 4.0),
    "edit": Measure("from a saved edit to the verdict of verify --quick", 4.0),
    "default": Measure("verify, the default suite, 2 CPUs", 25.0),
    "fault": Measure("verify of a scheduler that loses a task, to its verdict"),
    "large": Measure("verify --topology numa4: 16 CPUs, 4 nodes, the default suite", 300.0),
}
# The rest takes minutes.
USUAL = tuple(name for name in MEASURES if name != "large")


def measure(
    names: Sequence[str], rounds: int, *, kernel: str = refs.DEFAULT, say: Callable[[str], None]
) -> dict[str, Figures]:
    """The figures of `names`. Raises UsageError for a name that there is not, HarnessError when kernloop fails."""
    chosen(names, MEASURES)
    found = {name: Figures() for name in names}
    with tempfile.TemporaryDirectory(prefix="kernloop-bench-") as folder:
        example = _examples() / "fifo.bpf.c"
        say("what can be kept is made now, and not counted")
        first = _verdict("pass", "--quick", example, "--kernel", kernel)
        takers = {name: _taker(name, kernel, Path(folder), Path(first["run"]) / "scheduler.bpf.o") for name in names}
        if "large" in takers:
            say("large, not counted: its snapshot")
            takers["large"](0)
        for number in range(1, rounds + 1):
            for name, take in takers.items():
                say(f"{name}, {number} of {rounds}")
                found[name].add(timed(partial(take, number)))
    return found


def _taker(name: str, kernel: str, folder: Path, built: Path) -> Callable[[int], object]:
    good, bad = _examples() / "fifo.bpf.c", _examples() / "broken/lost_task.bpf.c"
    on = ("--kernel", kernel)
    match name:
        case "check":
            return lambda number: _must(0, "sched", "check", str(built), *on)
        case "quick":
            return lambda number: _verdict("pass", "--quick", good, *on)
        case "edit":
            return lambda number: _verdict("pass", "--quick", _edited(good, folder, number), *on)
        case "fault":
            return lambda number: _verdict("ejected", bad, *on)
        case "large":
            return lambda number: _verdict("pass", good, *on, "--topology", "numa4")
    return lambda number: _verdict("pass", good, *on)


def _edited(source: Path, folder: Path, number: int) -> Path:
    edited = folder / source.name
    edited.write_text(source.read_text() + _EDIT.format(number=number))
    return edited


# The object that verify prints. Another verdict than `wanted` would be another measure.
def _verdict(wanted: str, *words: str | Path) -> dict[str, Any]:
    said = _must(0 if wanted == "pass" else 1, "verify", "--json", *map(str, words))
    value: dict[str, Any] = json.loads(said)
    if value["verdict"] != wanted:
        raise HarnessError(
            f"verify says {value['verdict']} where it should say {wanted}: {value['summary']}",
            hint=f"kernloop runs show {Path(value['run']).name}",
        )
    return value


def _must(status: int, *words: str) -> str:
    ours = (sys.executable, "-m", "kernloop")
    done = process.run((*ours, *words), seconds=_SECONDS, what=" ".join(words), check=False)
    if done.status != status:
        last = (done.stderr.strip().splitlines() or ["nothing was said"])[-1]
        raise HarnessError(f"{' '.join(words)} exits {done.status}: {last}", hint="try it by itself")
    return done.stdout


# In a checkout, or where the wheel has put them.
def _examples() -> Path:
    here = Path(__file__).resolve()
    places = [here.parents[3] / "examples", here.parents[1] / "data/examples"]
    return next(place for place in places if place.exists()) / "schedulers"
