# SPDX-License-Identifier: Apache-2.0
"""Why a symbol is what it is, asked of the tree's own Kconfig parser.

Kconfig's language grows with the kernel (`transitional` came with 6.18), so no parser of ours reads it: kconfig_why.c
is linked with the objects of the tree's scripts/kconfig, and runs in the environment in which make runs `conf`. That
environment is had by a Kconfig file of ours which stands in for the tree's and calls `env` in a macro.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kernloop.errors import HarnessError
from kernloop.host import process

__all__ = ["Reason", "Symbol", "explain"]

_SOURCE = Path(__file__).with_name("kconfig_why.c")
_OBJECTS = ("confdata", "expr", "lexer.lex", "menu", "parser.tab", "preprocess", "symbol", "util")


@dataclass(frozen=True)
class Reason:
    """A condition that does not hold, as in `PAHOLE_VERSION [=0]>=122`; `because` tells of its symbol, if it is one."""

    expression: str
    because: Symbol | None


@dataclass(frozen=True)
class Symbol:
    """A Kconfig symbol. `type` is "" when the tree has none of that name; `value` as in .config, "n" when off.

    `unmet` is what keeps it from being set, `selected_by` what keeps it from being off, `chosen` the other member of
    its choice that is on. Without a `prompt` nobody can set it: `selectable_by` is what could select it.
    """

    name: str
    type: str
    value: str
    prompt: str
    place: str
    depends: str
    unmet: tuple[Reason, ...]
    selected_by: tuple[str, ...]
    selectable_by: str
    chosen: str

    @property
    def why(self) -> str:
        """What keeps it from being set, to its root: `DEBUG_INFO_BTF [=n], for it needs PAHOLE_VERSION [=0] >= 122`."""
        if not self.type:
            return "this tree has no such symbol"
        if self.unmet:
            return "; ".join(_told(reason) for reason in self.unmet)
        if self.chosen:
            return f"of this choice {self.chosen} is on"
        if not self.prompt:
            selects = f", only selected by {_shortened(self.selectable_by)}" if self.selectable_by else ""
            return f"it cannot be set by hand{selects}"
        if self.selected_by:
            return f"it is selected by {_shortened(' and '.join(self.selected_by))}"
        return ""


def explain(folder: Path, make: Sequence[str | Path], config: Path, asked: Sequence[tuple[str, str]]) -> list[Symbol]:
    """Each of the symbols `asked` for (name, value wanted: y, m, n or a text) as `config` has it.

    `make` is the command line of make for that folder. Raises HarnessError when the tree's parser cannot be used so.
    """
    notes = folder / "kernloop"
    notes.mkdir(exist_ok=True)
    environment = _environment(folder, make)
    program = _program(folder, environment)
    words = [f"{name}={value}" for name, value in asked]
    # env -i: the words must be those of make alone, not also ours.
    done = process.run(
        ["env", "-i", *(f"{name}={value}" for name, value in environment.items()), program, config, *words],
        seconds=60,
        what="asking Kconfig",
        cwd=folder,
    )
    return [_symbol(json.loads(line)) for line in done.stdout.splitlines()]


def _environment(folder: Path, make: Sequence[str | Path]) -> dict[str, str]:
    notes = folder / "kernloop"
    root, kept = notes / "Kconfig", notes / "environment"
    # A macro cannot hold a path with a comma or a bracket, but a variable of the environment can.
    root.write_text('_ := $(shell,env -0 >"$KERNLOOP_ENVIRONMENT")\n')
    kept.unlink(missing_ok=True)
    done = process.run(
        [*make, f"KBUILD_KCONFIG={root}", "-s", "listnewconfig"],
        seconds=120,
        what="asking make how it calls Kconfig",
        env={"KERNLOOP_ENVIRONMENT": str(kept)},
        check=False,
    )
    if not kept.exists():
        raise HarnessError(
            f"make does not say how it calls Kconfig: {done.stderr.strip()[-200:]}",
            hint="why a symbol is off is not known",
        )
    entries = kept.read_bytes().decode(errors="replace").split("\0")
    found = dict(entry.split("=", 1) for entry in entries if "=" in entry)
    found.pop("KBUILD_KCONFIG", None)
    return found


def _program(folder: Path, environment: dict[str, str]) -> Path:
    kconfig = folder / "scripts/kconfig"
    objects = [kconfig / f"{name}.o" for name in _OBJECTS]
    try:
        parts = [_SOURCE.read_bytes(), *(path.read_bytes() for path in objects)]
    except OSError as error:
        raise HarnessError(
            f"this tree's Kconfig has no {error.filename}", hint="why a symbol is off is not known"
        ) from None
    program = folder / "kernloop" / f"kconfig_why-{hashlib.sha256(b''.join(parts)).hexdigest()[:12]}"
    if not program.exists():
        tree = environment.get("srctree", "")
        source = Path(tree) if tree.startswith("/") else folder / tree
        staged = program.with_suffix(".new")
        includes = (source / "scripts/kconfig", source / "scripts/include", kconfig)
        compiler = shutil.which("gcc") or "cc"
        process.run(
            [compiler, "-O1", "-w", *(f"-I{path}" for path in includes), "-o", staged, _SOURCE, *objects],
            seconds=60,
            what="linking with the tree's Kconfig parser",
        )
        staged.rename(program)
    return program


def _symbol(found: dict[str, Any]) -> Symbol:
    return Symbol(
        found["symbol"],
        found["type"],
        found.get("value") or "n",
        found.get("prompt", ""),
        f"{found['file']}:{found['line']}" if "file" in found else "",
        found.get("depends", ""),
        tuple(
            Reason(item["expression"], _symbol(item["because"]) if "because" in item else None)
            for item in found.get("unmet", [])
        ),
        tuple(found.get("selected_by", [])),
        found.get("selectable_by", ""),
        found.get("chosen", ""),
    )


def _told(reason: Reason) -> str:
    deeper = reason.because.why if reason.because is not None and reason.because.unmet else ""
    return f"{reason.expression}, for it needs {deeper}" if deeper else f"{reason.expression}"


def _shortened(text: str, limit: int = 160) -> str:
    return text if len(text) <= limit else f"{text[:limit]}..."
