# SPDX-License-Identifier: Apache-2.0
"""`kernloop report --follow`: a console while it grows."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

from kernloop import runs
from kernloop.cli.output import err, escape, print_json
from kernloop.cli.report_decode import find_images
from kernloop.cli.report_object import print_crash, report_object
from kernloop.errors import UsageError
from kernloop.present.logs import Log, decode_crash
from kernloop.report.follow import follow

__all__ = ["watched"]


def watched(source: str, seconds: float, vmlinux: list[Path], as_json: bool) -> int:
    """Print each report of a file, a run or a VM as soon as it is complete. The exit status is 1 when there was one.

    It ends after so many seconds, by Ctrl-C, and with the run.
    """
    path, run = _console(source)
    live = f"until run {run.name} is over, " if run else ""
    err.print(f"kernloop: watching {escape(str(path))} {live}for {seconds:g} s at most; Ctrl-C ends it")
    found = False
    with contextlib.suppress(KeyboardInterrupt):
        for crash in follow(path, lambda: run is not None and not runs.is_live(run), seconds):
            found = True
            log = Log(str(path), path.read_bytes(), run)
            decoded = decode_crash(crash, log, find_images(log, vmlinux))
            if as_json:
                print_json(report_object(log, [(crash, decoded)], 1))
            else:
                print_crash(log, crash, decoded)
            sys.stdout.flush()
    return int(found)


def _console(source: str) -> tuple[Path, Path | None]:
    path = Path(source)
    if path.is_file():
        return path, None
    if source == "-":
        raise UsageError(
            "standard input cannot be watched", hint="give a file, a run or a VM; report - reads to its end"
        )
    run = _vm(source)
    if run is None:
        try:
            run = runs.find(source)
        except UsageError as error:
            hint = "kernloop runs list and kernloop vm list name them"
            raise UsageError(f"neither a file, a VM nor a run: {source}", hint=hint) from error
    return run / "console.log", run


def _vm(name: str) -> Path | None:
    from kernloop.vm import client  # asyncio and QMP come along

    with contextlib.suppress(UsageError):
        return client.find(name).run
    return None
