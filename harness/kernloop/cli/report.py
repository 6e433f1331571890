# SPDX-License-Identifier: Apache-2.0
"""`kernloop report`: what a console log tells of crashes, as one report an agent can act on."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from kernloop.cli import report_forms
from kernloop.cli.output import JsonFlag, fail, out, print_json
from kernloop.cli.report_decode import find_images
from kernloop.errors import HarnessError, UsageError
from kernloop.present import plain
from kernloop.present.account import place
from kernloop.present.decoded import decoded_lines
from kernloop.present.logs import Log, accounts, decode_crash, read, with_lines
from kernloop.present.text import printable
from kernloop.report.advice import Place, next_step
from kernloop.report.crash import Crash
from kernloop.report.scan import scan

if TYPE_CHECKING:
    from kernloop.report.symbols import Decoded

__all__ = ["report"]

_SCHEMA = "kernloop.report/1"
_PANIC = b"Kernel panic - not syncing"


def report(
    source: Annotated[
        str, typer.Argument(metavar="[FILE|-|RUN]", help="A console log, - for stdin, a run's id, or: last")
    ] = "-",
    batch: Annotated[
        bool, typer.Option("--batch", help="Take files and folders; one JSON line a file, about its first crash.")
    ] = False,
    paths: Annotated[list[str] | None, typer.Argument(metavar="[PATHS]...", help="More files, with --batch.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All crashes of the log, the first cause first.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the first for a mail or an issue.")] = False,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Also write the first to a page of its own.")
    ] = None,
    explain: Annotated[
        str, typer.Option("--explain", metavar="KIND", help="How such a report is read, what to do; no log needed.")
    ] = "",
    vmlinux: Annotated[
        list[Path] | None,
        typer.Option("--vmlinux", help="A vmlinux, .ko or folder of them: files and lines. A run knows its own."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Kernel crashes in a console log: kind, guilty function, title, fingerprint, evidence.

    Exit status: 0 no crash, 1 a crash was found, 2 bad input.
    """
    try:
        if explain:
            report_forms.told(explain, as_json)
            raise typer.Exit(0)
        if batch:
            raise typer.Exit(_batch([source, *(paths or [])], vmlinux or []))
        if paths:
            raise UsageError("several files", hint="give --batch for more than one file")
        log = read(source)
        images = find_images(log, vmlinux or [])
        first = next(iter(accounts(log)), None) if markdown or html else None
        first = with_lines(first, log, images) if first else None
        if first and html:
            report_forms.write_page(first, log.data, html)
        if first and markdown:
            report_forms.as_markdown(first)
            raise typer.Exit(1)
    except HarnessError as error:
        raise fail(error, as_json=as_json) from None
    name, data, where = log.name, log.data, place(log.run, log.name)
    crashes = list(scan(data))
    panicked = _PANIC in data
    if as_json and every:
        found = [_object(crash, crash.panicked, where, decode_crash(crash, log, images)) for crash in crashes]
        print_json({"schema": "kernloop.reports/1", "source": name, "panicked": panicked, "reports": found})
    elif as_json:
        crash = crashes[0] if crashes else None
        value = _object(crash, panicked, where, decode_crash(crash, log, images))
        print_json({"source": name, **value, "crashes": len(crashes)})
    else:
        shown = [(crash, decode_crash(crash, log, images)) for crash in (crashes if every else crashes[:1])]
        _show(name, shown, len(crashes), where)
    raise typer.Exit(1 if crashes else 0)


def _batch(sources: list[str], vmlinux: list[Path]) -> int:
    any_crash = False
    images = find_images(None, vmlinux)
    for path in _files(sources):
        log = Log(str(path), _bytes(path))
        first = next(scan(log.data), None)
        any_crash = any_crash or first is not None
        value = _object(first, _PANIC in log.data, None, decode_crash(first, log, images))
        line = json.dumps({"path": str(path), **value}, separators=(",", ":"))
        sys.stdout.write(line + "\n")
    return 1 if any_crash else 0


def _files(sources: list[str]) -> Iterator[Path]:
    for source in sources:
        path = Path(source)
        if path.is_dir():
            yield from sorted(file for file in path.iterdir() if file.is_file())
        elif path.is_file():
            yield path
        else:
            raise UsageError(f"no such file: {source}", hint="--batch takes console logs and folders of them")


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", hint="give a file that can be read") from error


def _object(crash: Crash | None, panicked: bool, where: Place | None, decoded: Decoded | None) -> dict[str, Any]:
    if crash is None:
        return {"schema": _SCHEMA, "kind": None, "panicked": panicked}
    return {
        "schema": _SCHEMA,
        "kind": crash.kind,
        "family": crash.family,
        "severity": crash.severity.value,
        "title": crash.title,
        "function": crash.function,
        "alt_titles": list(crash.alt_titles),
        "corrupted": bool(crash.corrupted),
        "reason": crash.corrupted or None,
        "panicked": panicked,
        "fingerprint": crash.fingerprint,
        "message": crash.message,
        "frames": [
            {
                "function": frame.function,
                "offset": frame.offset,
                "size": frame.size,
                "module": frame.module,
                "reliable": frame.reliable,
            }
            for frame in crash.frames
        ],
        "modules": list(crash.modules),
        "tainted": crash.tainted or None,
        "cpu": crash.cpu,
        "comm": crash.comm,
        "pid": crash.pid,
        "start": crash.start,
        "end": crash.end,
        "start_line": crash.start_line,
        "end_line": crash.end_line,
        "details": asdict(crash.details) if crash.details else None,
        "excerpt": list(crash.excerpt),
        "decoded": plain(decoded),
        "next": next_step(crash, where),
    }


def _above_trace(line: str) -> bool:
    return not line.strip().startswith("Call Trace:")


def _show(name: str, crashes: list[tuple[Crash, Decoded | None]], total: int, where: Place) -> None:
    if not crashes:
        out.print(f"no crash in {escape(name)}")
        return
    for crash, decoded in crashes:
        out.print(f"[bold red]{escape(crash.title)}[/]")
        at = f", function {crash.function}" if crash.function else ""
        out.print(f"  kind {crash.kind}{escape(at)}, fingerprint {crash.fingerprint}")
        who = f", CPU {crash.cpu}, {crash.comm}[{crash.pid}]" if crash.pid is not None else ""
        out.print(f"  {escape(name)} lines {crash.start_line} to {crash.end_line}{escape(who)}")
        if crash.corrupted:
            out.print(f"  [yellow]corrupted:[/] {escape(crash.corrupted)}")
        # The decoded trace stands for the console's.
        instead = decoded is not None and decoded.guilty is not None
        for line in takewhile(_above_trace, crash.excerpt) if instead else crash.excerpt:
            out.print(f"  | {escape(line)}")
        for line in decoded_lines(decoded) if decoded else ():
            out.print(f"  {escape(printable(line))}")
        out.print(f"  [bold]next:[/] {escape(next_step(crash, where))}")
    if total > len(crashes):
        out.print(f"{total - len(crashes)} more in this log: --all")
