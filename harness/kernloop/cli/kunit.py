# SPDX-License-Identifier: Apache-2.0
"""`kernloop kunit`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from kernloop import runs
from kernloop.cli.junit import JUnitOption, results
from kernloop.cli.output import JsonFlag, fail
from kernloop.cli.run import mebibytes
from kernloop.cli.suite import conclude_suite
from kernloop.errors import HarnessError
from kernloop.kernel.refs import DEFAULT
from kernloop.suites import kunit as library
from kernloop.vm.topology import parse_cpus


def kunit(
    suites: Annotated[str, typer.Argument(help="A pattern: 'list*', or 'SUITE.TEST'. All without.")] = "",
    kernel: Annotated[str, typer.Option(help="tree:DIR, path:BZIMAGE, debian:7.2: one built with KUNIT.")] = DEFAULT,
    tree: Annotated[Path | None, typer.Option(help="Build a kernel with KUnit of this source, and take that.")] = None,
    kunitconfig: Annotated[
        Path | None, typer.Option(help="With --tree: a .kunitconfig or a folder with one, as fs/ext4 has.")
    ] = None,
    cpus: Annotated[str, typer.Option(help="vCPUs: 4, or 8,sockets=2,cores=2,threads=2.")] = "2",
    memory: Annotated[str, typer.Option(help="Guest memory: MiB, or with a unit, as in 2G.")] = "512M",
    timeout: Annotated[float, typer.Option(min=1, help="Seconds for all tests, from the kernel's start.")] = 300.0,
    junit: JUnitOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Boot a kernel that has KUnit, run its unit tests, and say which did not pass.

    0: pass. 1: a test, the build or the kernel failed. 2: bad input. 125: not judged: kernloop failed, no test ran.
    """
    try:
        subject = " ".join(word for word in (suites, str(tree or "")) if word) or kernel
        with results(junit, "kunit", subject) as tell:
            request = library.Request(suites, kernel, tree, kunitconfig, parse_cpus(cpus), mebibytes(memory), timeout)
            with runs.create("kunit", library.SCHEMA, {"subject": subject, **asdict(request)}) as record:
                code = conclude_suite(
                    library.SCHEMA,
                    record,
                    tell,
                    as_json=as_json,
                    execute=lambda say, show: library.execute(request, record, say=say),
                )
    except HarnessError as error:
        raise fail(error, as_json=as_json, schema=library.SCHEMA) from None
    raise typer.Exit(code)
