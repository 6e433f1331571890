# SPDX-License-Identifier: Apache-2.0
"""`kernloop kselftest`."""

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
from kernloop.suites import kselftest as library
from kernloop.vm.topology import parse_cpus


def kselftest(
    tests: Annotated[list[str], typer.Argument(help="TARGET or TARGET:TEST, as in sched_ext, sched_ext:minimal.")],
    kernel: Annotated[str, typer.Option(help="debian:7.2, debian:newest, host, path:BZIMAGE.")] = DEFAULT,
    tree: Annotated[
        Path | None, typer.Option(help="The kernel source with the selftests; else the one the kernel came from.")
    ] = None,
    cpus: Annotated[str, typer.Option(help="vCPUs: 4, or 8,sockets=2,cores=2,threads=2.")] = "2",
    memory: Annotated[str, typer.Option(help="Guest memory: MiB, or with a unit, as in 2G.")] = "1G",
    timeout_per_test: Annotated[
        float | None, typer.Option(min=0, help="Seconds for each test; else the target's own, eightfold without KVM.")
    ] = None,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds for all tests, from the first one's start.")] = 1800.0,
    backend: Annotated[
        str, typer.Option(help="micro: busybox only. vng: this machine's user space. auto: vng for scripts.")
    ] = "auto",
    junit: JUnitOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Build the kernel's own selftests, run them in a guest, and say which did not pass.

    0: pass. 1: a test, the build or the kernel failed. 2: bad input. 125: not judged: kernloop failed, no test ran.
    """
    try:
        subject = " ".join(tests)
        with results(junit, "kselftest", subject) as tell:
            request = library.Request(
                tuple(tests), kernel, tree, parse_cpus(cpus), mebibytes(memory), timeout_per_test, timeout, backend
            )
            with runs.create("kselftest", library.SCHEMA, {"subject": subject, **asdict(request)}) as record:
                code = conclude_suite(
                    library.SCHEMA,
                    record,
                    tell,
                    as_json=as_json,
                    execute=lambda say, show: library.execute(request, record, say=say, on_test=show),
                )
    except HarnessError as error:
        raise fail(error, as_json=as_json, schema=library.SCHEMA) from None
    raise typer.Exit(code)
