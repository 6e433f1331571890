# SPDX-License-Identifier: Apache-2.0
"""`kernloop kernel build --module`: one module built alone, and put to the test in a restored guest."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

from kernloop import runs
from kernloop.cli.output import out, relay
from kernloop.cli.suite import Say, Show, conclude_suite
from kernloop.kernel.build import BuildRequest
from kernloop.kernel.modules import build_modules
from kernloop.present import plain
from kernloop.suites import module as library
from kernloop.suites.judge import Judgement
from kernloop.vm.topology import Topology

__all__ = ["Use", "try_module"]


@dataclass(frozen=True)
class Use:
    """What to do with a module once it is built: nothing but loading it without `argv`."""

    module: str
    argv: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    parameters: tuple[str, ...] = ()
    topology: Topology = field(default_factory=Topology)
    memory: int = 512
    timeout: float = 120.0


def try_module(request: BuildRequest, use: Use, *, as_json: bool) -> int:
    """Build, load, use, unload, judge. The exit code. Raises HarnessError."""
    spec = {"subject": use.module, "build": plain(request), **plain(use)}
    with runs.create("module", library.SCHEMA, spec) as record:

        def execute(say: Say, show: Show) -> Judgement:
            built = build_modules(request, use.module)
            how = "by its saved commands" if built.quick else "by make"
            record.note("built", seconds=built.seconds, steps=len(built.steps), how=how)
            if not as_json:
                out.print(f"built {', '.join(built.wanted)} {how} in {built.seconds:.1f} s")
            loaded = library.Request(
                built.kernel,
                built.modules,
                built.wanted,
                use.argv,
                use.files,
                use.parameters,
                use.topology,
                use.memory,
                timeout=use.timeout,
            )
            return library.execute(loaded, record, say=say, on_output=relay(sys.stdout.buffer, quiet=as_json))

        return conclude_suite(library.SCHEMA, record, None, as_json=as_json, execute=execute)
